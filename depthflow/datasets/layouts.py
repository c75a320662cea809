"""The layouts that frames may lie in: how each is recognised, and how it becomes frames."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from depthflow.datasets import diode, hypersim, nyu_mat
from depthflow.datasets.frames import Frame
from depthflow.datasets.listing import Listing
from depthflow.errors import SourceError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout of frames.

    Attributes:
        help: What it looks like, in a few words.
        fits: Returns whether a source looks like it.
        frames: Returns the frames of a source, those that cannot become samples included.
    """

    help: str
    fits: Callable[[Listing], bool]
    frames: Callable[[Listing], Iterable[Frame]]


LAYOUTS: dict[str, Layout] = {
    "diode": Layout(
        help="{train,val}/{indoors,outdoor}/scene_SSSSS/scan_NNNNN/*{.png,_depth.npy,_depth_mask.npy}",
        fits=diode.fits,
        frames=diode.frames,
    ),
    "hypersim": Layout(
        help="ai_VVV_NNN/images/scene_cam_XX_{final_preview/*.jpg,geometry_hdf5/*.depth_meters.hdf5}",
        fits=hypersim.fits,
        frames=hypersim.frames,
    ),
    "nyu_mat": Layout(
        help="nyu_depth_v2_labeled.mat, unpacked",
        fits=nyu_mat.fits,
        frames=nyu_mat.frames,
    ),
}
"""Layouts by the names that --layout takes."""


def recognised(listing: Listing) -> str:
    """Returns the name of the only layout that a source fits; DIODE's if it fits none.

    Raises:
        SourceError: if it fits several.
    """
    fitting = [name for name, layout in LAYOUTS.items() if layout.fits(listing)]
    if len(fitting) > 1:
        raise SourceError(
            f"{listing.location} fits several layouts: {', '.join(fitting)}. Pass --layout with one of them."
        )
    return fitting[0] if fitting else "diode"


def find_frames(listing: Listing, layout: str, splits: tuple[str, ...]) -> list[Frame]:
    """Returns the frames of a source that belong to some splits.

    Raises:
        SourceError: if there is none.
    """
    found = [frame for frame in LAYOUTS[layout].frames(listing) if frame.split in splits]
    if not found:
        raise SourceError(
            f"The source {listing.location} holds no sample of {' or '.join(splits)} in {layout.upper()}'s layout, "
            f"{LAYOUTS[layout].help}. Pass the folder or archive that holds them, and see --layout and --splits."
        )
    return found
