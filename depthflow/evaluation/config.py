"""Flags of evaluate.py and promote.py."""

from typing import Annotated

from depthflow.evaluation.protocols import PROTOCOLS
from depthflow.flags import PoolConfig, Split, flag_help, flags, require, require_model_name

ProtocolName = Annotated[
    str,
    flag_help(
        f"Fixes everything that affects a metric: mask, cap, alignment, resolution. One of: {', '.join(PROTOCOLS)}."
    ),
]
"""`find_protocol` rejects other names."""


@flags
class EvaluationConfig(PoolConfig):
    """Options of every command that evaluates."""

    protocol: ProtocolName = "devkit"
    """A name in `depthflow.evaluation.protocols.PROTOCOLS`."""
    split: Split = "val"
    """Split to evaluate."""


@flags
class EvaluateConfig(EvaluationConfig):
    """Evaluates a model under a named protocol, beside the mean-depth baseline."""

    model: str
    """MLflow model URI: models:/NAME@champion, models:/NAME/3, runs:/..., a folder, what export.py wrote,
    depth-anything-v2-small, or depth-anything:PLACE, a folder or name on the Hugging Face hub of any Depth Anything."""
    compare: tuple[str, ...] = ()
    """Other models to evaluate in the same pass and show in the same report."""
    samples: str
    """Sample store. Protocols at the source's resolution reject a store that was resized."""
    out: str | None = None
    """Folder, s3:// or gs:// URI for report.html and images.csv. Default: only the MLflow run gets them."""
    experiment: str = "depthflow"
    """MLflow experiment to log the evaluation to."""


@flags
class PromoteConfig(EvaluationConfig):
    """Compares challenger and champion, and moves the alias only if the challenger is better."""

    model_name: str = "depthflow"
    """Registered model."""
    samples: str | None = None
    """Sample store to evaluate both on. Required unless --rollback or --history."""
    margin: float = 0.01
    """Fraction by which the challenger's abs_rel must be lower than the champion's."""
    tolerance: float = 0.05
    """Fraction by which its abs_rel may be higher on one scene type."""
    confidence: float = 0.95
    """Confidence that its abs_rel is lower at all, by a paired bootstrap over images."""
    max_latency_ratio: float = 2.0
    """Largest ratio of the challenger's time per image to the champion's."""
    dry_run: bool = False
    """Decide and print, without moving the alias or recording the decision."""
    force: bool = False
    """Promote whatever the metrics say. Requires --reason."""
    rollback: bool = False
    """Move the alias back to the previous champion."""
    history: bool = False
    """Print every decision so far and exit: who, when, what and why."""
    reason: str = ""
    """Reason to record."""
    experiment: str = "depthflow-promotions"
    """MLflow experiment that holds the decisions, one run per decision."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_model_name(self.model_name)
        require(not self.force or bool(self.reason), "--force needs --reason TEXT: the record says why. Received: none")
        alone = [f"--{flag}" for flag in ("force", "rollback", "history") if getattr(self, flag)]
        require(len(alone) < 2, f"--force, --rollback and --history exclude each other. Received: {' '.join(alone)}")
        require(
            self.rollback or self.history or bool(self.samples),
            "--samples STORE is needed to compare models. Received: none",
        )
        require(self.margin >= 0, f"--margin must not be negative. Received: {self.margin}")
        require(self.tolerance >= 0, f"--tolerance must not be negative. Received: {self.tolerance}")
        require(0 < self.confidence < 1, f"--confidence must be above 0 and below 1. Received: {self.confidence}")
        require(self.max_latency_ratio > 0, f"--max-latency-ratio must be positive. Received: {self.max_latency_ratio}")
