"""One view of a synthetic scene: the photograph, the exact depth, and what a laser would make of it."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from depthflow.datasets.camera import DIODE_CAMERA, Camera
from depthflow.synthetic.raycast import Pose, cast, lit, look, pixel_rays, surface
from depthflow.synthetic.scenes import Scene, Thing
from depthflow.synthetic.textures import sample

GRAZING_COSINE = 0.06  # a beam that meets a surface flatter than this gives no return
DROPOUT = 0.003  # beams that give no return for no visible reason
LEAST_VALID_FRACTION = 0.2
MIRRORED_SHARE = 0.3  # of the light that meets a pane of glass head on
EXPOSURE_LEVELS = (0.18, 0.34)
EXPOSURE_SHARE = 0.1  # of the way to the right exposure that a video camera goes in a frame


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What the camera sees, per pixel.

    Attributes:
        depth_m: (H, W) float64 z-depth, inf for the sky.
        which: (H, W) int16 index of the thing, -1 for the sky.
        points_m: (3, H, W) float64 in the world, 0 for the sky.
        normals: (3, H, W) float64.
        cosine: (H, W) float64 of the angle between the normal and the line of sight; 0 for the sky.
        albedo: (H, W, 3) float32, 0 for the sky.
        returns: (H, W) bool, whether the material reflects a laser.
    """

    depth_m: np.ndarray
    which: np.ndarray
    points_m: np.ndarray
    normals: np.ndarray
    cosine: np.ndarray
    albedo: np.ndarray
    returns: np.ndarray


@dataclasses.dataclass(frozen=True)
class View:
    """Attributes:
    rgb: (H, W, 3) uint8.
    depth_m: (H, W) float32, exact where valid, garbage elsewhere.
    valid_mask: (H, W) bool.
    pose: where the camera stood.
    gain: what its light was multiplied by.
    """

    rgb: np.ndarray
    depth_m: np.ndarray
    valid_mask: np.ndarray
    pose: Pose
    gain: float


class AutoExposure:
    """A video camera's exposure, which follows the light with a lag, so that it is smooth."""

    def __init__(self, level: float) -> None:
        self._level = level
        self._gain: float | None = None

    def __call__(self, light: np.ndarray) -> float:
        """Returns the gain for the next frame's light."""
        wanted = metered(light, self._level)
        before = self._gain or wanted
        self._gain = gain = before * (wanted / before) ** EXPOSURE_SHARE
        return gain


def render(
    *, scene: Scene, camera: Camera, rng: np.random.Generator, baseline_m: float = 0.0, mirrors: bool = False
) -> View:
    """A view of the scene from a random standpoint.

    Args:
        scene: what there is.
        camera: the camera.
        rng: decides the standpoint, the exposure, the noise and the garbage under the mask.
        baseline_m: how far to the right of it a second camera must have room.
        mirrors: whether glass mirrors the scene.

    Returns:
        The view, at least LEAST_VALID_FRACTION of it valid.

    Raises:
        RuntimeError: if no standpoint in the scene gives such a view (200 tries).
    """
    for _ in range(200):
        pose = standpoint(scene, rng, baseline_m=baseline_m)
        geometry = see(scene, camera, pose)
        valid_mask = returned(scene, geometry, rng)
        if valid_mask.mean() >= LEAST_VALID_FRACTION:

            def expose(light: np.ndarray) -> float:
                return metered(light, rng.uniform(*EXPOSURE_LEVELS))

            return _take(scene, camera, pose, geometry, valid_mask, rng, expose, mirrors=mirrors)
    raise RuntimeError(f"No view of the scene has {LEAST_VALID_FRACTION:.0%} valid pixels. Received: {camera}")


def render_from(
    pose: Pose, *, scene: Scene, camera: Camera, rng: np.random.Generator, expose: Callable[[np.ndarray], float]
) -> View:
    """The view from a pose, with mirrors. `expose` takes the light (H, W, 3) to a gain; `rng` decides the rest."""
    geometry = see(scene, camera, pose)
    return _take(scene, camera, pose, geometry, returned(scene, geometry, rng), rng, expose, mirrors=True)


def _take(
    scene: Scene,
    camera: Camera,
    pose: Pose,
    geometry: Geometry,
    valid_mask: np.ndarray,
    rng: np.random.Generator,
    expose: Callable[[np.ndarray], float],
    *,
    mirrors: bool,
) -> View:
    lost = garbage(valid_mask.shape, rng)
    depth_m = np.where(valid_mask, geometry.depth_m, lost).astype(np.float32)
    light = shade(scene, camera, pose, geometry, mirrors=mirrors)
    gain = expose(light)
    return View(develop(light, gain, rng), depth_m, valid_mask, pose, gain)


def standpoint(scene: Scene, rng: np.random.Generator, *, baseline_m: float = 0.0) -> Pose:
    """A random pose, judged on 32 x 24 rays: nothing nearer than the laser measures, and no blank wall."""
    for _ in range(200):
        x, y, z = (float(rng.uniform(low, high)) for low, high in scene.stand_m)
        yaw_rad, pitch_rad = float(rng.uniform(*scene.yaw_rad)), float(rng.uniform(*scene.pitch_rad))
        pose = look(origin_m=(x, y, z), yaw_rad=yaw_rad, pitch_rad=pitch_rad)
        nearest, tenth, middle, ninetieth = glance(scene, pose)
        varied = nearest >= 1.1 * scene.near_m and middle >= 3.5 * scene.near_m and ninetieth >= 1.4 * tenth
        if varied and (not baseline_m or glance(scene, pose.moved(right_m=baseline_m))[0] >= scene.near_m):
            return pose
    raise RuntimeError(f"No free standpoint in the scene. Received: stand_m={scene.stand_m}")


def glance(scene: Scene, pose: Pose) -> np.ndarray:
    """(4,) float64: the least, the 10th, 50th and 90th percentile of the depth in metres, on 32 x 24 rays."""
    depth_m, _ = cast([thing.solid for thing in scene.things], DIODE_CAMERA.resized(height=24, width=32), pose)
    return np.percentile(np.minimum(depth_m, scene.far_m), [0, 10, 50, 90])


def see(scene: Scene, camera: Camera, pose: Pose) -> Geometry:
    """Casts the camera's rays and looks up the surfaces they meet."""
    rays = pixel_rays(camera, pose)
    depth_m, which = cast([thing.solid for thing in scene.things], camera, pose)
    hit = which >= 0
    points_m = pose.origin_m[:, None, None] + rays * np.where(hit, depth_m, 0.0)
    lengths = np.linalg.norm(rays, axis=0)
    normals, cosine = np.zeros(rays.shape), np.zeros(depth_m.shape)
    albedo, returns = np.zeros((*depth_m.shape, 3), np.float32), np.zeros(depth_m.shape, bool)
    order = np.argsort(which, axis=None, kind="stable")
    starts = np.searchsorted(which.ravel()[order], np.arange(len(scene.things) + 1))
    for thing, first, last in zip(scene.things, starts[:-1], starts[1:], strict=True):
        if first == last:
            continue
        pixels = np.unravel_index(order[first:last], depth_m.shape)
        at, ray = points_m[:, *pixels], rays[:, *pixels]
        normal, uv_m, level = surface(thing.solid, at)
        slant = np.abs((normal * ray).sum(axis=0)) / lengths[pixels]
        footprint_m = depth_m[pixels] / camera.fx_px / np.sqrt(np.maximum(slant, 0.02))
        normals[:, *pixels], cosine[pixels], returns[pixels] = normal, slant, thing.returns
        albedo[pixels] = _albedo(thing, normal, uv_m, level, footprint_m)
    return Geometry(depth_m, which, points_m, normals, cosine, albedo, returns)


def _albedo(
    thing: Thing, normal: np.ndarray, uv_m: np.ndarray, level: np.ndarray, footprint_m: np.ndarray
) -> np.ndarray:
    """(N, 3) float32, from the texture of the side, the top or the floor."""
    floor = level & (normal[2] > 0) if thing.bottom is not None else np.zeros_like(level)
    albedo = np.empty((level.size, 3), np.float32)
    for texture, part in ((thing.side, ~level), (thing.top, level & ~floor), (thing.bottom, floor)):
        if texture is not None and part.any():
            albedo[part] = sample(texture, uv_m[:, part], footprint_m[part])
    return albedo


def measured(scene: Scene, geometry: Geometry) -> np.ndarray:
    """(H, W) bool: something is there, in range, met steeply enough, and reflects."""
    in_range = (geometry.depth_m >= scene.near_m) & (geometry.depth_m <= scene.far_m)
    return in_range & (geometry.cosine >= GRAZING_COSINE) & geometry.returns


def returned(scene: Scene, geometry: Geometry, rng: np.random.Generator) -> np.ndarray:
    """(H, W) bool: measured, and not one of the few beams that are lost."""
    return measured(scene, geometry) & (rng.random(geometry.depth_m.shape) >= DROPOUT)


def garbage(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """float32 of what may lie under a mask: 0, NaN, inf, -inf, huge and negative values in equal parts."""
    huge = rng.uniform(1e3, 1e9, shape)
    negative = -rng.uniform(1e-3, 1e4, shape)
    constants = [np.full(shape, value) for value in (0.0, np.nan, np.inf, -np.inf)]
    return np.choose(rng.integers(0, 6, shape), [huge, negative, *constants]).astype(np.float32)


def shade(scene: Scene, camera: Camera, pose: Pose, geometry: Geometry, *, mirrors: bool) -> np.ndarray:
    """(H, W, 3) float32 light on the sensor, behind a lens that blurs it; with `mirrors`, glass mirrors the scene."""
    light = _light(scene, camera, pose, geometry)
    if mirrors:
        glass = (geometry.which >= 0) & ~geometry.returns
        for index in np.unique(geometry.which[glass]):
            _reflect(scene, camera, pose, geometry, light, pane=int(index))
    return cv2.GaussianBlur(light.astype(np.float32), (3, 3), 0.5)


def _reflect(scene: Scene, camera: Camera, pose: Pose, geometry: Geometry, light: np.ndarray, *, pane: int) -> None:
    """Adds to a pane of glass what it mirrors: the rest of the scene, seen by the mirrored camera.

    Source: the share of the mirrored light is Schlick's (1994), for a pane brighter than glass is.
    """
    normal = np.median(geometry.normals[:, geometry.which == pane], axis=1)
    face = (geometry.which == pane) & (np.tensordot(normal, geometry.normals, axes=1) > 0.99)
    if not face.any():
        return
    mirror = np.eye(3) - 2.0 * np.outer(normal, normal)
    at_m = geometry.points_m[:, face][:, 0]
    behind = Pose(at_m + mirror @ (pose.origin_m - at_m), mirror @ pose.rotation)
    others = dataclasses.replace(scene, things=scene.things[:pane] + scene.things[pane + 1 :])
    mirrored = _light(others, camera, behind, see(others, camera, behind))
    share = MIRRORED_SHARE + (1.0 - MIRRORED_SHARE) * (1.0 - geometry.cosine[face, None]) ** 5
    light[face] += share * (mirrored[face] - light[face])


def _light(scene: Scene, camera: Camera, pose: Pose, geometry: Geometry) -> np.ndarray:
    """(H, W, 3) light from each pixel's surface: Lambert shading, shadows, haze, and the sky."""
    light = geometry.albedo * (_ambient(scene, geometry) + _direct(scene, geometry))
    haze = 1.0 - np.exp(-np.where(geometry.which >= 0, geometry.depth_m, 0.0) / scene.haze_m)[..., None]
    light = light * (1.0 - haze) + scene.sky_rgb[0] * haze
    sky = geometry.which < 0
    if sky.any():
        up = pixel_rays(camera, pose)[2][sky]
        steep = np.clip(up / 0.5, 0.0, 1.0)[:, None]
        light[sky] = scene.sky_rgb[0] * (1.0 - steep) + scene.sky_rgb[1] * steep
    return light


def metered(light: np.ndarray, level: float) -> float:
    """The gain that takes the median of the light (H, W, 3) to a level."""
    return level / max(float(np.median(light)), 1e-3)


def develop(light: np.ndarray, gain: float, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: the light with exposure, noise and gamma."""
    noise = rng.standard_normal(light.shape, np.float32) * np.float32(rng.uniform(0.003, 0.012))
    exposed = 1.0 - np.exp(-1.5 * light * min(gain, 4.0))  # a film curve: highlights roll off
    return (np.clip(exposed, 0.0, 1.0) ** (1.0 / 2.2) * 255.0 + noise * 255.0).clip(0, 255).round().astype(np.uint8)


def _ambient(scene: Scene, geometry: Geometry) -> np.ndarray:
    """(H, W, 3) light from everywhere: more from above, less near the floor and in a room's corners."""
    above = 0.8 + 0.2 * geometry.normals[2]
    height_m = geometry.points_m[2]
    upright = 1.0 - np.abs(geometry.normals[2])
    dim = 1.0 - 0.45 * upright * np.exp(-np.maximum(height_m, 0.0) / 0.35)
    if scene.is_room:
        room = scene.things[0].solid
        for axis in range(3):
            gap_m = room.half_m[axis] - np.abs(geometry.points_m[axis] - room.centre_m[axis])
            dim *= 1.0 - 0.3 * (1.0 - np.abs(geometry.normals[axis])) * np.exp(-np.maximum(gap_m, 0.0) / 0.3)
    return (above * dim)[..., None] * scene.ambient_rgb


def _direct(scene: Scene, geometry: Geometry) -> np.ndarray:
    """(H, W, 3) light of the lamp: Lambert's cosine, fall-off, and shadows (cast on a coarser grid)."""
    lamp_m = np.asarray(scene.lamp_m)
    way = lamp_m[:, None, None] - geometry.points_m
    distance_m = np.linalg.norm(way, axis=0)
    facing = np.maximum((way * geometry.normals).sum(axis=0) / np.maximum(distance_m, 1e-6), 0.0)
    height, width = distance_m.shape
    step = max(2, round(height / 192))
    coarse = geometry.points_m[:, ::step, ::step]
    solids = [thing.solid for thing in scene.things]
    free = lit(solids, lamp_m, coarse.reshape(3, -1)).reshape(coarse.shape[1:]).astype(np.float32)
    shadow = cv2.resize(free, (width, height), interpolation=cv2.INTER_LINEAR)
    strength = facing * shadow / (1.0 + (distance_m / scene.falloff_m) ** 2)
    return strength[..., None] * scene.lamp_rgb
