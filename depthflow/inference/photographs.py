"""Finding and reading people's photographs."""

from pathlib import Path

import numpy as np

from depthflow.diode.triplet import RejectError, decode_rgb
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
            inside = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.is_dir())
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
        RejectError: unreadable_file, empty_file or unreadable_image.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise RejectError("unreadable_file", f"the file cannot be read: {error.strerror}") from None
    return decode_rgb(content)
