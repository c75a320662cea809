"""Flags of demo.py."""

from depthflow.config.checks import require_folder, require_positive
from depthflow.config.flags import flags
from depthflow.config.resources import RayConfig


@flags
class DemoConfig(RayConfig):
    """The whole chain on a mini-DIODE, or on your own tree."""

    source: str | None = None
    """A tree in DIODE's layout. Default: a mini-DIODE is synthesized."""
    out: str = "demo-out"
    """Folder for everything the demo makes; a demo's earlier output there is replaced."""
    num_workers: int = 2
    """Training workers."""
    epochs: int | None = None
    """Passes over the training split. Default: chosen so that the demo takes about as long on any source."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_folder(out=self.out)
        require_positive(num_workers=self.num_workers, epochs=self.epochs)
