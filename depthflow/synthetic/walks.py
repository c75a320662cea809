"""A camera that is carried or driven through a scene, and things that move there: exact poses, frame by frame.

The camera goes along a closed loop at an almost even speed, through a room as it is carried and along a street as it is
driven. It looks up to 46 degrees away from where it goes at first, and swings, nods and rolls a little; later it may go
sideways or backward. Frames are 1 / FRAMES_PER_S apart. A walk longer than its loop goes round again.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from depthflow.synthetic.raycast import Pose, look
from depthflow.synthetic.scenes import Scene, Thing, block, car
from depthflow.synthetic.textures import mottled, painting
from depthflow.synthetic.views import glance

FRAMES_PER_S = 5.0
CLEARANCE_M = 0.4  # of the camera from everything
FORWARD_FRAMES = 12  # at the start, in which the camera only goes forward
TRIES = 300


class Mover(NamedTuple):
    """A thing that moves.

    Attributes:
        things: its solids, standing around (0, 0) and heading north.
        places_m: (N, 2) float64, where it is in each frame.
        heading_rad: (N,) float64, clockwise from north.
    """

    things: tuple[Thing, ...]
    places_m: np.ndarray
    heading_rad: np.ndarray

    def at(self, frame: int) -> list[Thing]:
        """Its solids in a frame."""
        c, s = np.cos(self.heading_rad[frame]), np.sin(self.heading_rad[frame])
        moved = []
        for thing in self.things:
            x, y, z = thing.solid.centre_m
            east, north = self.places_m[frame] + (c * x + s * y, c * y - s * x)
            yaw_rad = thing.solid.yaw_rad - float(self.heading_rad[frame])
            solid = dataclasses.replace(thing.solid, centre_m=(float(east), float(north), z), yaw_rad=yaw_rad)
            moved.append(dataclasses.replace(thing, solid=solid))
        return moved


class Walk(NamedTuple):
    """The camera's poses, and what moves around it."""

    poses: list[Pose]
    movers: list[Mover]

    def scene_at(self, scene: Scene, frame: int) -> Scene:
        """The scene as it is in a frame."""
        moved = [thing for mover in self.movers for thing in mover.at(frame)]
        return dataclasses.replace(scene, things=(*scene.things, *moved))


def walk(scene: Scene, *, frames: int, moving_objects: int, rngs: tuple[np.random.Generator, ...]) -> Walk:
    """A walk through a scene.

    Args:
        scene: where nothing moves.
        frames: number of frames.
        moving_objects: number of things that move: every other one ahead of the camera and as fast as it, the rest on
            ways of their own.
        rngs: decide the path, and the things.

    Raises:
        RuntimeError: if the scene has no room for a path.
    """
    path_rng, things_rng = rngs
    poses = _poses(scene, frames, path_rng)
    return Walk(poses, [_mover(scene, poses, things_rng, ahead=number % 2 == 0) for number in range(moving_objects)])


def _poses(scene: Scene, frames: int, rng: np.random.Generator) -> list[Pose]:
    """Poses that see nothing too near, on a path that touches nothing; tries smaller and smaller loops."""
    low, high = (-np.inf, np.inf) if scene.is_room else scene.yaw_rad
    for attempt in range(TRIES):
        size = 1.0 - (attempt / TRIES) ** 2
        at_m, between_m = _path(scene, frames, size, rng)
        step_m = np.diff(at_m[:FORWARD_FRAMES, :2], axis=0)
        yaw_rad = np.arctan2(*step_m.sum(axis=0)) + rng.uniform(-0.8, 0.8) + _sway(frames, 0.2 * size, (6.0, 10.0), rng)
        forward_m = step_m[:, 0] * np.sin(yaw_rad[: len(step_m)]) + step_m[:, 1] * np.cos(yaw_rad[: len(step_m)])
        pitch_rad = rng.uniform(*scene.pitch_rad) + _sway(frames, 0.02, (2.0, 4.0), rng)
        roll_rad = _sway(frames, 0.02, (2.0, 5.0), rng)
        aimed = (
            yaw_rad.min() >= low
            and yaw_rad.max() <= high
            and ((forward_m > 0.3 * np.hypot(*step_m.T)).all() or attempt > TRIES / 2)
        )
        if not aimed or not _free(scene, between_m, CLEARANCE_M):
            continue
        poses = [
            look(origin_m=(x, y, z), yaw_rad=float(yaw), pitch_rad=float(pitch)).rolled(float(roll))
            for (x, y, z), yaw, pitch, roll in zip(at_m.tolist(), yaw_rad, pitch_rad, roll_rad, strict=True)
        ]
        if all(_clear(scene, pose) for pose in poses):
            return poses
    raise RuntimeError(f"The scene has no room for a walk. Received: stand_m={scene.stand_m}")


def _path(scene: Scene, frames: int, size: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places along a loop of random form, up to `size` of the area in which a camera may stand.

    Returns:
        at_m (N, 3) float64, and between_m (3, M) float64, points 0.1 m apart along the way.
    """
    low, high = np.array(scene.stand_m).T
    half = (high - low)[:2] / 2 * size * rng.uniform(0.5, 1.0, 2)
    centre = rng.uniform(low[:2] + half, high[:2] - half)
    turn = np.linspace(0.0, 2.0 * np.pi, 1441) * rng.choice([-1.0, 1.0])
    first, second = rng.uniform(0.0, 2.0 * np.pi, (2, 2))
    wave = np.sin(turn[:, None] + [first[0], first[0] + np.pi / 2]) + 0.2 * np.sin(2.0 * turn[:, None] + second)
    loop_m = centre + half * wave / 1.2
    along_m = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(loop_m, axis=0), axis=1))])
    step_m = rng.uniform(*scene.speed_m_s) / FRAMES_PER_S * (1.0 + _sway(frames, 0.2, (3.0, 6.0), rng))
    way_m = rng.uniform(0.0, along_m[-1]) + np.cumsum(step_m)
    dense_m = np.linspace(way_m[0], way_m[-1], 1 + int((way_m[-1] - way_m[0]) / 0.1))
    height_m = rng.uniform(low[2], high[2])

    def at(way_m: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(way_m % along_m[-1], along_m, loop_m[:, axis]) for axis in (0, 1)])

    at_m = np.stack([*at(way_m), height_m + _sway(frames, 0.02, (1.0, 2.0), rng)], axis=1)
    return at_m, np.stack([*at(dense_m), np.full(dense_m.size, height_m)])


def _sway(frames: int, amplitude: float, period_s: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """(N,) float64, a sine of a random period and phase."""
    time_s = np.arange(frames) / FRAMES_PER_S
    return amplitude * np.sin(2.0 * np.pi * (time_s / rng.uniform(*period_s) + rng.uniform()))


def _free(scene: Scene, points_m: np.ndarray, clearance_m: float) -> bool:
    """Whether (3, N) points are this far outside everything, and in the room."""
    for thing in scene.things:
        solid = thing.solid
        half = np.asarray(solid.half_m)[:, None]
        reach = half + (-clearance_m if solid.inward else clearance_m)
        inside = (np.abs(solid.local(points_m)) * half < reach).all(axis=0)
        if (inside.any() and not solid.inward) or (solid.inward and not inside.all()):
            return False
    return True


def _clear(scene: Scene, pose: Pose) -> bool:
    """Whether a view shows nothing that is too near to measure, and no blank wall right ahead."""
    nearest, _, middle, _ = glance(scene, pose)
    return nearest >= scene.near_m and middle >= 3.0 * scene.near_m


def _mover(scene: Scene, poses: list[Pose], rng: np.random.Generator, *, ahead: bool) -> Mover:
    """A thing ahead of the camera, or one on a way of its own that it keeps clear of the camera."""
    things = _things(scene, rng, ahead=ahead)
    camera_m = np.array([pose.origin_m[:2] for pose in poses])
    yaw_rad = np.array([np.arctan2(*pose.rotation[:2, 2]) for pose in poses])
    near_m, far_m, clear_m, half_m = (1.3, 2.2, 1.0, 0.3) if scene.is_room else (6.0, 12.0, 2.8, 0.9)
    following = Mover(things, camera_m, yaw_rad)
    for attempt in range(TRIES):
        bearing_rad = yaw_rad + rng.uniform(-0.35, 0.35)
        away_m = rng.uniform(near_m, far_m) * np.stack([np.sin(bearing_rad), np.cos(bearing_rad)], axis=1)
        following = following._replace(places_m=camera_m + away_m)
        mover = following if ahead else _crossing(scene, following, 1.0 - attempt / TRIES, rng)
        apart_m = np.linalg.norm(mover.places_m - camera_m, axis=1).min()
        points_m = np.stack([*mover.places_m.T, np.full(len(poses), half_m + 0.15)])  # Above floor and pavement.
        if apart_m >= clear_m and _free(scene, points_m, half_m):
            return mover
    return following  # Now and then it is partly in a wall, but never in the camera.


def _crossing(scene: Scene, ahead: Mover, size: float, rng: np.random.Generator) -> Mover:
    """A thing that goes back and forth, and in one frame is beside a place ahead of the camera."""
    frames = len(ahead.places_m)
    reach_m, speed_m_s = (1.5, rng.uniform(0.4, 1.2)) if scene.is_room else (30.0, rng.uniform(3.0, 9.0))
    reach_m, heading_rad = reach_m * size, rng.uniform(0.0, 2.0 * np.pi) if scene.is_room else 0.0
    beside_m = rng.choice([-1.0, 1.0]) * (rng.uniform(0.0, 1.0) if scene.is_room else rng.uniform(2.5, 5.0))
    seen, across = int(rng.integers(frames)), np.array([np.cos(heading_rad), -np.sin(heading_rad)])
    way_m = reach_m * np.sin((np.arange(frames) - seen) / FRAMES_PER_S * speed_m_s / reach_m)
    places_m = ahead.places_m[seen] + beside_m * across + way_m[:, None] * [np.sin(heading_rad), np.cos(heading_rad)]
    return Mover(ahead.things, places_m, np.full(frames, heading_rad))


def _things(scene: Scene, rng: np.random.Generator, *, ahead: bool) -> tuple[Thing, ...]:
    """A car, ball or box in a street; a person, ball or box in a room; around (0, 0)."""
    skin = painting(rng)
    if not scene.is_room and (ahead or rng.random() < 0.7):
        return tuple(car(-0.9, -2.1, mottled(rng, contrast=0.02), 4.2, skin))
    wide = rng.uniform(0.3, 0.5) * (1.0 if scene.is_room else 2.0)
    if not ahead and rng.random() < 0.5:
        return (block((-wide / 2, -wide / 2, 0.0), (wide, wide, wide), skin, shape="ellipsoid"),)
    if ahead and rng.random() < 0.5:
        body = block((-0.22, -0.15, 0.0), (0.44, 0.3, 1.4), skin, shape="cylinder")
        return (body, block((-0.12, -0.12, 1.4), (0.24, 0.24, 0.28), mottled(rng), shape="ellipsoid"))
    return (block((-wide / 2, -wide / 2, 0.0), (wide, wide, rng.uniform(0.8, 1.3) + 0.3 * ahead), skin),)
