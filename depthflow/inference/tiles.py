"""Detail for large photographs: overlapping tiles, each fitted to the prediction of the whole."""

from itertools import product

import numpy as np

from depthflow.models.interface import Output, Predictor

OVERLAP = 0.25
"""Share of a tile that it shares with its neighbour, at least."""
LEAST_WEIGHT = 1e-3
"""Of a tile's outermost pixels, which at the photograph's border nothing else covers."""


class TiledPredictor:
    """Predicts the whole photograph, then tiles of it, and lays the tiles' detail over the whole.

    A network sees a large photograph shrunk to its own size, and a tile much less so. But a tile looks like a picture
    taken with a longer lens, so its metres are not to be trusted: its log-depth is fitted to the whole's by least
    squares, scale and shift, before tiles are blended with weights that fall towards their borders (the idea of
    Miangoleh et al. 2021, arXiv:2105.14021, with a linear fit for its merging network).

    Args:
        predictor: of metres.
        tile_px: side of a tile; photographs with no longer side are predicted as a whole alone.

    Raises:
        ValueError: if the predictor gives no metres.
    """

    output: Output = "metres"

    def __init__(self, predictor: Predictor, *, tile_px: int) -> None:
        if predictor.output != "metres":
            raise ValueError(f"Tiles are fitted in metres. Received a predictor of {predictor.output}.")
        self._predictor = predictor
        self._tile_px = tile_px

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8 to (B, H, W) float32 metres."""
        whole = self._predictor(rgb)
        if max(rgb.shape[1:3]) <= self._tile_px:
            return whole
        return np.stack([self._detailed(image, depth_m) for image, depth_m in zip(rgb, whole, strict=True)])

    def _detailed(self, rgb: np.ndarray, whole_m: np.ndarray) -> np.ndarray:
        sums, weights = np.zeros_like(whole_m), np.zeros_like(whole_m)
        rows, columns = (tile_slices(length, tile_px=self._tile_px) for length in whole_m.shape)
        for place in product(rows, columns):
            log_tile = np.log(self._predictor(rgb[place][None])[0])
            fitted = _fitted(log_tile, np.log(whole_m[place]))
            weight = np.outer(*(_ramp(length) for length in fitted.shape))
            sums[place] += weight * fitted
            weights[place] += weight
        return np.exp(sums / weights)


def tile_slices(length: int, *, tile_px: int) -> list[slice]:
    """Evenly spaced tiles that cover a length and overlap by `OVERLAP` at least; one if it is no longer than a tile."""
    if length <= tile_px:
        return [slice(0, length)]
    count = 1 + int(np.ceil((length - tile_px) / (tile_px * (1 - OVERLAP))))
    starts = np.linspace(0, length - tile_px, count).round().astype(int)
    return [slice(start, start + tile_px) for start in starts.tolist()]


def _fitted(log_tile: np.ndarray, log_whole: np.ndarray) -> np.ndarray:
    """The tile, scaled and shifted to the whole by least squares; never turned over."""
    centred = log_tile - log_tile.mean()
    spread = float(np.mean(centred**2))
    scale = max(0.0, float(np.mean(centred * (log_whole - log_whole.mean()))) / spread) if spread > 0 else 0.0
    return scale * centred + log_whole.mean()


def _ramp(length: int) -> np.ndarray:
    """(length,) float32: 1 in the middle, falling over the overlap to `LEAST_WEIGHT` at both ends."""
    to_border = np.minimum(np.arange(length), np.arange(length)[::-1]) / max(1.0, OVERLAP * length)
    return np.clip(to_border, LEAST_WEIGHT, 1.0).astype(np.float32)
