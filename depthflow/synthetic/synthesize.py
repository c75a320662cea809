"""Mini-DIODE: a procedurally generated data set in DIODE's exact layout, for tests, demos and CI.

Rooms (`indoors`, depths 0.6 to 12 m) and streets (`outdoor`, 0.6 to 200 m) are ray-cast with textures,
lamps, shadows and haze, so that depth can be learnt from the picture as it is from photographs: by
perspective, the grain of textures of known size, height in the picture, shading. Colours are random per
scene and say nothing about depth.

Depth is z-depth: the distance along the optical axis (camera forward), taken as DIODE's convention for its
crops, not the length of the ray. It is exact at pixel centres wherever the mask is 1. Where the mask is 0
(sky, out of range, grazing incidence, glass, a few lost beams) the depth is garbage, as a laser leaves it:
0, NaN, inf, huge and negative.

Rectified pairs and walks through the same scenes are written as a frame table, with cameras and exact poses.
"""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import cv2
import numpy as np

from depthflow.datasets.camera import CAMERA_FILE, DIODE_CAMERA, Camera
from depthflow.synthetic.scenes import Scene, room_scene, street_scene
from depthflow.synthetic.views import (
    EXPOSURE_LEVELS,
    AutoExposure,
    View,
    develop,
    render,
    render_from,
    see,
    shade,
)
from depthflow.synthetic.walks import FRAMES_PER_S, walk

LEAST_SIZE_PX = 16
MOST_SAMPLES_PER_SCAN = 10_000
SCANS_TO_PAIR = 16
TABLE = "frames.csv"
Kind = Literal["depth", "stereo", "video"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """Where one scan goes: `split/scene_type/scene_SSSSS/scan_NNNNN`."""

    split: Literal["train", "val"]
    scene_type: Literal["indoors", "outdoor"]
    scene: int
    scan: int

    @property
    def folder(self) -> pathlib.PurePosixPath:
        """The scan's folder in the tree."""
        return pathlib.PurePosixPath(self.split, self.scene_type, f"scene_{self.scene:05d}", f"scan_{self.scan:05d}")

    def stem(self, view: int) -> str:
        """The name of a view's three files, without their endings: pan AAA is view x 10, tilt BBB is 000.

        From the hundredth view on pan starts anew and tilt grows by 10, so that both keep three digits.
        """
        tilt, pan = divmod(view, 100)
        return f"{self.scene:05d}_{self.scan:05d}_{self.scene_type}_{pan * 10:03d}_{tilt * 10:03d}"


def synthesize(
    *,
    out: pathlib.Path,
    scans: int,
    samples_per_scan: int,
    height: int,
    width: int,
    seed: int,
    val_fraction: float = 0.25,
    kind: Kind = "depth",
    baseline_m: float = 0.2,
    moving_objects: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes a mini-DIODE tree, or a frame table of pairs or walks.

    `out/{train,val}/{indoors,outdoor}/scene_SSSSS/scan_NNNNN/SSSSS_NNNNN_{indoors,outdoor}_AAA_BBB` with
    `.png` (uint8 RGB), `_depth.npy` (float32 (H, W, 1), metres) and `_depth_mask.npy` (float32 (H, W), 1 =
    valid), and, last, `out/camera.json` (width, height, fx_px, fy_px, cx_px, cy_px; corner convention,
    pixel centres at + 0.5). The same arguments give the same bytes: every draw is keyed by (seed, scene,
    scan, view).

    The kinds stereo and video write `out/scan_NNNNN/{image,depth,mask}/VVVVV` with `.png` and `.npy` (float32 (H, W),
    metres; uint8 (H, W), 1 = valid), and, last, `out/frames.csv` with a row per frame: files, names, camera, pose.
    Glass mirrors the scene. stereo has the views of depth, each with a right image: the camera moved along its x axis,
    with the same exposure and noise of its own. In video a scan is a walk, see `walks`, and the exposure is smooth.

    Args:
        out: the folder to write; must be absent or empty.
        scans: number of scans, >= 2; see `plan` for scenes and splits.
        samples_per_scan: views in each scan, 1 to 10,000.
        height: of the pictures in pixels, >= 16.
        width: of the pictures in pixels, >= 16. The field of view is DIODE's at any size.
        seed: >= 0.
        val_fraction: the share of scenes that go to val, in (0, 1).
        kind: what to write.
        baseline_m: from the left camera of a pair to the right one.
        moving_objects: things that move, in each walk.
        progress: called after each sample with (samples done, samples in all).

    Returns:
        The number of samples written, scans x samples_per_scan.

    Raises:
        ValueError: if an argument is out of range.
        FileExistsError: if `out` is a file or a folder that is not empty.
    """
    _check(samples_per_scan=samples_per_scan, height=height, width=width, seed=seed)
    planned = plan(scans=scans, val_fraction=val_fraction)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"out must be absent or an empty folder: choose another or remove it. Received: {out}")
    job = _Job(
        out=out,
        camera=DIODE_CAMERA.resized(height=height, width=width),
        samples_per_scan=samples_per_scan,
        seed=seed,
        baseline_m=baseline_m,
        moving_objects=moving_objects,
    )
    write, rows = {"depth": _triplets, "stereo": _pairs, "video": _frames}[kind], []
    for scan in planned:
        for row in write(job, scan, build_scene(scan, seed=seed)):
            rows.append(row)
            if progress is not None:
                progress(len(rows), scans * samples_per_scan)
    if kind == "depth":
        write_camera(job.camera, out / CAMERA_FILE)
    else:
        _write_table(rows, out / TABLE)
    return len(rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    out: pathlib.Path
    camera: Camera
    samples_per_scan: int
    seed: int
    baseline_m: float
    moving_objects: int

    def rng(self, what: int, scan: Scan, *view: int) -> np.random.Generator:
        """The random numbers of one thing to draw: 2 views, 3 right images, 4 paths, 5 moving things."""
        return np.random.default_rng([self.seed, what, scan.scene, scan.scan, *view])


def _triplets(job: _Job, scan: Scan, scene: Scene) -> Iterator[dict[str, Any]]:
    """Writes a scan of mini-DIODE; its rows are empty, as its names say everything."""
    folder = job.out / scan.folder
    folder.mkdir(parents=True)
    for number in range(job.samples_per_scan):
        write_view(render(scene=scene, camera=job.camera, rng=job.rng(2, scan, number)), folder / scan.stem(number))
        yield {}


def _pairs(job: _Job, scan: Scan, scene: Scene) -> Iterator[dict[str, Any]]:
    """Writes a scan of rectified pairs."""
    for number in range(job.samples_per_scan):
        left_rng = job.rng(2, scan, number)
        left = render(scene=scene, camera=job.camera, rng=left_rng, baseline_m=job.baseline_m, mirrors=True)
        pose = left.pose.moved(right_m=job.baseline_m)
        light = shade(scene, job.camera, pose, see(scene, job.camera, pose), mirrors=True)
        place = f"scan_{scan.scan:05d}/right/{number:05d}.png"
        _write_png(develop(light, left.gain, job.rng(3, scan, number)), job.out / place)
        yield _write_frame(job, scan, number, left) | {"right_image": place, "baseline_m": job.baseline_m}


def _frames(job: _Job, scan: Scan, scene: Scene) -> Iterator[dict[str, Any]]:
    """Writes a scan that is a walk."""
    rngs = job.rng(4, scan), job.rng(5, scan)
    expose = AutoExposure(rngs[0].uniform(*EXPOSURE_LEVELS))
    walked = walk(scene, frames=job.samples_per_scan, moving_objects=job.moving_objects, rngs=rngs)
    for number, pose in enumerate(walked.poses):
        here, rng = walked.scene_at(scene, number), job.rng(2, scan, number)
        view = render_from(pose, scene=here, camera=job.camera, rng=rng, expose=expose)
        yield _write_frame(job, scan, number, view) | {"time_s": number / FRAMES_PER_S}


def _write_frame(job: _Job, scan: Scan, number: int, view: View) -> dict[str, Any]:
    """Writes a frame's files, and returns its row of the frame table."""
    folder, name = f"scan_{scan.scan:05d}", f"{number:05d}"
    row = {"image": f"{folder}/image/{name}.png", **{part: f"{folder}/{part}/{name}.npy" for part in ("depth", "mask")}}
    _write_png(view.rgb, job.out / row["image"])
    for part, plane in (("depth", view.depth_m), ("mask", view.valid_mask.astype(np.uint8))):
        path = job.out / row[part]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, plane)
    return row | {
        "dataset": "synthetic",
        "split": scan.split,
        "scene_type": scan.scene_type,
        "scene": f"scene_{scan.scene:05d}",
        "scan": folder,
        "sample_id": f"synthetic/scene_{scan.scene:05d}/{folder}/{name}",
        **dataclasses.asdict(job.camera),
        "pose": " ".join(map(repr, view.pose.matrix.ravel().tolist())),
    }


def _write_table(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Writes the frame table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def plan(*, scans: int, val_fraction: float) -> list[Scan]:
    """Deals scans to scenes and scenes to splits.

    Scans alternate indoors, outdoor. A scan is a scene of its own; from 16 scans on a scene has two. Of
    each scene type the last `val_fraction` of the scenes (rounded) are val, at least one and never all, so
    with 4 scans or more both splits hold both types. With fewer, a type may have only one scene: two scans
    make train indoors and val outdoor, three make train both and val indoors.

    Args:
        scans: number of scans.
        val_fraction: the share of scenes in val.

    Returns:
        The scans in the order of their numbers.

    Raises:
        ValueError: if scans < 2 or val_fraction is not in (0, 1).
    """
    if scans < 2:
        raise ValueError(f"scans must be at least 2, one for train and one for val. Received: scans={scans}")
    if not 0.0 < val_fraction < 1.0:
        raise ValueError(f"val_fraction must be between 0 and 1, exclusive. Received: val_fraction={val_fraction}")
    per_scene = 2 if scans >= SCANS_TO_PAIR else 1
    scene_of = [scan // (2 * per_scene) * 2 + scan % 2 for scan in range(scans)]  # even scenes are rooms
    val_scenes: set[int] = set()
    for first in (0, 1):
        scenes = sorted({scene for scene in scene_of if scene % 2 == first})
        if len(scenes) > 1:
            count = min(max(1, round(val_fraction * len(scenes))), len(scenes) - 1)
            val_scenes.update(scenes[-count:])
    return [
        Scan(
            split="val" if scene in (val_scenes or {1}) else "train",
            scene_type="outdoor" if scene % 2 else "indoors",
            scene=scene,
            scan=scan,
        )
        for scan, scene in enumerate(scene_of)
    ]


def build_scene(scan: Scan, *, seed: int) -> Scene:
    """The scene a scan was taken in: depends on the seed and the scene's number alone."""
    rng = np.random.default_rng([seed, 1, scan.scene])
    return room_scene(rng) if scan.scene_type == "indoors" else street_scene(rng)


def write_view(view: View, stem: pathlib.Path) -> None:
    """Writes a view's three files, named stem + ending."""
    _write_png(view.rgb, stem.with_name(f"{stem.name}.png"))
    np.save(stem.with_name(f"{stem.name}_depth.npy"), view.depth_m[..., None])
    np.save(stem.with_name(f"{stem.name}_depth_mask.npy"), view.valid_mask.astype(np.float32))


def _write_png(rgb: np.ndarray, path: pathlib.Path) -> None:
    encoded, png = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode a picture as PNG. Received: shape {rgb.shape}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png.tobytes())


def write_camera(camera: Camera, path: pathlib.Path) -> None:
    """Writes the intrinsics as JSON."""
    path.write_text(json.dumps(dataclasses.asdict(camera), indent=2) + "\n", encoding="utf-8")


def _check(*, samples_per_scan: int, height: int, width: int, seed: int) -> None:
    if not 1 <= samples_per_scan <= MOST_SAMPLES_PER_SCAN:
        raise ValueError(
            f"samples_per_scan must be 1 to {MOST_SAMPLES_PER_SCAN}. Received: samples_per_scan={samples_per_scan}"
        )
    if min(height, width) < LEAST_SIZE_PX:
        raise ValueError(
            f"height and width must be at least {LEAST_SIZE_PX} px. Received: height={height}, width={width}"
        )
    if seed < 0:
        raise ValueError(f"seed must be 0 or more. Received: seed={seed}")
