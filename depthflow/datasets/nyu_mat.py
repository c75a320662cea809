"""NYU Depth v2's labelled set (Silberman et al. 2012, Indoor Segmentation and Support Inference from RGBD Images).

nyu_depth_v2_labeled.mat, 2.8 GB of HDF5 (MATLAB v7.3), whose arrays are MATLAB's with their axes reversed:

    images   1449 x 3 x 640 x 480 uint8
    depths   1449 x 640 x 480 float32, metres along the optical axis, in-filled
    scenes   1449 references to names such as kitchen_0004, uint16 characters

It is read in place, one image at a time, so it must lie unpacked: of an archive, one reject says so. All frames belong
to train; the official division is another file, splits.mat.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from depthflow.datasets.camera import Camera
from depthflow.datasets.frames import DepthEncoding, Frame, frame_id
from depthflow.datasets.listing import Listing, SourceFile, printable
from depthflow.datasets.reject import RejectError
from depthflow.errors import SourceError

CAMERA = Camera(
    width=640, height=480, fx_px=518.857901, fy_px=519.469611, cx_px=325.582449 - 0.5, cy_px=253.736166 - 0.5
)
"""The image's camera of the set's toolbox (camera_params.m), which calls the first pixel's centre 1; here it is 0.5."""

_NAME = re.compile(r".*nyu.*\.mat", re.IGNORECASE | re.DOTALL)
_LETTER = re.compile(r"(?<=_\d{4})[a-z]$")
"""Ends the names of a scene that was recorded more than once: kitchen_0028a and kitchen_0028b show one place."""


def fits(listing: Listing) -> bool:
    """Returns whether any file is a .mat named after NYU."""
    return any(_NAME.fullmatch(file.name) for file in listing.files)


def frames(listing: Listing) -> Iterator[Frame]:
    """Yields the frames of every .mat named after NYU or, if there is none, of every .mat.

    Raises:
        SourceError: if one is not the labelled set.
    """
    from depthflow.datasets.archive import is_archive  # --help lists the layouts, and must not wait for libraries.

    in_archive = is_archive(listing.location)
    files = [file for file in listing.files if file.name.lower().endswith(".mat")]
    for file in [file for file in files if _NAME.fullmatch(file.name)] or files:
        if not in_archive:
            names = _scene_names(file)
            yield from (_frame(file, number, name, listing.camera) for number, name in enumerate(names))
        else:
            yield Frame(
                sample_id=frame_id("nyu_mat", printable(file.name)),
                split="train",
                scene_type="indoors",
                scene="",
                scan="",
                members={},
                dataset="nyu_mat",
                problem=f"{file.path} cannot be read within an archive: unpack it, and pass its folder as --source",
                reason="packed_hdf5",
            )


def _frame(file: SourceFile, number: int, scan: str, camera: Camera | None) -> Frame:
    return Frame(
        sample_id=frame_id("nyu_mat", scan, f"{number + 1:04d}"),
        split="train",
        scene_type="indoors",
        scene=_LETTER.sub("", scan),
        scan=scan,
        members={"rgb": f"{file.place}#images[{number}].T", "depth": f"{file.place}#depths[{number}].T"},
        dataset="nyu_mat",
        encoding=DepthEncoding(),
        camera=camera or CAMERA,
    )


def _scene_names(file: SourceFile) -> list[str]:
    """Returns the name of each frame's scene.

    Raises:
        SourceError: if the file cannot be read or lacks something.
    """
    from depthflow.datasets.hdf5_file import open_hdf5, plain_dataset, readable

    try:
        with readable(file.place), open_hdf5(file.place) as opened:
            images, depths = (plain_dataset(opened, name).shape for name in ("images", "depths"))
            mat: Any = opened
            references = _values(mat["scenes"], at_most=depths[0])
            if images != (len(references), 3, *depths[1:]):
                what = f"images {images}, depths {depths} and {len(references)} scenes differ"
                raise RejectError("wrong_shape", what)
            return [printable("".join(map(chr, _values(mat[name], at_most=256)))) for name in references]
    except (RejectError, OSError) as error:
        what = error.message if isinstance(error, RejectError) else error.strerror or "it is gone"
        raise SourceError(
            f"{file.place} cannot be read as NYU Depth v2's labelled set: {what}. Fetch the file again, or "
            "remove the file."
        ) from None


def _values(dataset: Any, *, at_most: int) -> Sequence[Any]:
    if dataset.size > at_most:  # Any other array of the file is larger.
        raise RejectError("wrong_shape", f"{dataset.name} has {dataset.size} elements, more than {at_most}")
    return dataset[()].reshape(-1)
