"""The packaged model as MLflow runs it. MLflow stores this file beside the network in the artifact.

It must serve with only the registry's `SERVING_PACKAGES` installed, so it imports nothing else.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException

from depthflow.datasets.image_file import decode_rgb
from depthflow.datasets.reject import RejectError
from depthflow.inference.encoded import OUTPUT_FORMATS, check_images, image_bytes
from depthflow.inference.lens import Lens, camera_of_image
from depthflow.inference.predictor import NetworkPredictor, check_network
from depthflow.models.canonical_camera import CAMERA, ModelCamera
from depthflow.models.interface import (
    ARRAY,
    FX_PX,
    FY_PX,
    NETWORK_ARTIFACT,
    NETWORK_SHA256,
    OUTPUT_FORMAT,
    saved_output,
)

T = TypeVar("T")


class DepthModel(mlflow.pyfunc.PythonModel):
    """Maps images of any size to metres at that size, or to relative depth if the network's scale is unknown.

    Images are a uint8 array (B, H, W, 3), or a column of image files, each bytes or base64 text and of its own size.
    """

    def load_context(self, context: Any) -> None:
        """Loads the network once."""
        path, config = context.artifacts[NETWORK_ARTIFACT], context.model_config or {}
        check_network(Path(path), sha256=config.get(NETWORK_SHA256))
        camera = ModelCamera.from_json(config.get(CAMERA) or {})
        self._predictor = NetworkPredictor.load(path, camera, saved_output(config))

    def predict(self, context: Any, model_input, params: dict[str, Any] | None = None) -> Any:
        """Predicts depth. `model_input` has no type hint because MLflow would take it for a schema.

        Args:
            context: MLflow's, unused.
            model_input: (B, H, W, 3) uint8, or (B,) files.
            params: `OUTPUT_FORMAT`, one of `OUTPUT_FORMATS`; `FX_PX` and `FY_PX`, both or neither. Without them, the
                lens is that of a file's EXIF data, or else the median of the training images.

        Returns:
            (B, H, W) float32 metres, or relative depth if `MODEL_OUTPUT` of the model's configuration says so, for an
            array; otherwise a list with one depth map per image.

        Raises:
            MlflowException: if an input is no image, the format is unknown, or the lens is not one.
        """
        name = (params or {}).get(OUTPUT_FORMAT, ARRAY)
        if name not in OUTPUT_FORMATS:
            raise MlflowException.invalid_parameter_value(
                f"{OUTPUT_FORMAT} must be one of {', '.join(OUTPUT_FORMATS)}. Received: {name!r}"
            )
        lens = _lens(params or {})
        encode, values = OUTPUT_FORMATS[name], np.asarray(model_input)
        if values.ndim != 1:
            depth = self._depth(_checked(check_images, values, "The input"), b"", lens)
            return depth if name == ARRAY else [encode(one, self._predictor.output) for one in depth]
        encoded = []
        for k, value in enumerate(values.tolist(), start=1):  # One by one: many may not fit in memory.
            content = _checked(image_bytes, value, f"Image {k} of {len(values)}")
            rgb = _checked(decode_rgb, content, f"Image {k} of {len(values)}")
            encoded.append(encode(self._depth(rgb[None], content, lens)[0], self._predictor.output))
        return encoded

    def _depth(self, rgb: np.ndarray, content: bytes, lens: Lens | None) -> np.ndarray:
        """Predicts (B, H, W) depth of images of one size and one lens."""
        height, width = rgb.shape[1:3]
        found = camera_of_image(content, height=height, width=width, lens=lens)
        focal = found.camera.relative_focal if found else np.nan
        return self._predictor(rgb, np.full(len(rgb), focal))


def _lens(params: dict[str, Any]) -> Lens | None:
    """Returns the lens that the parameters state, if they do."""
    given = [params.get(name) for name in (FX_PX, FY_PX)]
    if given == [None, None]:
        return None
    if not all(isinstance(value, int | float) and 0 < value < math.inf for value in given):
        raise MlflowException.invalid_parameter_value(
            f"{FX_PX} and {FY_PX} must be focal lengths in pixels of the image, both or neither. Received: {given}"
        )
    return Lens(fx_px=given[0], fy_px=given[1])


def _checked(check: Callable[[Any], T], value: Any, label: str) -> T:
    """Returns what `check` makes of a value, with its RejectError as an error that MLflow's server passes on."""
    try:
        return check(value)
    except RejectError as error:
        raise MlflowException.invalid_parameter_value(
            f"{label} was rejected: {error}. Pass uint8 RGB (B, H, W, 3), or JPEG or PNG files as bytes or base64."
        ) from None


mlflow.models.set_model(DepthModel())
