"""The interface of a depth model for evaluation and prediction, however it is implemented."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

Output = Literal["metres", "relative inverse depth"]
"""What a model predicts: metric depth, or inverse depth up to a scale and a shift that differ between images."""


class Predictor(Protocol):
    """A depth model.

    Attributes:
        output: What it predicts.
    """

    output: Output

    def __call__(self, rgb: np.ndarray, focal: np.ndarray | None = None) -> np.ndarray:
        """Predicts depth.

        Args:
            rgb: (B, H, W, 3) uint8; H and W may be any size.
            focal: (B,) float, focal lengths relative to the image size (`depthflow.datasets.camera`), NaN where
                unknown; None if all are. Only models of the canonical camera use them.

        Returns:
            (B, H, W) float32 > 0, in the unit of `output`.
        """
        ...


LoadPredictor = Callable[[], Predictor]
"""Loads a `Predictor`, once in each process that uses it."""


NETWORK_SHA256 = "network_sha256"
"""Name under which the registry and the packaged model keep the SHA-256 of the network's file."""

LICENCE_TAG = "weights.licence"
"""Tag of a run or version that says under which licence its pre-trained weights are, if it is known."""

NETWORK_ARTIFACT = "network"
"""Name of the network's .keras file in a packaged model."""

FX_PX, FY_PX = "fx_px", "fy_px"
"""Parameters of the packaged model: the focal lengths of all images of a request, in pixels of these."""

OUTPUT_FORMAT = "output_format"
"""Parameter of the packaged model that says how depth comes back."""

ARRAY = "array"
"""The value of `OUTPUT_FORMAT` for float32 metres; JSON numbers over HTTP."""


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
