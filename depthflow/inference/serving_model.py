"""The packaged model as MLflow runs it. MLflow stores this file beside the network in the artifact.

It must serve with only the registry's `SERVING_PACKAGES` installed, so it imports nothing else.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException

from depthflow.datasets.reject import RejectError
from depthflow.inference.encoded import OUTPUT_FORMATS, check_images, decode_image
from depthflow.inference.predictor import NetworkPredictor, check_network
from depthflow.models.canonical_camera import CAMERA, ModelCamera
from depthflow.models.interface import ARRAY, NETWORK_ARTIFACT, NETWORK_SHA256, OUTPUT_FORMAT


class DepthModel(mlflow.pyfunc.PythonModel):
    """Maps images of any size to metres at that size.

    Images are a uint8 array (B, H, W, 3), or a column of image files, each bytes or base64 text and of its own size.
    """

    def load_context(self, context: Any) -> None:
        """Loads the network once."""
        path = context.artifacts[NETWORK_ARTIFACT]
        check_network(Path(path), sha256=(context.model_config or {}).get(NETWORK_SHA256))
        camera = ModelCamera.from_json((context.model_config or {}).get(CAMERA) or {})
        self._predictor = NetworkPredictor.load(path, camera)

    def predict(self, context: Any, model_input, params: dict[str, Any] | None = None) -> Any:
        """Predicts metres. `model_input` has no type hint because MLflow would take it for a schema.

        Args:
            context: MLflow's, unused.
            model_input: (B, H, W, 3) uint8, or (B,) files.
            params: `OUTPUT_FORMAT`, one of `OUTPUT_FORMATS`.

        Returns:
            (B, H, W) float32 metres for an array; otherwise a list with one depth map per image.

        Raises:
            MlflowException: if an input is no image, or the format is unknown.
        """
        name = (params or {}).get(OUTPUT_FORMAT, ARRAY)
        if name not in OUTPUT_FORMATS:
            raise MlflowException.invalid_parameter_value(
                f"{OUTPUT_FORMAT} must be one of {', '.join(OUTPUT_FORMATS)}. Received: {name!r}"
            )
        encode, values = OUTPUT_FORMATS[name], np.asarray(model_input)
        if values.ndim != 1:
            depth_m = self._predictor(_checked(check_images, values, "The input"))
            return depth_m if name == ARRAY else [encode(one) for one in depth_m]
        images = enumerate(values.tolist(), start=1)  # Decoded one by one: many may not fit in memory.
        return [
            encode(self._predictor(_checked(decode_image, one, f"Image {k} of {len(values)}")[None])[0])
            for k, one in images
        ]


def _checked(check: Callable[[Any], np.ndarray], value: Any, label: str) -> np.ndarray:
    """Returns what `check` makes of a value, with its RejectError as an error that MLflow's server passes on."""
    try:
        return check(value)
    except RejectError as error:
        raise MlflowException.invalid_parameter_value(
            f"{label} was rejected: {error}. Pass uint8 RGB (B, H, W, 3), or JPEG or PNG files as bytes or base64."
        ) from None


mlflow.models.set_model(DepthModel())
