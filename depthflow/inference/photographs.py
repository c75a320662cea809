"""Finding and reading people's photographs."""

from pathlib import Path

import numpy as np

from depthflow.diode.triplet import decode_rgb
from depthflow.errors import SourceError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def find_photographs(images: tuple[str, ...]) -> list[str]:
    """Absolute paths of photographs: files as they are, folders searched for known suffixes.

    Raises:
        SourceError: if a path does not exist, or a folder holds no photograph.
    """
    found: list[str] = []
    for image in images:
        path = Path(image).absolute()
        if path.is_dir():
            inside = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise SourceError(f"The folder {image} holds no photograph ({' '.join(sorted(SUFFIXES))}).")
            found.extend(inside)
        elif path.is_file():
            found.append(str(path))
        else:
            raise SourceError(f"There is no photograph {image}. Pass --images files or folders.")
    return list(dict.fromkeys(found))


def read_photograph(path: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Raises:
        RejectError: empty_file or unreadable_image.
    """
    return decode_rgb(Path(path).read_bytes())
