"""Makes transformers_outputs.npz: what transformers computes with the models of tests/transformers_models.py.

Run it in an environment of its own, from the root of the repository, and commit the file:

    python3 -m venv /tmp/reference && /tmp/reference/bin/pip install torch transformers pillow
    PYTHONPATH=. /tmp/reference/bin/python tests/reference/transformers_outputs.py

The tests only read the file and need neither library.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.transformers_models import MODELS, random_image, write_model

FILE = Path(__file__).with_suffix(".npz")
SIDES = ((70, 98), (518, 518))
PHOTOGRAPHS = ((45, 60), (300, 400))
"""Sizes of the images that transformers' pipeline resizes by itself, one up and one down."""
PIPELINE_MODEL = "metric"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def is_depth(name: str) -> bool:
    """Whether a model predicts depth; the others give the map of their last layer."""
    return MODELS[name]["model_type"] == "depth_anything"


def sampled(name: str, output: np.ndarray) -> np.ndarray:
    """Returns what is stored of a map: (H, W) depth or (h, w, channels) features."""
    step = (29 if output.shape[0] > 100 else 3) if is_depth(name) else (6 if output.shape[0] > 10 else 1)
    return output[::step, ::step]


def key(name: str, height: int, width: int) -> str:
    """Returns the name of an output in the file."""
    return f"{name}_{height}x{width}"


def computed(folder: Path, name: str, rgb: np.ndarray) -> np.ndarray:
    """Returns the output of transformers' own class for (H, W, 3) uint8."""
    import torch
    from transformers import AutoModel, AutoModelForDepthEstimation

    pixels = (rgb.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(DEVIATION)
    values = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())
    with torch.no_grad():
        if is_depth(name):
            return AutoModelForDepthEstimation.from_pretrained(folder).eval()(values).predicted_depth[0].numpy()
        model = AutoModel.from_pretrained(folder).eval()
        options = {"interpolate_pos_encoding": True} if MODELS[name]["model_type"] == "vit" else {}
        tokens = model(values, **options).last_hidden_state[0].numpy()
    height, width = (side // 14 for side in rgb.shape[:2])
    return tokens[-height * width :].reshape(height, width, -1)


def through_pipeline(folder: Path, rgb: np.ndarray) -> np.ndarray:
    """Returns metres at the image's size, as transformers' depth-estimation pipeline gives them."""
    from PIL import Image
    from transformers import DPTImageProcessorPil, pipeline

    side = MODELS[PIPELINE_MODEL]["backbone_config"]["image_size"]
    DPTImageProcessorPil(
        size={"height": side, "width": side},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        resample=3,
        image_mean=MEAN,
        image_std=DEVIATION,
    ).save_pretrained(folder)
    predict = pipeline("depth-estimation", model=str(folder), device="cpu")
    return predict(Image.fromarray(rgb))["predicted_depth"].numpy()


def main() -> None:
    """Writes the file."""
    import torch
    import transformers

    outputs = {"versions": np.array([f"torch {torch.__version__}", f"transformers {transformers.__version__}"])}
    with TemporaryDirectory() as scratch:
        for name in MODELS:
            folder = write_model(Path(scratch, name), name)
            for height, width in SIDES:
                output = computed(folder, name, random_image(height, width))
                print(name, output.shape, output.min(), output.mean(), output.max())
                outputs[key(name, height, width)] = sampled(name, output)
        for height, width in PHOTOGRAPHS:
            output = through_pipeline(Path(scratch, PIPELINE_MODEL), random_image(height, width))
            print("pipeline", output.shape, output.min(), output.max())
            outputs[key("pipeline", height, width)] = output[:: max(1, height // 45), :: max(1, height // 45)]
    np.savez_compressed(FILE, **outputs)
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
