"""Write ray-cast rooms and streets with exact depth: images, stereo, or video."""

import sys
from pathlib import Path
from typing import Any

from depthflow.command import run_command
from depthflow.errors import SourceError
from depthflow.observability.progress import ProgressLine
from depthflow.synthetic.config import SynthesizeConfig
from depthflow.synthetic.synthesize import synthesize


def main(config: SynthesizeConfig) -> dict[str, Any]:
    """Writes the frames and returns the number of samples."""
    try:
        samples = synthesize(
            out=Path(config.out),
            scans=config.scans,
            samples_per_scan=config.samples_per_scan,
            height=config.height,
            width=config.width,
            seed=config.seed,
            kind=config.kind,
            baseline_m=config.baseline_m,
            moving_objects=config.moving_objects,
            progress=ProgressLine("views"),
        )
    except OSError as error:
        if isinstance(error, FileExistsError) and error.errno is None:  # Raised by depthflow: the folder is not empty.
            raise SourceError(f"--{error}") from None
        raise SourceError(  # NumPy gives no number and no text of it if the disk is full.
            f"{error.filename or config.out} cannot be written: {error.strerror or error}. Check --out, its "
            "permissions and the free space."
        ) from None
    return {"samples": samples, "out": str(Path(config.out).absolute())}


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
