"""The layouts that frames may lie in: how each is recognised, and how it becomes frames."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from depthflow.datasets import (
    arkitscenes,
    diode,
    hypersim,
    kitti,
    kitti_stereo,
    middlebury,
    nyu_mat,
    photos,
    record3d,
    redwood,
    scannet,
    seven_scenes,
    sun_rgbd,
    table,
    tum,
)
from depthflow.datasets.frame_table import DEPTH_FRAME, frame_table
from depthflow.datasets.frames import Frame
from depthflow.datasets.listing import Listing
from depthflow.errors import SourceError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout of frames.

    Attributes:
        help: What it looks like, in a few words.
        fits: Returns whether a source looks like it.
        frames: Returns the frames of a source, those that cannot become samples included, one by one or as
            `FRAME_SCHEMA`.
    """

    help: str
    fits: Callable[[Listing], bool]
    frames: Callable[[Listing], Iterable[Frame] | pa.Table]


class _Module(Protocol):
    """A module of a layout; see `Layout`."""

    def fits(self, listing: Listing) -> bool: ...

    def frames(self, listing: Listing) -> Iterable[Frame] | pa.Table: ...


def _layout(module: _Module, help: str) -> Layout:
    return Layout(help=help, fits=module.fits, frames=module.frames)


LAYOUTS: dict[str, Layout] = {
    "diode": _layout(diode, "{train,val}/{indoors,outdoor}/scene_SSSSS/scan_NNNNN/*{.png,_depth.npy,_depth_mask.npy}"),
    "table": _layout(table, "your own table: frames.csv or frames.parquet with a row per frame"),
    "tum": _layout(tum, "SCAN/{rgb.txt,depth.txt,groundtruth.txt}, lists of times and paths"),
    "seven_scenes": _layout(seven_scenes, "SCENE/seq-NN/frame-NNNNNN.{color.png,depth.png,pose.txt}"),
    "redwood": _layout(redwood, "SCAN/{color/NNNNN.jpg,depth/NNNNN.png,trajectory.log}, also Open3D's"),
    "scannet": _layout(scannet, "sceneNNNN_NN/{color/N.jpg,depth/N.png,pose/N.txt,intrinsic/*.txt}"),
    "kitti": _layout(
        kitti, "DATE/DRIVE/image_0{2,3}/data/*.png and {train,val}/DRIVE/proj_depth/groundtruth/image_0{2,3}/*.png"
    ),
    "sun_rgbd": _layout(sun_rgbd, "SENSOR/SET/SAMPLE/{image/*.jpg,depth/*.png,intrinsics.txt,scene.txt}"),
    "arkitscenes": _layout(arkitscenes, "{Training,Validation}/VIDEO/{lowres_wide,lowres_depth,confidence}/*.png"),
    "record3d": _layout(record3d, "NAME/EXR_RGBD/{rgb/N.jpg,depth/N.exr,metadata.json}"),
    "hypersim": _layout(
        hypersim, "ai_VVV_NNN/images/scene_cam_XX_{final_preview/*.jpg,geometry_hdf5/*.depth_meters.hdf5}"
    ),
    "nyu_mat": _layout(nyu_mat, "nyu_depth_v2_labeled.mat, unpacked"),
    "middlebury": _layout(middlebury, "SCENE/{im0.png,im1.png,calib.txt,disp0.pfm}, of 2003 SCENE/{im2,im6,disp2}.png"),
    "kitti_stereo": _layout(
        kitti_stereo, "SET/{image_2,image_3,disp_occ_0}/*.png, calib_cam_to_cam, calib or calib.txt"
    ),
    "photos": Layout(
        help="FOLDER/*.jpg, images without depth, for --kind video",
        fits=lambda listing: photos.fits(listing) and not _fitting(listing),
        frames=photos.frames,
    ),
}
"""Layouts by the names that --layout takes."""


def _fitting(listing: Listing) -> list[str]:
    """Returns the layouts that a source fits besides photos, which any images may."""
    return [name for name, layout in LAYOUTS.items() if name != "photos" and layout.fits(listing)]


def recognised(listing: Listing, *, needed: Collection[str] = DEPTH_FRAME) -> str:
    """Returns the name of the only layout that a source fits; DIODE's if it fits none.

    Args:
        needed: Members that a frame must have to become a sample. If depth is one, images alone fit none.

    Raises:
        SourceError: if it fits several.
    """
    fitting = _fitting(listing)
    if not fitting and "depth" not in needed and photos.fits(listing):
        return "photos"
    if len(fitting) > 1:
        raise SourceError(
            f"{listing.location} fits several layouts: {', '.join(fitting)}. Pass --layout with one of them, or "
            "each of its folders as a source of its own."
        )
    return fitting[0] if fitting else "diode"


def find_frames(
    listing: Listing, layout: str, splits: tuple[str, ...], *, needed: Collection[str] = DEPTH_FRAME
) -> pa.Table:
    """Returns the frames of a source that belong to some splits, as `FRAME_SCHEMA`.

    Args:
        needed: Members that a frame must have to become a sample.

    Raises:
        SourceError: if there is none.
    """
    frames = table.frames(listing, needed=needed) if layout == "table" else LAYOUTS[layout].frames(listing)
    every: Any = frames if isinstance(frames, pa.Table) else frame_table(frames, depth_needed="depth" in needed)
    found = _scenes_by_data_set(every.filter(pc.is_in(every["split"], pa.array(splits))))
    if not found.num_rows:
        if not _fitting(listing):
            raise SourceError(
                f"The source {listing.location} holds no sample of {' or '.join(splits)}: its "
                f"{len(listing.files):,} files fit no layout of {', '.join(LAYOUTS)}. "
                "Pass the folder or archive that holds them or your own table "
                "(frames.csv), and see --layout and --splits."
            )
        raise SourceError(
            f"The source {listing.location} holds no sample of {' or '.join(splits)} in {layout.upper()}'s layout, "
            f"{LAYOUTS[layout].help}. Pass the folder or archive that holds them, and see --layout and --splits."
        )
    return found


def _scenes_by_data_set(frames: pa.Table) -> pa.Table:
    """Returns the frames with scenes named by data set, as in tum/freiburg1_desk; DIODE's keep their own names."""
    scenes = frames["scene"]
    for dataset in pc.unique(frames["dataset"]).to_pylist():
        own = pc.equal(frames["dataset"], dataset)
        bare = pc.and_(own, pc.invert(pc.starts_with(scenes, f"{dataset}/")))
        if dataset != "diode":
            scenes = pc.if_else(bare, pc.binary_join_element_wise(dataset, scenes, "/"), scenes)
    return frames.set_column(frames.schema.get_field_index("scene"), "scene", scenes)
