"""The layouts that frames may lie in: how each is recognised, and how it becomes frames."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from depthflow.datasets import (
    arkitscenes,
    diode,
    hypersim,
    kitti,
    nyu_mat,
    record3d,
    redwood,
    scannet,
    seven_scenes,
    sun_rgbd,
    table,
    tum,
)
from depthflow.datasets.frame_table import frame_table
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


LAYOUTS: dict[str, Layout] = {
    "diode": Layout(
        help="{train,val}/{indoors,outdoor}/scene_SSSSS/scan_NNNNN/*{.png,_depth.npy,_depth_mask.npy}",
        fits=diode.fits,
        frames=diode.frames,
    ),
    "table": Layout(
        help="your own table: frames.csv or frames.parquet with a row per frame",
        fits=table.fits,
        frames=table.frames,
    ),
    "tum": Layout(
        help="SCAN/{rgb.txt,depth.txt,groundtruth.txt}, lists of times and paths",
        fits=tum.fits,
        frames=tum.frames,
    ),
    "seven_scenes": Layout(
        help="SCENE/seq-NN/frame-NNNNNN.{color.png,depth.png,pose.txt}",
        fits=seven_scenes.fits,
        frames=seven_scenes.frames,
    ),
    "redwood": Layout(
        help="SCAN/{color/NNNNN.jpg,depth/NNNNN.png,trajectory.log}, also Open3D's",
        fits=redwood.fits,
        frames=redwood.frames,
    ),
    "scannet": Layout(
        help="sceneNNNN_NN/{color/N.jpg,depth/N.png,pose/N.txt,intrinsic/*.txt}",
        fits=scannet.fits,
        frames=scannet.frames,
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
            f"{listing.location} fits several layouts: {', '.join(fitting)}. Pass --layout with one of them, or "
            "each of its folders as a source of its own."
        )
    return fitting[0] if fitting else "diode"


def find_frames(listing: Listing, layout: str, splits: tuple[str, ...]) -> pa.Table:
    """Returns the frames of a source that belong to some splits, as `FRAME_SCHEMA`.

    Raises:
        SourceError: if there is none.
    """
    frames = LAYOUTS[layout].frames(listing)
    every: Any = frames if isinstance(frames, pa.Table) else frame_table(frames)
    found = _scenes_by_data_set(every.filter(pc.is_in(every["split"], pa.array(splits))))
    if not found.num_rows:
        if not any(one.fits(listing) for one in LAYOUTS.values()):
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
