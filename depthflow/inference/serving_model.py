"""The packaged model, as MLflow runs it: this file is the model's code, kept beside the network in the artifact.

It serves where no more is installed than `SERVING_PACKAGES` of the registry, so it imports no more.
"""

from typing import Any

import mlflow
import numpy as np

from depthflow.inference.predictor import NetworkPredictor
from depthflow.models.interface import NETWORK_ARTIFACT


class DepthModel(mlflow.pyfunc.PythonModel):
    """uint8 RGB photographs (B, H, W, 3) of any size to float32 metres (B, H, W) at that size."""

    def load_context(self, context: Any) -> None:
        """Loads the network once."""
        self._predictor = NetworkPredictor.load(context.artifacts[NETWORK_ARTIFACT])

    def predict(self, context: Any, model_input, params: dict[str, Any] | None = None) -> Any:
        """Depth in metres. `model_input` has no type hint: MLflow would take it for a schema."""
        return self._predictor(np.asarray(model_input))


mlflow.models.set_model(DepthModel())
