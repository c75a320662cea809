"""Flags of evaluate.py."""

from depthflow.config.flags import flags
from depthflow.config.resources import PoolConfig
from depthflow.config.split import Split


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
    protocol: str = "devkit"
    """Names all that moves a number: mask, cap, alignment, resolution, averaging."""
    split: Split = "val"
    """The split to evaluate."""
    out: str | None = None
    """Folder, s3:// or gs:// URI for report.html and images.csv. Default: they go to the MLflow run alone."""
    experiment: str = "depthflow"
    """MLflow experiment of the evaluation's run."""
