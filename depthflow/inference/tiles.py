"""Adds detail to large images from overlapping tiles, each fitted to the prediction for the whole image."""

from collections.abc import Iterable
from itertools import product

import numpy as np

from depthflow.models.interface import Output, Predictor

OVERLAP = 0.25
"""Least fraction of a tile that its neighbour covers too."""
LEAST_WEIGHT = 1e-3
"""Weight of a tile's outermost pixels. At the image's border no other tile covers them, so it must not be 0."""


class TiledPredictor:
    """Predicts the whole image, then tiles of it, and merges the tiles' detail into the whole.

    Shrunk to the network's size, a tile keeps more detail than the whole image. But it looks like an image taken with
    a longer lens, so its metres are wrong. Its log-depth is therefore scaled and shifted to fit the whole's by least
    squares. Tiles are then blended with weights that fall towards their borders.

    Args:
        predictor: Predictor of metres or relative depth.
        tile_px: Side of a tile. Smaller images are predicted without tiles.

    Raises:
        ValueError: if the predictor predicts inverse depth, whose shift differs between tiles.

    Source: Miangoleh et al. 2021, arXiv:2105.14021, with a linear fit instead of the merging network.
    """

    def __init__(self, predictor: Predictor, *, tile_px: int) -> None:
        if predictor.output == "relative inverse depth":
            raise ValueError(f"Tiles need a predictor of metres or relative depth. Received: {predictor.output}")
        self._predictor = predictor
        self.output: Output = predictor.output
        self._tile_px = tile_px

    def __call__(self, rgb: np.ndarray, focal: np.ndarray | None = None) -> np.ndarray:
        """Predicts (B, H, W) float32 from (B, H, W, 3) uint8, in the unit of `output`."""
        whole = self._predictor(rgb, focal)
        if max(rgb.shape[1:3]) <= self._tile_px:
            return whole
        return np.stack([self._detailed(image, depth_m) for image, depth_m in zip(rgb, whole, strict=True)])

    def _detailed(self, rgb: np.ndarray, whole: np.ndarray) -> np.ndarray:
        tiling = Tiling(whole.shape, (self._tile_px, self._tile_px))
        tiles = ((np.log(self._predictor(rgb[place][None])[0]), np.log(whole[place])) for place in tiling.places)
        return np.exp(tiling.blended(_fitted(tile, of_whole) for tile, of_whole in tiles))


class Tiling:
    """Overlapping tiles that cover an image, and how values of the tiles become values of the image.

    Args:
        shape: Height and width of the image.
        tile: Those of a tile; a longer side than the image's is cut to it.
    """

    def __init__(self, shape: tuple[int, int], tile: tuple[int, int]) -> None:
        self._shape = shape
        self.places = [*product(*(tile_slices(length, tile_px=side) for length, side in zip(shape, tile, strict=True)))]

    def blended(self, tiles: Iterable[np.ndarray]) -> np.ndarray:
        """Returns the mean of the tiles, (h, w) float each, with weights that fall towards the borders of each."""
        sums, weights = np.zeros(self._shape, np.float32), np.zeros(self._shape, np.float32)
        for place, tile in zip(self.places, tiles, strict=True):
            weight = np.outer(*(_ramp(length) for length in tile.shape))
            sums[place] += weight * tile
            weights[place] += weight
        return sums / weights


def tile_slices(length: int, *, tile_px: int) -> list[slice]:
    """Returns evenly spaced tiles that cover a length and overlap by at least `OVERLAP`."""
    if length <= tile_px:
        return [slice(0, length)]
    count = 1 + int(np.ceil((length - tile_px) / (tile_px * (1 - OVERLAP))))
    starts = np.linspace(0, length - tile_px, count).round().astype(int)
    return [slice(start, start + tile_px) for start in starts.tolist()]


def _fitted(log_tile: np.ndarray, log_whole: np.ndarray) -> np.ndarray:
    """Returns the tile, scaled and shifted to fit the whole by least squares. The scale is never negative."""
    centred = log_tile - log_tile.mean()
    spread = float(np.mean(centred**2))
    scale = max(0.0, float(np.mean(centred * (log_whole - log_whole.mean()))) / spread) if spread > 0 else 0.0
    return scale * centred + log_whole.mean()


def _ramp(length: int) -> np.ndarray:
    """Returns (length,) float32 weights: 1 in the middle, falling over the overlap to `LEAST_WEIGHT` at both ends."""
    to_border = np.minimum(np.arange(length), np.arange(length)[::-1]) / max(1.0, OVERLAP * length)
    return np.clip(to_border, LEAST_WEIGHT, 1.0).astype(np.float32)
