"""The layouts that frames may lie in: how each is recognised, and how it becomes frames."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from depthflow.datasets import arkitscenes, diode, kitti, record3d, sun_rgbd
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
    "kitti": Layout(
        help="DATE/DRIVE/image_0{2,3}/data/*.png and {train,val}/DRIVE/proj_depth/groundtruth/image_0{2,3}/*.png",
        fits=kitti.fits,
        frames=kitti.frames,
    ),
    "sun_rgbd": Layout(
        help="SENSOR/SET/SAMPLE/{image/*.jpg,depth/*.png,intrinsics.txt,scene.txt}",
        fits=sun_rgbd.fits,
        frames=sun_rgbd.frames,
    ),
    "arkitscenes": Layout(
        help="{Training,Validation}/VIDEO/{lowres_wide,lowres_depth,confidence}/*.png",
        fits=arkitscenes.fits,
        frames=arkitscenes.frames,
    ),
    "record3d": Layout(
        help="NAME/EXR_RGBD/{rgb/N.jpg,depth/N.exr,metadata.json}",
        fits=record3d.fits,
        frames=record3d.frames,
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
