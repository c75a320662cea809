"""Procedural, periodic textures with mip levels, so that far surfaces fade to their mean as in a photograph.

A texture is a 256 x 256 tile of linear albedo in [0, 1] that repeats over a patch of given size in metres.
Colours are drawn at random and say nothing about distance; the *size* of planks, bricks and windows is the
world's.
"""

import dataclasses

import cv2
import numpy as np

TILE_PX = 256


@dataclasses.dataclass(frozen=True)
class Texture:
    """Attributes:
    levels: (S, S, 3) float32 albedo tiles, each half the size of the one before.
    patch_m: extent (u, v) of the tile in metres.
    """

    levels: tuple[np.ndarray, ...]
    patch_m: tuple[float, float]


def texture(tile: np.ndarray, patch_m: tuple[float, float]) -> Texture:
    """A texture from its finest tile (TILE_PX, TILE_PX, 3), values clipped to [0.02, 0.95]."""
    levels = [np.clip(tile, 0.02, 0.95).astype(np.float32)]
    while levels[-1].shape[0] > 1:
        side = levels[-1].shape[0] // 2
        levels.append(levels[-1].reshape(side, 2, side, 2, 3).mean(axis=(1, 3)))
    return Texture(tuple(levels), patch_m)


def sample(source: Texture, uv_m: np.ndarray, footprint_m: np.ndarray) -> np.ndarray:
    """Trilinear look-up.

    Args:
        source: the texture.
        uv_m: (2, N) float64, metres along the surface.
        footprint_m: (N,) float64, the size of a pixel on the surface.

    Returns:
        (N, 3) float32 albedo.
    """
    texel_m = float(np.sqrt(source.patch_m[0] * source.patch_m[1])) / TILE_PX
    level_of = np.clip(np.log2(np.maximum(footprint_m / texel_m, 1e-6)), 0.0, len(source.levels) - 1.0)
    turns = np.stack([uv_m[0] / source.patch_m[0], uv_m[1] / source.patch_m[1]])
    turns -= np.floor(turns)
    albedo = np.zeros((uv_m.shape[1], 3), np.float32)
    for level, tile in enumerate(source.levels):
        weight = 1.0 - np.abs(level_of - level)
        near = np.flatnonzero(weight > 0.0)
        if near.size:
            albedo[near] += weight[near, None].astype(np.float32) * _bilinear(tile, turns[:, near])
    return albedo


def _bilinear(tile: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """(N, 3) values of a periodic tile at (2, N) positions in [0, 1)."""
    side, count = tile.shape[0], turns.shape[1]
    if side == 1:
        return np.broadcast_to(tile[0, 0], (count, 3))
    rows = -(-count // 4096)  # cv2.remap takes no picture with 32768 or more rows or columns
    where = np.zeros((2, rows * 4096), np.float32)
    where[:, :count] = turns * side - 0.5
    maps = where.reshape(2, rows, 4096)
    values = cv2.remap(tile, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return values.reshape(-1, 3)[:count]


def colour(rng: np.random.Generator, *, low: float = 0.12, high: float = 0.8, chroma: float = 0.25) -> np.ndarray:
    """(3,) float64, a random albedo: a grey in [low, high] with a random tint, mostly a faint one."""
    tint = rng.uniform(-1.0, 1.0, 3) * chroma * rng.choice([0.4, 1.0, 2.0], p=[0.35, 0.4, 0.25])
    return np.clip(rng.uniform(low, high) * (1.0 + tint), 0.04, 0.92)


def fractal(rng: np.random.Generator, *, slope: float = 1.2) -> np.ndarray:
    """(TILE_PX, TILE_PX) float64 periodic noise with spectrum 1 / f**slope, mean 0, standard deviation 1."""
    across = np.fft.fftfreq(TILE_PX)[:, None]
    down = np.fft.rfftfreq(TILE_PX)[None, :]
    frequency = np.hypot(across, down)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((TILE_PX, TILE_PX))) / frequency**slope
    noise = np.fft.irfft2(spectrum, s=(TILE_PX, TILE_PX))
    return noise / noise.std()


def _grid(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column coordinates of the tile in cells, (TILE_PX, 1) and (1, TILE_PX) float64."""
    centres = (np.arange(TILE_PX) + 0.5) / TILE_PX
    return centres[:, None] * rows, centres[None, :] * columns


def mottled(rng: np.random.Generator, *, contrast: float = 0.12, size_m: float = 2.0) -> Texture:
    """Plaster, concrete, cloth: one colour with fractal noise."""
    noise = fractal(rng, slope=rng.uniform(0.7, 1.4))
    return texture(colour(rng) * (1.0 + contrast * noise[..., None]), (size_m, size_m))


def checkered(rng: np.random.Generator) -> Texture:
    """Square tiles of two colours, 0.2 to 0.5 m, with a dark joint."""
    row, column = _grid(4, 4)
    odd = (np.floor(row) + np.floor(column)) % 2
    joint = (row % 1 < 0.04) | (column % 1 < 0.04)
    tile = np.where(odd[..., None] > 0, colour(rng), colour(rng)) * np.where(joint, 0.6, 1.0)[..., None]
    size_m = 4.0 * rng.uniform(0.2, 0.5)
    return texture(tile * (1.0 + 0.05 * fractal(rng)[..., None]), (size_m, size_m))


def striped(rng: np.random.Generator) -> Texture:
    """Wallpaper: upright stripes of two colours, 0.1 to 0.3 m wide."""
    _, column = _grid(1, 6)
    share = rng.uniform(0.3, 0.7)
    first = np.broadcast_to(column % 1 < share, (TILE_PX, TILE_PX))
    base = colour(rng)
    tile = np.where(first[..., None], base, 0.6 * base + 0.4 * colour(rng))
    size_m = 6.0 * rng.uniform(0.1, 0.3)
    return texture(tile * (1.0 + 0.04 * fractal(rng)[..., None]), (size_m, size_m))


def bricks(
    rng: np.random.Generator, *, rows: int, columns: int, size_m: tuple[float, float], joint: float = 0.08
) -> Texture:
    """Bricks, planks or paving: rows of blocks, each row shifted, each block a tone of its own, in metres."""
    row, column = _grid(rows, columns)
    shift = rng.permutation(rows) / rows if rows > 2 else np.arange(rows) * 0.5
    line = np.floor(row).astype(int)
    column = column + shift[line]
    block = np.floor(column).astype(int) % columns
    tone = rng.uniform(0.75, 1.2, (rows, columns))[np.broadcast_to(line, block.shape), block]
    gap = (row % 1 < joint) | (column % 1 < joint * size_m[1] * columns / (size_m[0] * rows))
    tile = colour(rng) * (tone * np.where(gap, rng.uniform(0.45, 0.8), 1.0))[..., None]
    return texture(tile * (1.0 + 0.06 * fractal(rng)[..., None]), size_m)


def planks(rng: np.random.Generator) -> Texture:
    """A wooden floor: planks 0.1 to 0.2 m wide, 1.2 to 2 m long, or the same crosswise."""
    laid = bricks(rng, rows=8, columns=2, size_m=(2 * rng.uniform(1.2, 2.0), 8 * rng.uniform(0.1, 0.2)), joint=0.05)
    if rng.random() < 0.5:
        return laid
    return Texture(tuple(level.transpose(1, 0, 2).copy() for level in laid.levels), (laid.patch_m[1], laid.patch_m[0]))


def painting(rng: np.random.Generator) -> Texture:
    """A picture on a wall, or a rug: a few flat colours in blobs."""
    zone = np.digitize(fractal(rng, slope=2.0), [-0.8, 0.0, 0.8])
    palette = np.stack([colour(rng, chroma=0.6) for _ in range(4)])
    return texture(palette[zone], (rng.uniform(0.5, 2.0), rng.uniform(0.5, 2.0)))


def window_pane(rng: np.random.Generator, *, size_m: tuple[float, float]) -> Texture:
    """A window seen from inside: bright glass, and a frame with a cross."""
    row, column = _grid(1, 1)
    away = np.minimum(np.abs(row - 0.5) * size_m[1], np.abs(column - 0.5) * size_m[0])
    rim = np.maximum(np.abs(row - 0.5) + 0.07 / size_m[1], np.abs(column - 0.5) + 0.07 / size_m[0]) > 0.5
    glass = 0.9 + 0.05 * fractal(rng, slope=2.0)[..., None] * np.array([0.8, 0.9, 1.0])
    return texture(np.where((rim | (away < 0.03))[..., None], colour(rng, low=0.3), glass), size_m)


def facade(rng: np.random.Generator) -> Texture:
    """A house front: 4 x 4 windows, each dark, curtained or bright, storeys of 2.7 to 3.6 m."""
    row, column = _grid(4, 4)
    low, high = rng.uniform(0.2, 0.35), rng.uniform(0.7, 0.85)
    left, right = rng.uniform(0.15, 0.35), rng.uniform(0.65, 0.85)
    pane = (row % 1 > low) & (row % 1 < high) & (column % 1 > left) & (column % 1 < right)
    frame = (row % 1 > low - 0.06) & (row % 1 < high + 0.04) & (column % 1 > left - 0.05) & (column % 1 < right + 0.05)
    wall = colour(rng) * (1.0 + 0.07 * fractal(rng)[..., None])
    wall *= np.where((row % 1 < 0.05) & (rng.random() < 0.5), 0.8, 1.0)[..., None]
    glass = rng.uniform(0.04, 0.5, (4, 4)) * rng.choice([0.5, 1.0], (4, 4))
    shade = glass[np.floor(row).astype(int), np.floor(column).astype(int)][..., None] * np.array([0.9, 1.0, 1.1])
    tile = np.where(pane[..., None], shade, np.where(frame[..., None], colour(rng, low=0.4), wall))
    return texture(tile, (4 * rng.uniform(2.2, 4.0), 4 * rng.uniform(2.7, 3.6)))


def asphalt_road(rng: np.random.Generator, *, width_m: float) -> Texture:
    """A road that runs along v: asphalt, a dashed centre line every 6 to 9 m, edge lines."""
    row, column = _grid(1, 1)
    metres = np.broadcast_to(column * width_m, (TILE_PX, TILE_PX))
    dash = (np.abs(metres - width_m / 2) < 0.09) & (row < rng.uniform(0.35, 0.6))
    edge = (np.abs(metres - 0.35) < 0.07) | (np.abs(metres - width_m + 0.35) < 0.07)
    tile = colour(rng, low=0.14, high=0.34, chroma=0.05) * (1.0 + 0.14 * fractal(rng, slope=0.7)[..., None])
    painted = (dash | (edge & (rng.random() < 0.6)))[..., None]
    return texture(np.where(painted, rng.uniform(0.55, 0.85), tile), (width_m, rng.uniform(6.0, 9.0)))
