"""Builds Depth Anything V1 and V2 from Keras's own layers.

Source: Yang et al. 2024, arXiv:2401.10891 and arXiv:2406.09414.
"""

# Keras types its operations loosely.
# pyright: reportArgumentType=false, reportReturnType=false

import keras
from keras import layers

from depthflow.models.decoders import dpt_map
from depthflow.models.features import IMAGENET_OFFSET, IMAGENET_SCALE
from depthflow.models.transformers_config import DEPTH_ANYTHING, depth_anything_measures, fusion_filters, is_metric
from depthflow.models.transformers_folder import TransformersFolder
from depthflow.models.transformers_weights import DEPTH_LAYER, load_weights
from depthflow.models.vit import VisionTransformer, transformer_maps


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
    vit = VisionTransformer(**depth_anything_measures(folder))
    rgb = keras.Input((height, width, 3), dtype="uint8", name="rgb")
    scaled = layers.Rescaling(list(IMAGENET_SCALE), offset=list(IMAGENET_OFFSET), dtype="float32", name="scale")(rgb)
    x = dpt_map(transformer_maps(scaled, vit), filters=fusion_filters(folder), norm="none", size=(height, width))
    x = layers.Conv2D(1, 1, activation="sigmoid" if is_metric(folder) else "relu", name=DEPTH_LAYER)(x)
    if is_metric(folder):
        x = layers.Rescaling(float(folder.config["max_depth"]), dtype="float32", name="metres")(x)
    network = keras.Model(rgb, x, name=DEPTH_ANYTHING)
    load_weights(network, vit, folder, decoder=True, depth=True)
    return network
