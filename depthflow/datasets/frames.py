"""A frame: a row of the frame table, which every layout makes of a source and which is all that preprocess knows."""

from dataclasses import dataclass, field
from typing import Any, Literal

from depthflow.datasets.camera import Camera, Intrinsics

SPLITS = ("train", "val")
SCENE_TYPES = ("indoors", "outdoor")
DepthKind = Literal["planar", "ray", "disparity"]
DepthPacking = Literal["plain", "sun_rgbd"]


@dataclass(frozen=True, kw_only=True)
class DepthEncoding:
    """How the values of a depth file become metres.

    Attributes:
        units_per_m: Units per metre: 1 for metres, 1000 for millimetres.
        invalid: Values that mean no depth. Values that are not finite and above 0 never are one.
        kind: planar is depth along the optical axis. ray is the distance along each pixel's ray, which needs a camera.
            disparity is that of a rectified pair in pixels of the image: units_per_m is units per pixel, and depth is
            fx x baseline / (disparity + right cx - cx).
        packing: sun_rgbd: the bits of 16-bit values are rotated by three, as in SUN RGB-D.
        min_confidence: Lowest accepted value of the confidence file.
    """

    units_per_m: float = 1.0
    invalid: tuple[float, ...] = ()
    kind: DepthKind = "planar"
    packing: DepthPacking = "plain"
    min_confidence: float | None = None


@dataclass(frozen=True, kw_only=True)
class Frame:
    """An image with its depth.

    Attributes:
        sample_id: Unique in a store, such as 00022_00193_indoors_010_000 or
            tum/freiburg1/freiburg1_desk/1305031102.175304; see `frame_id`.
        split, scene_type, scene, scan: Where it belongs; frames of one scene are never divided between splits.
        members: Where the source keeps image, depth, mask and confidence, as far as they exist, under the names rgb,
            depth, mask and confidence, and the images of further views of the scene: right, the other image of a
            rectified pair; previous and next, frames of the same video. They are the places of its `SourceFile`s. Only
            the source's own reader interprets them:
            a path, a URI or an array of an HDF5 file (see `depthflow.datasets.hdf5_file`) in a tree, and
            NAME@OFFSET+SIZE in an archive.
        required: The members without which there is no sample.
        dataset: Name of the data set.
        time_s: When it was taken, in seconds from any origin; None if unknown.
        encoding: How the depth file's values become metres.
        camera: Camera of the image; None if unknown.
        depth_camera: Camera of the depth map where its field of view is not the image's.
        pose: Camera to world, 4 x 4, row by row, in metres; None if unknown.
        previous_pose, next_pose: Those of the frames previous and next.
        previous_camera, next_camera: Their fx_px, fy_px, cx_px, cy_px at the resolution of `camera`, if these differ.
        baseline_m: Distance of the right image's camera along the x axis of the image's.
        right_cx_px: Principal point of the right image where it is not cx_px of `camera`, at the same resolution.
        problem: Why it cannot be a sample, or empty. Without a reason, why it lacks a required member.
        reason: Code of the problem, such as bad_name or missing_member.
    """

    sample_id: str
    split: str
    scene_type: str
    scene: str
    scan: str
    members: dict[str, Any]
    required: tuple[str, ...] = ("rgb", "depth")
    dataset: str = "diode"
    time_s: float | None = None
    encoding: DepthEncoding = field(default_factory=DepthEncoding)
    camera: Camera | Intrinsics | None = None
    depth_camera: Camera | None = None
    pose: tuple[float, ...] | None = None
    previous_pose: tuple[float, ...] | None = None
    next_pose: tuple[float, ...] | None = None
    previous_camera: tuple[float, ...] | None = None
    next_camera: tuple[float, ...] | None = None
    baseline_m: float | None = None
    right_cx_px: float | None = None
    problem: str = ""
    reason: str = ""


def frame_id(dataset: str, *parts: str) -> str:
    """Returns the sample id of a frame of any data set but DIODE: data set, scene, scan and name, once each."""
    return "/".join(dict.fromkeys(part for part in (dataset, *parts) if part))
