"""The interface of a depth model for evaluation and prediction, however it is implemented."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

Output = Literal["metres", "relative depth", "relative inverse depth"]
"""What a model predicts.

- metres: metric depth.
- relative depth: depth up to a positive factor, the same for all images: larger is farther. What a network learns from
  the video of a camera whose motion is unknown.
- relative inverse depth: inverse depth up to a scale and a shift that differ between images: larger is nearer.
"""


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
            (B, H, W) float32 > 0, in the unit of `output`; relative inverse depth may be 0.
        """
        ...


LoadPredictor = Callable[[], Predictor]
"""Loads a `Predictor`, once in each process that uses it."""


NETWORK_SHA256 = "network_sha256"
"""Name under which the registry and the packaged model keep the SHA-256 of the network's file."""

MODEL_OUTPUT = "model_output"
"""Name under which the registry, the packaged model and exported networks keep what a network predicts."""

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


def saved_output(saved: Mapping[str, Any]) -> Output:
    """Reads what a network predicts from what was saved with it; older ones say nothing and predict metres.

    Raises:
        ValueError: if a log-depth network cannot predict it.
    """
    match saved.get(MODEL_OUTPUT, "metres"):
        case "metres" | "relative depth" as output:
            return output
        case other:
            raise ValueError(f"{MODEL_OUTPUT} is metres or relative depth. Received: {other!r}")


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
