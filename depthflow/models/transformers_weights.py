"""Puts the tensors of transformers' models into the layers of `depthflow.models.vit` and of the decoder dpt.

Every tensor must be there with the expected shape, and none may be left over that could change the result.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import keras
import numpy as np
from PIL import Image

from depthflow.errors import WeightsError
from depthflow.models.decoders import HEAD_FILTERS
from depthflow.models.features import DECODER_PREFIX
from depthflow.models.transformers_config import (
    DEPTH_ANYTHING,
    check_measures,
    depth_anything_measures,
    fusion_filters,
)
from depthflow.models.transformers_folder import TransformersFolder, open_transformers
from depthflow.models.vit import VisionTransformer
from depthflow.recipe import Recipe

DEPTH_LAYER = "depth"
"""Name of a Depth Anything's last convolution."""
UNUSED = re.compile(
    r"(\w+\.)?(embeddings\.mask_token|pooler\.dense\.\w+)|classifier\.\w+"
    r"|neck\.fusion_stage\.layers\.0\.residual_layer1\.\S+"
)
"""Tensors without effect on the maps: of training, of classification, and of a residual with nothing to be added to."""
DINOV2_NAMES = {"norm1": "norm1", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
VIT_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}

LayerWeights = Iterator[tuple[str, list[np.ndarray]]]
"""Names of layers and their weights, in Keras's order and shapes."""


def load_pretrained(network: keras.Model, vit: VisionTransformer, recipe: Recipe) -> None:
    """Loads a recipe's weights: the encoder's, and the decoder's if they are a Depth Anything's and fit.

    The last convolution is left as it is, because it predicts log-depth here and another quantity there.

    Raises:
        WeightsError: if there are no such weights, or they are damaged or another encoder's.
    """
    folder = open_transformers(recipe.weights)
    check_measures(folder, vit, encoder=recipe.encoder)
    load_weights(network, vit, folder, decoder=has_decoder(folder, vit, recipe))


def has_decoder(folder: TransformersFolder, vit: VisionTransformer, recipe: Recipe) -> bool:
    """Returns whether a model is a Depth Anything whose decoder is that of the recipe."""
    if folder.config["model_type"] != DEPTH_ANYTHING or (recipe.decoder, recipe.decoder_norm) != ("dpt", "none"):
        return False
    own = depth_anything_measures(folder)
    theirs = own["taps"], own["map_filters"], fusion_filters(folder)
    fits = theirs == (vit.taps, vit.map_filters, *recipe.decoder_filters)
    return fits and folder.config.get("head_hidden_size", HEAD_FILTERS) == HEAD_FILTERS


def load_weights(
    network: keras.Model,
    vit: VisionTransformer,
    folder: TransformersFolder,
    *,
    decoder: bool = False,
    depth: bool = False,
) -> None:
    """Loads a model's tensors into a network.

    Args:
        network: Has the layers of `vit.transformer_maps` and, with `decoder`, of `decoders.dpt`.
        vit: Measures of its transformer.
        folder: Model whose measures are these.
        decoder: Whether to load a Depth Anything's decoder, too.
        depth: Whether to load its last convolution, the layer `DEPTH_LAYER`, too.

    Raises:
        WeightsError: naming a tensor that is missing, left over, or of another shape.
    """
    tensors = _Tensors(folder)
    prefix = "backbone." if folder.config["model_type"] == DEPTH_ANYTHING else ""
    if f"{folder.config['model_type']}.embeddings.cls_token" in folder.tensors:
        prefix = f"{folder.config['model_type']}."
    height, width = network.input_shape[1:3]
    weights = dict(_encoder_weights(tensors, prefix, vit, grid=(height // vit.patch_px, width // vit.patch_px)))
    weights |= dict(_dpt_weights(tensors, vit, fusion_filters(folder))) if decoder else {}
    weights |= {DEPTH_LAYER: tensors.convolution("head.conv3", 1, HEAD_FILTERS, 1)} if depth else {}
    not_asked = (() if decoder else ("neck.", "head.")) + (() if depth else ("head.conv3.",))
    tensors.check_all_used(besides=not_asked)
    for name, arrays in weights.items():
        network.get_layer(name).set_weights(arrays)


@dataclass(frozen=True)
class _Tensors:
    """A model's tensors, and which of them were used.

    Attributes:
        folder: Model.
        used: Names of those that were.
    """

    folder: TransformersFolder
    used: set[str] = field(default_factory=set)

    def __call__(self, name: str, *shape: int) -> np.ndarray:
        """Returns a tensor, which must have this shape."""
        if name not in self.folder.tensors:
            raise WeightsError(f"The weights of {self.folder.place} lack the tensor {name}. Download the model again.")
        array = self.folder.tensors[name]
        if array.shape != shape:
            raise WeightsError(
                f"The tensor {name} of {self.folder.place} must have the shape {shape}. Received: {array.shape}. "
                f"Download the model again, or pass another one."
            )
        self.used.add(name)
        return array

    def affine(self, name: str, *shape: int) -> list[np.ndarray]:
        """Returns a weight and a bias as stored."""
        return [self(f"{name}.weight", *shape), self(f"{name}.bias", shape[0])]

    def dense(self, name: str, outputs: int, inputs: int) -> list[np.ndarray]:
        """Returns a dense layer's weights."""
        kernel, bias = self.affine(name, outputs, inputs)
        return [kernel.T, bias]

    def convolution(self, name: str, filters: int, channels: int, side: int, *, bias: bool = True) -> list[np.ndarray]:
        """Returns a convolution's weights; those of a transposed one, too, if it has as many filters as channels."""
        kernel = self(f"{name}.weight", filters, channels, side, side).transpose(2, 3, 1, 0)
        return [kernel, *([self(f"{name}.bias", filters)] if bias else [])]

    def check_all_used(self, besides: tuple[str, ...]) -> None:
        """Raises WeightsError for a tensor that was not used, unless it is `UNUSED` or begins like one of `besides`."""
        for name in sorted({*self.folder.tensors} - self.used):
            if not name.startswith(besides) and not UNUSED.fullmatch(name):
                raise WeightsError(
                    f"The weights of {self.folder.place} have a tensor that the network has no place for: {name}. "
                    "Pass another model."
                )


def _encoder_weights(tensors: _Tensors, prefix: str, vit: VisionTransformer, *, grid: tuple[int, int]) -> LayerWeights:
    width, hidden = vit.width, vit.width * vit.mlp_ratio
    names = DINOV2_NAMES if vit.layer_scale else VIT_NAMES
    yield "embed", _embedding(tensors, f"{prefix}embeddings.", vit, grid)
    for block in range(vit.depth):
        ours, theirs = f"block{block}_", f"{prefix}encoder.layer.{block}."
        for norm in ("norm1", "norm2"):
            yield ours + norm, tensors.affine(theirs + names[norm], width)
        yield f"{ours}attention", _attention(tensors, f"{theirs}attention.", vit)
        yield f"{ours}fc1", tensors.dense(theirs + names["fc1"], hidden, width)
        yield f"{ours}fc2", tensors.dense(theirs + names["fc2"], width, hidden)
        for branch in (1, 2) if vit.layer_scale else ():
            yield f"{ours}scale{branch}", [tensors(f"{theirs}layer_scale{branch}.lambda1", width)]
    yield "final_norm", tensors.affine(f"{prefix}layernorm", width)


def _embedding(tensors: _Tensors, prefix: str, vit: VisionTransformer, grid: tuple[int, int]) -> list[np.ndarray]:
    """Returns the kernel of the patches, and the bias of each token: its embedding and that of its position."""
    width, side = vit.width, vit.patch_px
    kernel, bias = tensors.affine(f"{prefix}patch_embeddings.projection", width, 3, side, side)
    name = f"{prefix}position_embeddings"
    known = tensors.folder.tensors[name].shape if name in tensors.folder.tensors else (0,)
    own_side = max(1, round((known[1] - 1) ** 0.5)) if len(known) == 3 and known[1] > 1 else 1
    positions = tensors(name, 1, 1 + own_side**2, width)[0]
    registers = [tensors(f"{prefix}register_tokens", 1, vit.registers, width)[0]] if vit.registers else []
    on_grid = positions[1:].reshape(own_side, own_side, width)
    if grid != (own_side, own_side):
        rows, columns = (bicubic_weights(own_side, new, antialias=vit.registers > 0) for new in grid)
        on_grid = np.einsum("yxd,yh,xw->hwd", on_grid, rows, columns, optimize=True)
    tokens = [tensors(f"{prefix}cls_token", 1, 1, width)[0] + positions[:1], *registers]
    return [
        kernel.transpose(2, 3, 1, 0).reshape(-1, width),
        np.concatenate([*tokens, on_grid.reshape(-1, width) + bias]),
    ]


def bicubic_weights(old: int, new: int, *, antialias: bool) -> np.ndarray:
    """Returns (old, new) float32: each column's weights of the old values, as transformers interpolates positions.

    OpenCV's and Pillow's bicubic interpolation are PyTorch's without and with anti-aliasing: their parameters are -0.75
    and -0.5. transformers has the latter for models with registers alone.
    """
    ones = np.eye(old, dtype=np.float32)
    if antialias:
        return np.asarray(Image.fromarray(ones).resize((new, old), Image.Resampling.BICUBIC))
    return cv2.resize(ones, (new, old), interpolation=cv2.INTER_CUBIC)


def _attention(tensors: _Tensors, prefix: str, vit: VisionTransformer) -> list[np.ndarray]:
    width, heads = vit.width, vit.heads
    weights = []
    for part in ("query", "key", "value"):
        kernel, bias = tensors.dense(f"{prefix}attention.{part}", width, width)
        weights += [kernel.reshape(width, heads, -1), bias.reshape(heads, -1)]
    kernel, bias = tensors.dense(f"{prefix}output.dense", width, width)
    return [*weights, kernel.reshape(heads, -1, width), bias]


def _dpt_weights(tensors: _Tensors, vit: VisionTransformer, fusion: int) -> LayerWeights:
    for level, filters in enumerate(vit.map_filters):
        ours, theirs = f"{DECODER_PREFIX}_reassemble{level}_", f"neck.reassemble_stage.layers.{level}."
        yield f"{ours}project", tensors.convolution(f"{theirs}projection", filters, vit.width, 1)
        if side := (4, 2, 0, 3)[level]:
            yield f"{ours}resize", tensors.convolution(f"{theirs}resize", filters, filters, side)
        name = f"neck.convs.{level}"
        yield f"{DECODER_PREFIX}_conv{level}", tensors.convolution(name, fusion, filters, 3, bias=False)
    for stage in range(len(vit.map_filters)):
        ours, theirs = f"{DECODER_PREFIX}_fusion{stage}_", f"neck.fusion_stage.layers.{stage}."
        for residual in (1, 2) if stage else (2,):
            for k in (1, 2):
                name = f"{theirs}residual_layer{residual}.convolution{k}"
                yield f"{ours}residual{residual}_{k}_conv", tensors.convolution(name, fusion, fusion, 3)
        yield f"{ours}project", tensors.convolution(f"{theirs}projection", fusion, fusion, 1)
    yield f"{DECODER_PREFIX}_head_conv1", tensors.convolution("head.conv1", fusion // 2, fusion, 3)
    yield f"{DECODER_PREFIX}_head_conv2", tensors.convolution("head.conv2", HEAD_FILTERS, fusion // 2, 3)
