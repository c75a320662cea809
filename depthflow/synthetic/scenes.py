"""Random rooms and streets: solids with textures, a lamp, and the area in which a camera may stand."""

import dataclasses

import numpy as np

from depthflow.synthetic.raycast import Shape, Solid
from depthflow.synthetic.textures import (
    Texture,
    asphalt_road,
    bricks,
    checkered,
    facade,
    mottled,
    painting,
    planks,
    striped,
    window_pane,
)

STREET_END_M = 230.0  # a little beyond what the laser sees


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thing:
    """A solid with its textures.

    Attributes:
        solid: its geometry.
        side, top: textures of upright faces, and of floors, ceilings and tops.
        bottom: the floor of a room, where it differs from the ceiling.
        returns: False for glass and mirrors, of which a laser sees nothing.
    """

    solid: Solid
    side: Texture
    top: Texture
    bottom: Texture | None = None
    returns: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """All that a view is rendered from.

    Attributes:
        things: the solids; in a room the first is the room itself.
        near_m, far_m: the depths the laser measures.
        lamp_m, lamp_rgb, falloff_m: the lamp; its light halves at falloff_m, inf for the far-away sun.
        ambient_rgb: (3,) light from everywhere.
        sky_rgb: (2, 3) colours at the horizon and overhead; far things fade to the horizon's.
        haze_m: distance at which 1 - 1/e of a thing is haze; inf for none.
        stand_m: ((x low, x high), (y low, y high), (z low, z high)) of the camera.
        yaw_rad, pitch_rad: ranges of the camera's direction.
        speed_m_s: range of speeds at which a camera is carried or driven through it.
    """

    things: tuple[Thing, ...]
    near_m: float
    far_m: float
    lamp_m: tuple[float, float, float]
    lamp_rgb: np.ndarray
    falloff_m: float
    ambient_rgb: np.ndarray
    sky_rgb: np.ndarray
    haze_m: float
    stand_m: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    yaw_rad: tuple[float, float]
    pitch_rad: tuple[float, float]
    speed_m_s: tuple[float, float]

    @property
    def is_room(self) -> bool:
        """Whether it is a room, not a street."""
        return self.things[0].solid.inward


def block(
    low_m: tuple[float, float, float],
    size_m: tuple[float, float, float],
    side: Texture,
    *,
    top: Texture | None = None,
    shape: Shape = "box",
    yaw_rad: float = 0.0,
    returns: bool = True,
) -> Thing:
    """A thing from the low corner and the size of its (unturned) bounding box."""
    half = (size_m[0] / 2, size_m[1] / 2, size_m[2] / 2)
    centre = (low_m[0] + half[0], low_m[1] + half[1], low_m[2] + half[2])
    solid = Solid(shape=shape, centre_m=centre, half_m=half, yaw_rad=yaw_rad)
    return Thing(solid=solid, side=side, top=top or side, returns=returns)


def room_scene(rng: np.random.Generator) -> Scene:
    """A furnished room of 3.8 x 4.8 to 7.5 x 9.3 m (diagonal 12 m), 2.4 to 3.4 m high; a ceiling lamp."""
    size_m = (rng.uniform(3.8, 7.5), rng.uniform(4.8, 9.3), rng.uniform(2.4, 3.4))
    half = (size_m[0] / 2, size_m[1] / 2, size_m[2] / 2)
    room = Thing(
        solid=Solid(shape="box", centre_m=half, half_m=half, inward=True),
        side=_wallpaper(rng),
        top=mottled(rng, contrast=0.04),
        bottom=_floor(rng),
    )
    things = [room, *_wall_things(rng, size_m)]
    for _ in range(rng.integers(7, 14)):
        things += _furniture(rng, size_m)
    warmth = rng.uniform(0.8, 1.0, 3)
    return Scene(
        things=tuple(things),
        near_m=0.6,
        far_m=12.0,
        lamp_m=(size_m[0] * rng.uniform(0.3, 0.7), size_m[1] * rng.uniform(0.3, 0.7), size_m[2] - 0.2),
        lamp_rgb=warmth * rng.uniform(1.0, 1.8),
        falloff_m=rng.uniform(1.5, 3.0),
        ambient_rgb=np.full(3, rng.uniform(0.2, 0.4)),
        sky_rgb=np.ones((2, 3)),
        haze_m=np.inf,
        stand_m=((0.65, size_m[0] - 0.65), (0.65, size_m[1] - 0.65), (1.2, 1.8)),
        yaw_rad=(0.0, 2.0 * np.pi),
        pitch_rad=(-0.24, 0.02),
        speed_m_s=(0.8, 1.4),
    )


def _wallpaper(rng: np.random.Generator) -> Texture:
    kind = rng.integers(4)
    if kind == 0:
        return striped(rng)
    if kind == 1:
        return bricks(rng, rows=12, columns=4, size_m=(4 * rng.uniform(0.22, 0.4), 12 * rng.uniform(0.07, 0.12)))
    return mottled(rng, contrast=rng.uniform(0.03, 0.12))


def _floor(rng: np.random.Generator) -> Texture:
    kind = rng.integers(4)
    if kind == 0:
        return mottled(rng, contrast=0.2, size_m=1.0)
    return checkered(rng) if kind == 1 else planks(rng)


def _wall_things(rng: np.random.Generator, size_m: tuple[float, float, float]) -> list[Thing]:
    """Windows (no return), doors and pictures, at most one on each half of a wall; perhaps a rug."""
    things = []
    for place in rng.permutation(8)[: rng.integers(3, 8)]:
        wall, part = divmod(int(place), 2)
        length = (size_m[1] if wall < 2 else size_m[0]) / 2
        kind = rng.choice(["window", "door", "picture", "picture"])
        wide, high, up = rng.uniform(0.3, 1.0), rng.uniform(0.3, 0.9), 1.2
        skin = painting(rng)
        if kind == "door":
            wide, high, up, skin = rng.uniform(0.8, 1.0), 2.05, 0.0, mottled(rng, contrast=0.05)
        elif kind == "window":
            wide, high, up = rng.uniform(0.7, 1.4), 1.2, 0.9
            skin = window_pane(rng, size_m=(wide, high))
        along, thick = part * length + rng.uniform(0.1, length - wide - 0.1), 0.04
        across = 0.0 if wall % 2 == 0 else size_m[0 if wall < 2 else 1] - thick
        low = (across, along, up) if wall < 2 else (along, across, up)
        size = (thick, wide, high) if wall < 2 else (wide, thick, high)
        things.append(block(low, size, skin, returns=kind != "window"))
    if rng.random() < 0.6:
        rug = (min(2.5, size_m[0] - 1), min(3.0, size_m[1] - 1), 0.015)
        things.append(block((rng.uniform(0, 1), rng.uniform(0, 1), 0.0), rug, painting(rng)))
    return things


def _furniture(rng: np.random.Generator, size_m: tuple[float, float, float]) -> list[Thing]:
    """One piece: a cabinet or sofa at a wall, or a table, stool, ball, floor lamp or crate anywhere."""
    wood, cloth = (planks if rng.random() < 0.4 else mottled)(rng), mottled(rng, contrast=0.18, size_m=0.6)
    x, y = rng.uniform(0.1, size_m[0] - 1.3), rng.uniform(0.1, size_m[1] - 1.3)
    wall_x = 0.0 if rng.random() < 0.5 else None
    kind = rng.integers(8)
    if kind <= 1:  # a cabinet or shelf along a wall
        deep, wide, high = rng.uniform(0.3, 0.6), rng.uniform(0.6, 1.8), rng.uniform(0.7, 2.1)
        return [block((0.0 if wall_x == 0.0 else size_m[0] - deep, y, 0.0), (deep, wide, high), wood)]
    if kind == 2:  # a sofa: seat and back
        wide, back_x = rng.uniform(1.4, 2.2), 0.0 if wall_x == 0.0 else size_m[0] - 0.25
        seat_x = 0.0 if wall_x == 0.0 else size_m[0] - 0.9
        return [
            block((seat_x, y, 0.0), (0.9, wide, 0.45), cloth),
            block((back_x, y, 0.0), (0.25, wide, 0.9), cloth),
        ]
    if kind == 3:
        return _table(rng, x, y, wood)
    if kind == 4:
        wide, high = rng.uniform(0.3, 0.5), rng.uniform(0.4, 0.6)
        return [block((x, y, 0.0), (wide, wide, high), cloth, top=wood, shape="cylinder")]
    if kind == 5:
        wide = rng.uniform(0.2, 0.7)
        return [block((x, y, 0.0), (wide, wide, wide), painting(rng), shape="ellipsoid")]
    if kind == 6:  # a floor lamp
        return [
            block((x + 0.17, y + 0.17, 0.0), (0.06, 0.06, 1.4), wood, shape="cylinder"),
            block((x, y, 1.4), (0.4, 0.4, 0.3), cloth, shape="cylinder"),
        ]
    wide, high = rng.uniform(0.3, 0.8), rng.uniform(0.3, 1.0)
    return [block((x + 0.1, y + 0.1, 0.0), (wide, wide, high), wood, yaw_rad=rng.uniform(0, np.pi))]


def _table(rng: np.random.Generator, x: float, y: float, wood: Texture) -> list[Thing]:
    """A table with four legs and a vase."""
    wide, deep, high, leg = rng.uniform(0.8, 1.2), rng.uniform(0.6, 1.2), rng.uniform(0.45, 0.78), 0.06
    legs = [
        block((x + i * (wide - leg), y + j * (deep - leg), 0.0), (leg, leg, high), wood) for i in (0, 1) for j in (0, 1)
    ]
    vase = block((x + 0.3, y + 0.2, high + 0.04), (0.14, 0.14, 0.25), mottled(rng), shape="cylinder")
    return [block((x, y, high), (wide, deep, 0.04), wood), *legs, vase]


def street_scene(rng: np.random.Generator) -> Scene:
    """A street to the north: road, pavements, houses on both sides, cars, poles and trees; sun and haze."""
    road_m, pavement_m = rng.uniform(5.5, 10.0), rng.uniform(2.0, 4.5)
    edge = road_m / 2 + pavement_m
    asphalt = asphalt_road(rng, width_m=road_m)
    paving = bricks(rng, rows=6, columns=4, size_m=(4 * rng.uniform(0.3, 0.7), 6 * rng.uniform(0.2, 0.5)), joint=0.05)
    behind = -60.0
    length = STREET_END_M - behind
    things = [
        block((-road_m / 2, behind, -1.0), (road_m, length, 1.0), asphalt),
        block((-160.0, behind, -1.0), (160.0 - road_m / 2, length, 1.12), paving),
        block((road_m / 2, behind, -1.0), (160.0 - road_m / 2, length, 1.12), paving),
        *_houses(rng, -edge, -1),
        *_houses(rng, edge, 1),
        *_street_furniture(rng, road_m),
    ]
    if rng.random() < 0.5:  # the street ends at a crossing house
        end = rng.uniform(70.0, 190.0)
        things.append(block((-30.0, end, 0.0), (60.0, 12.0, rng.uniform(8.0, 25.0)), facade(rng)))
    bearing, rise = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.35, 1.2)
    sun = 2000.0 * np.array([np.sin(bearing) * np.cos(rise), np.cos(bearing) * np.cos(rise), np.sin(rise)])
    clear = rng.uniform(0.2, 1.0)
    return Scene(
        things=tuple(things),
        near_m=0.6,
        far_m=200.0,
        lamp_m=(float(sun[0]), float(sun[1]), float(sun[2])),
        lamp_rgb=np.array([1.0, 0.95, 0.85]) * 1.8 * clear,
        falloff_m=np.inf,
        ambient_rgb=np.array([0.9, 0.97, 1.05]) * (0.75 - 0.4 * clear),
        sky_rgb=_sky(rng),
        haze_m=rng.uniform(350.0, 1500.0),
        stand_m=((-edge + 0.8, edge - 0.8), (-20.0, 40.0), (1.35, 2.0)),
        yaw_rad=(-0.9, 0.9),
        pitch_rad=(-0.12, 0.12),
        speed_m_s=(3.0, 6.0),
    )


def _sky(rng: np.random.Generator) -> np.ndarray:
    """(2, 3) colours at the horizon and overhead, grey or blue."""
    horizon = rng.uniform(0.55, 0.85) * np.array([0.95, 1.0, 1.05])
    zenith = horizon * (rng.uniform(0.8, 1.0) if rng.random() < 0.4 else np.array([0.35, 0.55, 0.9]))
    return np.stack([horizon, zenith])


def _houses(rng: np.random.Generator, x: float, side: int) -> list[Thing]:
    """A row of houses from x outwards (side -1 west, +1 east), with gaps now and then."""
    fronts = [facade(rng) for _ in range(5)]
    roof = mottled(rng)
    things, y = [], rng.uniform(-60.0, -45.0)
    while y < STREET_END_M:
        wide, deep, high = rng.uniform(8.0, 26.0), rng.uniform(8.0, 14.0), rng.uniform(4.0, 22.0)
        back = rng.uniform(0.0, 3.0) if rng.random() < 0.4 else 0.0
        low_x = x + back if side > 0 else x - back - deep
        things.append(block((low_x, y, 0.0), (deep, wide, high), fronts[rng.integers(5)], top=roof))
        y += wide + (rng.uniform(2.0, 15.0) if rng.random() < 0.35 else 0.0)
    return things


def _street_furniture(rng: np.random.Generator, road_m: float) -> list[Thing]:
    """Parked cars at the kerbs, lamp posts and trees on the pavements."""
    things = []
    tyre, leaf, bark, metal = mottled(rng), mottled(rng, contrast=0.3, size_m=1.5), mottled(rng), mottled(rng)
    for _ in range(rng.integers(4, 10)):
        side, y = rng.choice([-1, 1]), rng.uniform(-10.0, 90.0)
        things += car(side * (road_m / 2 - 1.0) - 0.9, y, mottled(rng, contrast=0.02), rng.uniform(3.6, 4.8), tyre)
    for _ in range(rng.integers(4, 12)):
        x, y = rng.choice([-1, 1]) * (road_m / 2 + 0.5), rng.uniform(-15.0, 120.0)
        if rng.random() < 0.5:
            things.append(block((x, y, 0.0), (0.14, 0.14, rng.uniform(4.0, 7.0)), metal, shape="cylinder"))
            continue
        trunk, crown = rng.uniform(1.8, 3.0), rng.uniform(2.0, 4.0)
        low = (x + 0.15 - crown / 2, y + 0.15 - crown / 2, trunk - 0.3)
        things += [
            block((x, y, 0.0), (0.3, 0.3, trunk), bark, shape="cylinder"),
            block(low, (crown, crown, crown * rng.uniform(0.8, 1.4)), leaf, shape="ellipsoid"),
        ]
    if rng.random() < 0.7:  # a kiosk
        x, y, wide = rng.choice([-1, 1]) * (road_m / 2 + 1.2), rng.uniform(5.0, 60.0), rng.uniform(0.8, 1.4)
        things.append(block((x - wide / 2, y, 0.0), (wide, wide, rng.uniform(1.2, 2.6)), striped(rng)))
    return things


def car(x: float, y: float, paint: Texture, long: float, tyre: Texture) -> list[Thing]:
    """A car along the street, 1.8 m wide, from its low corner."""
    return [
        block((x, y, 0.3), (1.8, long, 0.6), paint),
        block((x + 0.15, y + 0.22 * long, 0.9), (1.5, 0.55 * long, 0.55), tyre, top=paint),
        *(block((x + 0.05, y + share * long, 0.0), (1.7, 0.16 * long, 0.6), tyre) for share in (0.12, 0.72)),
    ]
