"""Depth as a canonical camera would see it, so that one network learns from, and predicts for, any lens.

A lens of twice the focal length makes an object look twice as large, as if it were at half the distance: from an image
alone, depth is known only up to the focal length. The network therefore learns depth x f_canonical / f, and its
prediction is multiplied by f / f_canonical of the image's own lens. A zoom by z divides this depth by z, as a longer
lens does.

f is the geometric mean of fx and fy in pixels of the network's input. With f_canonical = sqrt(height x width) of that
input, f / f_canonical is `depthflow.datasets.camera.relative_focal`, which no resize of an image changes, not even one
that distorts it.

Source: Yin et al. 2023, Metric3D, arXiv:2307.10984, section 3.1 (labels transformed, images not).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

CameraName = Literal["none", "canonical"]
CAMERA = "model_camera"
"""Name under which the registry and the packaged model keep a `ModelCamera`."""


def to_canonical(log_depth: np.ndarray, focal: np.ndarray) -> np.ndarray:
    """Converts log-depth to that of the canonical camera.

    Args:
        log_depth: (B, ...) float32, natural log of metres.
        focal: (B,) float, each image's `relative_focal`.
    """
    return log_depth - _per_image(np.log(focal), log_depth)


def to_metres(log_depth: np.ndarray, focal: np.ndarray) -> np.ndarray:
    """Converts log-depth of the canonical camera to metres, (B, ...); the inverse of `to_canonical` and log."""
    return np.exp(log_depth) * _per_image(focal, log_depth)


def _per_image(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.asarray(values).astype(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True, kw_only=True)
class ModelCamera:
    """What a model knows about cameras.

    Attributes:
        camera: canonical if the network predicts the depth of the canonical camera.
        median_focal: Median `relative_focal` of its training images; None if none is known.
        least_focal: The least of them, that of the widest lens; None if none is known.
    """

    camera: CameraName = "none"
    median_focal: float | None = None
    least_focal: float | None = None

    def __post_init__(self) -> None:
        focals = [focal for focal in (self.median_focal, self.least_focal) if focal is not None]
        valid = all(isinstance(focal, float) and 0 < focal < math.inf for focal in focals)
        known = self.camera == "none" or self.median_focal is not None
        if self.camera not in ("none", "canonical") or not (known and valid):
            raise ValueError(f"a camera is none or canonical, with a median focal length. Received: {asdict(self)}")

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, from which `from_json` makes it again."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "ModelCamera":
        """Reads what `to_json` returned; models that are older than the canonical camera saved nothing.

        Raises:
            ValueError: if it is no camera.
        """
        return cls(**{name: saved[name] for name in ("camera", "median_focal", "least_focal") if name in saved})

    def metres(self, log_depth: np.ndarray, focal: np.ndarray | None) -> np.ndarray:
        """Converts the network's output to metres.

        Args:
            log_depth: (B, ...) float32.
            focal: (B,) float, each image's `relative_focal`, NaN where unknown; None if all are unknown. The training
                images' median stands in for what is unknown.
        """
        if self.camera == "none":
            return np.exp(log_depth)
        known = np.full(len(log_depth), np.nan) if focal is None else np.asarray(focal, np.float64)
        return to_metres(log_depth, np.where(np.isnan(known), np.float64(self.median_focal or np.nan), known))
