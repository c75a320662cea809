"""What a depth model is to whoever evaluates it or predicts with it, whatever it is made of."""

from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np

Output = Literal["metres", "relative inverse depth"]
"""What a model predicts: metric depth, or inverse depth up to a scale and a shift that differ from image to image."""


class Predictor(Protocol):
    """A depth model.

    Attributes:
        output: what it predicts.
    """

    output: Output

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Depth of photographs.

        Args:
            rgb: (B, H, W, 3) uint8, of any one size.

        Returns:
            (B, H, W) float32 of what `output` says, > 0.
        """
        ...


LoadPredictor = Callable[[], Predictor]
"""Makes a `Predictor`, once, in a process that will use it."""


class LoadableModel(Protocol):
    """A model that other processes can load.

    Attributes:
        load: Makes the predictor.
        python: Interpreter of the processes that hold it; None for Ray's own.
    """

    @property
    def load(self) -> LoadPredictor: ...  # noqa: D102
    @property
    def python(self) -> str | None: ...  # noqa: D102


NETWORK_ARTIFACT = "network"
"""Name of the network's .keras file in a packaged model."""
