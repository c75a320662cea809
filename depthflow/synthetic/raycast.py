"""A small exact ray caster in NumPy, for boxes, upright cylinders and ellipsoids seen by a pinhole camera.

World axes: x east, y north, z up, metres. Camera axes: x right, y down, z forward. A pixel's ray has
forward component 1, so the parameter at which it meets a surface *is* the pixel's z-depth in metres. Arrays
of vectors are components-first, (3, H, W) or (3, N), because that is the fast order for slab tests.
"""

import dataclasses
import functools
from typing import Literal

import numpy as np

from depthflow.datasets.camera import Camera

Shape = Literal["box", "cylinder", "ellipsoid"]


@dataclasses.dataclass(frozen=True)
class Pose:
    """Where a camera stands and looks.

    Attributes:
        origin_m: (3,) float64, the optical centre in the world.
        rotation: (3, 3) float64, columns are the camera's right, down and forward in the world.
    """

    origin_m: np.ndarray
    rotation: np.ndarray

    @property
    def matrix(self) -> np.ndarray:
        """(4, 4) float64, camera to world."""
        return np.block([[self.rotation, self.origin_m[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])

    def moved(self, *, right_m: float) -> "Pose":
        """The pose moved along the camera's x axis."""
        return Pose(self.origin_m + right_m * self.rotation[:, 0], self.rotation)

    def rolled(self, roll_rad: float) -> "Pose":
        """The pose turned about the line of sight, from right towards down."""
        c, s = np.cos(roll_rad), np.sin(roll_rad)
        return Pose(self.origin_m, self.rotation @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]))


def look(*, origin_m: tuple[float, float, float], yaw_rad: float, pitch_rad: float) -> Pose:
    """A level camera (no roll). Yaw 0 looks north and grows to the east, positive pitch looks up."""
    forward = np.array([np.sin(yaw_rad) * np.cos(pitch_rad), np.cos(yaw_rad) * np.cos(pitch_rad), np.sin(pitch_rad)])
    right = np.array([np.cos(yaw_rad), -np.sin(yaw_rad), 0.0])
    rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
    return Pose(np.asarray(origin_m, np.float64), rotation)


def pixel_rays(camera: Camera, pose: Pose) -> np.ndarray:
    """(3, H, W) float64 world directions through the pixel centres, forward component 1."""
    x = (np.arange(camera.width) + 0.5 - camera.cx_px) / camera.fx_px
    y = (np.arange(camera.height) + 0.5 - camera.cy_px) / camera.fy_px
    right, down, forward = pose.rotation.T[:, :, None, None]
    return right * x[None, None, :] + down * y[None, :, None] + forward


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solid:
    """A convex solid: the unit cube, upright cylinder or ball of half-size 1, stretched, turned and moved.

    Attributes:
        shape: which of the three.
        centre_m: its centre in the world.
        half_m: half its extent along its own axes.
        yaw_rad: its turn about the vertical, from x towards y.
        inward: True for a room: rays start inside and meet the far side.
    """

    shape: Shape
    centre_m: tuple[float, float, float]
    half_m: tuple[float, float, float]
    yaw_rad: float = 0.0
    inward: bool = False

    @functools.cached_property
    def to_unit(self) -> np.ndarray:
        """(3, 3) float64, takes a world direction to the axes of the unit shape."""
        c, s = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        return turn / np.asarray(self.half_m, np.float64)[:, None]

    def local(self, points_m: np.ndarray) -> np.ndarray:
        """(3, N) world points in the axes of the unit shape, where the surface is at 1."""
        return self.to_unit @ (points_m - np.asarray(self.centre_m, np.float64)[:, None])

    @functools.cached_property
    def corners(self) -> np.ndarray:
        """(3, 8) float64, the world corners of the solid's bounding box."""
        signs = np.array(np.meshgrid([-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0])).reshape(3, 8)
        return np.linalg.inv(self.to_unit) @ signs + np.asarray(self.centre_m, np.float64)[:, None]


def slab_span(origin: float, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parameters at which rays enter and leave the slab -1 <= x <= 1, given their x alone."""
    inverse = 1.0 / np.where(directions == 0.0, 1e-30, directions)
    first, second = (-1.0 - origin) * inverse, (1.0 - origin) * inverse
    return np.minimum(first, second), np.maximum(first, second)


def round_span(origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for the unit ball (three coordinates) or an endless cylinder (two); a miss is (inf, -inf)."""
    a = np.maximum(np.einsum("i...,i...->...", directions, directions), 1e-30)
    b = np.einsum("i,i...->...", origin, directions)
    discriminant = b * b - a * (origin @ origin - 1.0)
    root = np.sqrt(np.maximum(discriminant, 0.0))
    hit = discriminant > 0.0
    return np.where(hit, (-b - root) / a, np.inf), np.where(hit, (-b + root) / a, -np.inf)


def span(solid: Solid, origin_m: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (entry, exit) of rays through a solid; entry >= exit means a miss.

    Args:
        solid: any solid.
        origin_m: (3,) float64, common start of the rays.
        directions: (3, ...) float64, of any length; parameters are in units of it.

    Returns:
        Two (...) float64 arrays.

    Source: the slab method, Kay and Kajiya 1986.
    """
    start = solid.local(origin_m[:, None])[:, 0]
    unit = np.tensordot(solid.to_unit, directions, axes=1)
    if solid.shape == "ellipsoid":
        return round_span(start, unit)
    if solid.shape == "cylinder":
        spans = [round_span(start[:2], unit[:2]), slab_span(start[2], unit[2])]
    else:
        spans = [slab_span(start[axis], unit[axis]) for axis in range(3)]
    entry = functools.reduce(np.maximum, [near for near, _ in spans])
    leave = functools.reduce(np.minimum, [far for _, far in spans])
    return entry, leave


def window(solid: Solid, camera: Camera, pose: Pose) -> tuple[slice, slice]:
    """The rows and columns outside which a solid cannot be seen; the whole picture if it reaches behind."""
    x, y, z = pose.rotation.T @ (solid.corners - pose.origin_m[:, None])
    if z.max() <= 0.0:
        return slice(0, 0), slice(0, 0)
    if z.min() <= 1e-3:
        return slice(0, camera.height), slice(0, camera.width)
    column, row = camera.fx_px * x / z + camera.cx_px, camera.fy_px * y / z + camera.cy_px
    top, bottom = np.clip([np.floor(row.min()), np.ceil(row.max())], 0, camera.height).astype(int)
    left, right = np.clip([np.floor(column.min()), np.ceil(column.max())], 0, camera.width).astype(int)
    return slice(top, bottom), slice(left, right)


def cast(solids: list[Solid], camera: Camera, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """What each pixel's ray meets first.

    Args:
        solids: the scene. An outward solid around the camera is met at depth 0.
        camera: the pinhole camera.
        pose: where it stands.

    Returns:
        depth_m (H, W) float64, z-depth in metres, inf where nothing is met; and which (H, W) int16, the
        index of the solid met, -1 for none.
    """
    rays = pixel_rays(camera, pose)
    depth_m = np.full(rays.shape[1:], np.inf)
    which = np.full(rays.shape[1:], -1, np.int16)
    for index, solid in enumerate(solids):
        rows, columns = window(solid, camera, pose)
        if rows.start == rows.stop or columns.start == columns.stop:
            continue
        entry, leave = span(solid, pose.origin_m, rays[:, rows, columns])
        met = np.maximum(leave if solid.inward else entry, 0.0)
        nearest, owner = depth_m[rows, columns], which[rows, columns]  # views: written in place
        closer = (entry < leave) & (leave > 0.0) & (met < nearest)
        nearest[closer], owner[closer] = met[closer], index
    return depth_m, which


def lit(solids: list[Solid], lamp_m: np.ndarray, points_m: np.ndarray, *, slack_m: float = 0.01) -> np.ndarray:
    """Whether the straight way from a lamp to each surface point is free of outward solids.

    Args:
        solids: the scene; rooms (inward) throw no shadow.
        lamp_m: (3,) float64.
        points_m: (3, N) float64.
        slack_m: how far before the point a surface must lie to count, so that no surface shades itself.

    Returns:
        (N,) bool.
    """
    ways = points_m - lamp_m[:, None]
    before = 1.0 - slack_m / np.maximum(np.linalg.norm(ways, axis=0), slack_m)
    free = np.ones(points_m.shape[1], bool)
    for solid in solids:
        if not solid.inward:
            entry, leave = span(solid, lamp_m, ways)
            free &= ~((entry < leave) & (leave > 0.0) & (entry < before))
    return free


def surface(solid: Solid, points_m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normals and texture coordinates at points on a solid's surface.

    Args:
        solid: the solid.
        points_m: (3, N) float64, on its surface.

    Returns:
        normals (3, N) float64, unit length, out of the solid (into a room); uv_m (2, N) float64, metres
        along the surface from the solid's low corner, v upwards on upright faces; level (N,) bool, True on
        floors, ceilings and tops.
    """
    local = solid.local(points_m)
    half = np.asarray(solid.half_m, np.float64)[:, None]
    low = (local + 1.0) * half
    if solid.shape == "box":
        axis = np.abs(local).argmax(axis=0)
        normals = np.where(np.arange(3)[:, None] == axis, np.sign(local), 0.0)
        level = axis == 2
    else:
        radius = np.hypot(local[0], local[1])
        level = (np.abs(local[2]) > radius) & (solid.shape == "cylinder")
        axis = np.where(level, 2, 1)
        up = np.sign(local[2]) * level if solid.shape == "cylinder" else local[2]
        normals = np.stack([local[0] * ~level, local[1] * ~level, up])
        low[0] = np.where(level, low[0], (np.arctan2(local[1], local[0]) + np.pi) * half[:2].mean())
    uv_m = np.stack([np.where(axis == 0, low[1], low[0]), np.where(axis == 2, low[1], low[2])])
    normals = solid.to_unit.T @ normals  # normals go with the inverse transpose of unit -> world
    normals /= np.maximum(np.linalg.norm(normals, axis=0), 1e-12) * (-1.0 if solid.inward else 1.0)
    return normals, uv_m, level
