"""SUN RGB-D's layout (Song et al. 2015, "SUN RGB-D: A RGB-D scene understanding benchmark suite", CVPR).

SENSOR/SET/[RECORDING/...]SAMPLE/
    image/*.jpg        one image
    depth/*.png        its depth as measured: uint16 whose bits are rotated by three, (v >> 3 | v << 13) = millimetres,
                       0 = none
    depth_bfx/*.png    the same with its holes filled by the authors: not read, as what fills them is a guess
    intrinsics.txt     the image's 3 x 3 matrix, on three lines or one; the size of the image is not stated
    scene.txt          the kind of room, such as bathroom
    extrinsics/*.txt   rotation against gravity: not read, as it is no pose in a world

A sample does not name its room. Those of one set and one kind of room make a scene, so no room is divided; the
samples of one folder make a scan. Without a scene.txt, the folder is the scene.
"""

from collections.abc import Iterator, Mapping

from depthflow.datasets.folders import IMAGE_ENDINGS, by_stem, make_frame, parents_of, rooted, split_of
from depthflow.datasets.frames import DepthEncoding, Frame, frame_id
from depthflow.datasets.intrinsics import matrix_camera
from depthflow.datasets.listing import Listing, SourceFile, printable
from depthflow.datasets.text_files import where

_SENSORS = ("kv1", "kv2", "realsense", "xtion")
_INTRINSICS, _SCENE = "intrinsics.txt", "scene.txt"
_ENCODING = DepthEncoding(units_per_m=1000, packing="sun_rgbd")


def fits(listing: Listing) -> bool:
    """Returns whether any folder holds intrinsics.txt, an image/ and a depth/ or depth_bfx/."""
    return any(
        _INTRINSICS in files
        and listing.files_in(folder, "image")
        and (listing.files_in(folder, "depth") or listing.files_in(folder, "depth_bfx"))
        for folder, files in listing.folders.items()
    )


def frames(listing: Listing) -> Iterator[Frame]:
    """Yields the samples of a source, those without an image or a depth included."""
    samples = parents_of(listing, "image", "depth")
    texts: dict[str, dict[str, str]] = {}
    for name in (_INTRINSICS, _SCENE):
        files = {sample: file for sample in samples if (file := listing.files_in(sample).get(name))}
        texts[name] = dict(zip(files, listing.texts(files.values()), strict=True))
    for sample in samples:
        yield _frame(listing, sample, texts[_INTRINSICS].get(sample), texts[_SCENE].get(sample, "").strip())


def _frame(listing: Listing, sample: str, intrinsics: str | None, room: str) -> Frame:
    camera = listing.camera
    if intrinsics is not None:
        camera = matrix_camera(intrinsics, place=where(listing, listing.files_in(sample)[_INTRINSICS]))
    images = by_stem(listing.files_in(sample, "image"), IMAGE_ENDINGS)
    depths = by_stem(listing.files_in(sample, "depth"), (".png",))
    several = len(images) > 1 or len(depths) > 1
    problem = f"{sample} has {len(images)} images and {len(depths)} depth maps, not one of each"
    path = rooted(listing, sample).split("/")
    first = next((place for place, part in enumerate(path) if part in _SENSORS), 0)
    scan, name = "/".join(path[first:-1]) or path[-1], path[-1]
    return make_frame(
        {"rgb": _first(images), "depth": _first(depths)},
        problem=problem if several else "",
        reason="bad_name" if several else "",
        sample_id=frame_id("sun_rgbd", scan, name),
        split=split_of("/".join(path)),
        scene="/".join([*scan.split("/")[:2], printable(room)]) if room else scan,
        scan=scan,
        dataset="sun_rgbd",
        encoding=_ENCODING,
        camera=camera,
    )


def _first(files: Mapping[str, SourceFile]) -> SourceFile | None:
    return next(iter(files.values()), None)
