"""Builds Depth Anything V1 and V2 from Keras's own layers.

Source: Yang et al. 2024, arXiv:2401.10891 and arXiv:2406.09414.
"""

# Keras types its operations loosely.
# pyright: reportArgumentType=false, reportReturnType=false

import keras
from keras import layers

from depthflow.errors import WeightsError
from depthflow.models.decoders import dpt_map
from depthflow.models.features import IMAGENET_OFFSET, IMAGENET_SCALE
from depthflow.models.transformers_folder import CONFIG, TransformersFolder
from depthflow.models.transformers_weights import DEPTH_ANYTHING, encoder_config, load_weights, measures
from depthflow.models.vit import VisionTransformer, transformer_maps

DEPTH_LAYER = "depth"
FACTORS = (4, 2, 1, 0.5)
"""Sizes of the maps in sides of the grid of patches."""
DEFAULT_MAP_FILTERS = (48, 96, 192, 384)
DEFAULT_FUSION_FILTERS = 64


def depth_anything_vit(folder: TransformersFolder) -> VisionTransformer:
    """Returns the measures of a Depth Anything's transformer.

    Raises:
        WeightsError: if the model is not a Depth Anything.
    """
    if folder.config["model_type"] != DEPTH_ANYTHING:
        raise WeightsError(
            f"The model {folder.place} is not a Depth Anything, but of the type {folder.config['model_type']}. Pass "
            "the folder or hub name of one."
        )
    config, filters = encoder_config(folder), folder.config.get("neck_hidden_sizes", DEFAULT_MAP_FILTERS)
    stages = config.get("out_features") or [f"stage{index}" for index in config.get("out_indices") or ()]
    known = [f"stage{block}" for block in range(1, config["num_hidden_layers"] + 1)]
    taps = tuple(known.index(stage) + 1 for stage in stages if stage in known)
    factors = folder.config.get("reassemble_factors", FACTORS)
    if (len(stages), len({*taps}), len(filters), tuple(factors)) != (4, 4, 4, FACTORS):
        raise WeightsError(f"{folder.folder / CONFIG} does not describe a Depth Anything. Download the model again.")
    return VisionTransformer(**measures(folder), taps=taps, map_filters=tuple(filters))


def build_depth_anything(folder: TransformersFolder, *, height: int, width: int) -> keras.Model:
    """Builds a Depth Anything for one size of images.

    Args:
        folder: Model.
        height: Multiple of the side of its patches.
        width: Likewise.

    Returns:
        Functional model from rgb (B, height, width, 3) uint8 to (B, height, width, 1) float32: metres for a metric
        model, else relative inverse depth.

    Raises:
        WeightsError: if the model is not a Depth Anything, or its tensors are not those of its configuration.
    """
    vit = depth_anything_vit(folder)
    filters = folder.config.get("fusion_hidden_size", DEFAULT_FUSION_FILTERS)
    rgb = keras.Input((height, width, 3), dtype="uint8", name="rgb")
    scaled = layers.Rescaling(list(IMAGENET_SCALE), offset=list(IMAGENET_OFFSET), dtype="float32", name="scale")(rgb)
    x = dpt_map(transformer_maps(scaled, vit), filters=filters, norm="none", size=(height, width))
    if is_metric(folder):
        x = layers.Conv2D(1, 1, activation="sigmoid", name=DEPTH_LAYER)(x)
        x = layers.Rescaling(float(folder.config["max_depth"]), dtype="float32", name="metres")(x)
    else:
        x = layers.Conv2D(1, 1, activation="relu", name=DEPTH_LAYER)(x)
    network = keras.Model(rgb, x, name=DEPTH_ANYTHING)
    load_weights(network, vit, folder, dpt_filters=filters, depth_layer=DEPTH_LAYER)
    return network


def is_metric(folder: TransformersFolder) -> bool:
    """Returns whether a model was fine-tuned to metres."""
    return folder.config.get("depth_estimation_type", "relative") == "metric"


def network_size(folder: TransformersFolder, *, height: int, width: int) -> tuple[int, int]:
    """Returns the size to which an image is resized: both sides multiples of the patches', as transformers does it.

    The image is scaled as little as possible so that one side becomes the side of the square images of training. That
    is the shorter one of large images, and the longer one of small images.

    Source: `DPTImageProcessor` of transformers with keep_aspect_ratio, as the published models have it.
    """
    config = encoder_config(folder)
    side, patch = config.get("image_size", 518), config["patch_size"]
    scale = min(side / height, side / width, key=lambda factor: abs(1 - factor))
    return tuple(max(1, round(scale * length / patch)) * patch for length in (height, width))
