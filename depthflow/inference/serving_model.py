"""The packaged model as MLflow runs it. MLflow stores this file beside the network in the artifact.

It must serve with only the registry's `SERVING_PACKAGES` installed, so it imports nothing else.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np

from depthflow.inference.predictor import NetworkPredictor, check_network
from depthflow.models.canonical_camera import CAMERA, ModelCamera
from depthflow.models.interface import NETWORK_ARTIFACT, NETWORK_SHA256


class DepthModel(mlflow.pyfunc.PythonModel):
    """Maps uint8 RGB images (B, H, W, 3) of any size to float32 metres (B, H, W) at that size."""

    def load_context(self, context: Any) -> None:
        """Loads the network once."""
        path = context.artifacts[NETWORK_ARTIFACT]
        check_network(Path(path), sha256=(context.model_config or {}).get(NETWORK_SHA256))
        camera = ModelCamera.from_json((context.model_config or {}).get(CAMERA) or {})
        self._predictor = NetworkPredictor.load(path, camera)

    def predict(self, context: Any, model_input, params: dict[str, Any] | None = None) -> Any:
        """Predicts metres. `model_input` has no type hint because MLflow would take it for a schema."""
        return self._predictor(np.asarray(model_input))


mlflow.models.set_model(DepthModel())
