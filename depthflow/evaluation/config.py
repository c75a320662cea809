"""Flags of evaluate.py and promote.py."""

from typing import Annotated

from depthflow.evaluation.protocols import PROTOCOLS
from depthflow.flags import PoolConfig, Split, flag_help, flags, require

ProtocolName = Annotated[
    str,
    flag_help(f"Names all that moves a number: mask, cap, alignment, resolution. One of: {', '.join(PROTOCOLS)}."),
]
"""Other names are refused by `find_protocol`."""


@flags
class EvaluateConfig(PoolConfig):
    """A model's figures under a named protocol, beside the mean-depth baseline's."""

    model: str
    """MLflow model URI: models:/NAME@champion, models:/NAME/3, runs:/..., or a folder; or depth-anything-v2-small, or
    depth-anything:FOLDER."""
    compare: tuple[str, ...] = ()
    """Other models, evaluated beside it and shown in the same report."""
    samples: str
    """The sample store; a protocol at the source's resolution refuses one that was resized."""
    protocol: ProtocolName = "devkit"
    """A name in `depthflow.evaluation.protocols.PROTOCOLS`."""
    split: Split = "val"
    """The split to evaluate."""
    out: str | None = None
    """Folder, s3:// or gs:// URI for report.html and images.csv. Default: they go to the MLflow run alone."""
    experiment: str = "depthflow"
    """MLflow experiment of the evaluation's run."""


@flags
class PromoteConfig(PoolConfig):
    """Champion against challenger, and the alias only if the challenger is better."""

    model_name: str = "depthflow"
    """Registered model."""
    samples: str | None = None
    """The sample store both are evaluated on; needed unless --rollback."""
    protocol: ProtocolName = "devkit"
    """A name in `depthflow.evaluation.protocols.PROTOCOLS`."""
    split: Split = "val"
    """Split of the comparison."""
    margin: float = 0.01
    """Share by which the challenger's abs_rel must be lower than the champion's."""
    tolerance: float = 0.05
    """Share by which its abs_rel may be higher on one scene type."""
    confidence: float = 0.95
    """With which its abs_rel must be lower at all, by a paired bootstrap over images: luck promotes nothing."""
    max_latency_ratio: float = 2.0
    """How many times as long as the champion the challenger may take for an image."""
    dry_run: bool = False
    """Decide and print; move and record nothing."""
    force: bool = False
    """Promote whatever the figures say; needs --reason."""
    rollback: bool = False
    """Give the alias back to the champion before this one."""
    history: bool = False
    """Only print every decision so far: who, when, what and why."""
    reason: str = ""
    """Why, for the record."""
    experiment: str = "depthflow-promotions"
    """MLflow experiment that holds the decisions, one run each."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
