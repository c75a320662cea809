"""Mini-DIODE: a procedurally generated data set in DIODE's exact layout, for tests, demos and CI.

Rooms (`indoors`, depths 0.6 to 12 m) and streets (`outdoor`, 0.6 to 200 m) are ray-cast with textures,
lamps, shadows and haze, so that depth can be learnt from the picture as it is from photographs: by
perspective, the grain of textures of known size, height in the picture, shading. Colours are random per
scene and say nothing about depth.

Depth is z-depth: the distance along the optical axis (camera forward), taken as DIODE's convention for its
crops, not the length of the ray. It is exact at pixel centres wherever the mask is 1. Where the mask is 0
(sky, out of range, grazing incidence, glass, a few lost beams) the depth is garbage, as a laser leaves it:
0, NaN, inf, huge and negative.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np

from depthflow.datasets.camera import CAMERA_FILE, DIODE_CAMERA, Camera
from depthflow.synthetic.scenes import Scene, room_scene, street_scene
from depthflow.synthetic.views import View, render

LEAST_SIZE_PX = 16
MOST_SAMPLES_PER_SCAN = 10_000
SCANS_TO_PAIR = 16


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
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes a mini-DIODE tree.

    `out/{train,val}/{indoors,outdoor}/scene_SSSSS/scan_NNNNN/SSSSS_NNNNN_{indoors,outdoor}_AAA_BBB` with
    `.png` (uint8 RGB), `_depth.npy` (float32 (H, W, 1), metres) and `_depth_mask.npy` (float32 (H, W), 1 =
    valid), and, last, `out/camera.json` (width, height, fx_px, fy_px, cx_px, cy_px; corner convention,
    pixel centres at + 0.5). The same arguments give the same bytes: every draw is keyed by (seed, scene,
    scan, view).

    Args:
        out: the folder to write; must be absent or empty.
        scans: number of scans, >= 2; see `plan` for scenes and splits.
        samples_per_scan: views in each scan, 1 to 10,000.
        height: of the pictures in pixels, >= 16.
        width: of the pictures in pixels, >= 16. The field of view is DIODE's at any size.
        seed: >= 0.
        val_fraction: the share of scenes that go to val, in (0, 1).
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
    camera, done = DIODE_CAMERA.resized(height=height, width=width), 0
    for scan in planned:
        folder = out / scan.folder
        folder.mkdir(parents=True)
        scene = build_scene(scan, seed=seed)
        for view in range(samples_per_scan):
            rng = np.random.default_rng([seed, 2, scan.scene, scan.scan, view])
            write_view(render(scene=scene, camera=camera, rng=rng), folder / scan.stem(view))
            done += 1
            if progress is not None:
                progress(done, scans * samples_per_scan)
    write_camera(camera, out / CAMERA_FILE)
    return done


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
    encoded, png = cv2.imencode(".png", cv2.cvtColor(view.rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode a picture as PNG. Received: shape {view.rgb.shape}")
    stem.with_name(f"{stem.name}.png").write_bytes(png.tobytes())
    np.save(stem.with_name(f"{stem.name}_depth.npy"), view.depth_m[..., None])
    np.save(stem.with_name(f"{stem.name}_depth_mask.npy"), view.valid_mask.astype(np.float32))


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
