"""Flags of demo.py."""

from depthflow.flags import RayConfig, flags, require_folder, require_positive


@flags
class DemoConfig(RayConfig):
    """Runs the whole chain on a mini-DIODE, or on your own frames."""

    source: str | None = None
    """Folder of frames in any layout, or a table of them. Default: synthesize a mini-DIODE."""
    out: str = "demo-out"
    """Folder for everything the demo writes. Output of an earlier demo is replaced."""
    num_workers: int = 2
    """Number of training workers."""
    epochs: int | None = None
    """Number of epochs. Default: chosen so that the demo takes about as long on any source."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_folder(out=self.out)
        require_positive(num_workers=self.num_workers, epochs=self.epochs)
