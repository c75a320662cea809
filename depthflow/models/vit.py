"""Vision transformers as encoders: DINOv2, also with registers, and plain ViT, from layers that Keras ships.

A transformer keeps one resolution. The tokens after four of its blocks become maps at about 1/4, 1/8, 1/16 and 1/32 of
the image, as in DPT: a patch of 14 pixels gives 2/7, 1/7, 1/14 and 1/28.

Sources: ViT: Dosovitskiy et al. 2021, arXiv:2010.11929. DINOv2: Oquab et al. 2023, arXiv:2304.07193. Registers: Darcet
et al. 2024, arXiv:2309.16588. Reassembling: Ranftl et al. 2021, arXiv:2103.13413, section 3, without the class token.
"""

# Keras types its operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false

from dataclasses import dataclass

import keras
from keras import layers

from depthflow.models.features import DECODER_PREFIX, IMAGENET_OFFSET, IMAGENET_SCALE, Factor, Features


@dataclass(frozen=True, kw_only=True)
class VisionTransformer:
    """The measures of a vision transformer.

    Attributes:
        patch_px: Side of a patch in pixels.
        width: Length of a token.
        depth: Number of blocks.
        heads: Number of attention heads of a block.
        taps: Blocks, counted from 1, whose tokens become maps, fine to coarse.
        map_filters: Filters of these maps.
        registers: Number of register tokens, between the class token and those of the patches.
        layer_scale: Whether each branch of a block has a learnt factor per channel, as in DINOv2.
        norm_epsilon: Epsilon of every layer normalisation.
        mlp_ratio: Width of a block's hidden layer, in lengths of a token.
        scale: Factor of the input, one number or one per channel: the weights expect rgb * scale + offset.
        offset: Offset of the input, likewise.
    """

    patch_px: int = 14
    width: int
    depth: int
    heads: int
    taps: tuple[int, int, int, int]
    map_filters: tuple[int, int, int, int]
    registers: int = 0
    layer_scale: bool = True
    norm_epsilon: float = 1e-6
    mlp_ratio: int = 4
    scale: Factor = IMAGENET_SCALE
    offset: Factor = IMAGENET_OFFSET


_SMALL = {"width": 384, "depth": 12, "heads": 6, "taps": (3, 6, 9, 12), "map_filters": (48, 96, 192, 384)}
_BASE = {"width": 768, "depth": 12, "heads": 12, "taps": (3, 6, 9, 12), "map_filters": (96, 192, 384, 768)}
_LARGE = {"width": 1024, "depth": 24, "heads": 16, "taps": (5, 12, 18, 24), "map_filters": (256, 512, 1024, 1024)}
_PLAIN = {"patch_px": 16, "layer_scale": False, "norm_epsilon": 1e-12}

TRANSFORMERS: dict[str, VisionTransformer] = {
    # Taps and filters are those of Depth Anything V2, Yang et al. 2024, arXiv:2406.09414.
    "dinov2_small": VisionTransformer(**_SMALL),
    "dinov2_base": VisionTransformer(**_BASE),
    "dinov2_large": VisionTransformer(**_LARGE),
    "dinov2_small_registers": VisionTransformer(**_SMALL, registers=4),
    "dinov2_base_registers": VisionTransformer(**_BASE, registers=4),
    "dinov2_large_registers": VisionTransformer(**_LARGE, registers=4),
    "dinov2_tiny": VisionTransformer(width=48, depth=4, heads=3, taps=(1, 2, 3, 4), map_filters=(8, 16, 24, 48)),
    # Touvron et al. 2021, arXiv:2012.12877, without the distillation token.
    "deit_small": VisionTransformer(**_SMALL, **_PLAIN),
    "deit_base": VisionTransformer(**_BASE, **_PLAIN),
    # Weights of Steiner et al. 2022, arXiv:2106.10270.
    "vit_base": VisionTransformer(**_BASE, **_PLAIN, scale=1 / 127.5, offset=-1.0),
    "vit_large": VisionTransformer(**_LARGE, **_PLAIN, scale=1 / 127.5, offset=-1.0),
}


def transformer_maps(scaled: keras.KerasTensor, vit: VisionTransformer) -> Features:
    """Builds a transformer of random weights.

    Its own layers are named embed, block{i}_* and final_norm; those that make maps of its tokens belong to the decoder,
    which learns them.

    Args:
        scaled: (B, H, W, 3) float, as the weights expect it; H and W multiples of `vit.patch_px`.
        vit: Measures.

    Returns:
        Maps at 4, 2, 1 and 1/2 times the grid of patches, the last rounded up; none at 1/2 of the image.
    """
    grid = scaled.shape[1] // vit.patch_px, scaled.shape[2] // vit.patch_px
    tokens = _embedded(scaled, vit, grid)
    final_norm = layers.LayerNormalization(epsilon=vit.norm_epsilon, name="final_norm")
    maps = []
    for block in range(vit.depth):
        tokens = _block(tokens, vit, name=f"block{block}")
        if block + 1 in vit.taps:
            maps.append(_reassembled(final_norm(tokens), vit, grid, level=len(maps)))
    return Features(skips=(None, *maps[:3]), bottom=maps[3])


def _embedded(scaled: keras.KerasTensor, vit: VisionTransformer, grid: tuple[int, int]) -> keras.KerasTensor:
    """Returns the tokens (B, 1 + registers + h * w, width).

    The class token, the registers and the position embeddings are the bias of one layer, whose bias differs by token.
    """
    (h, w), side = grid, vit.patch_px
    patches = layers.Reshape((h, side, w, side, 3), name="patch_rows")(scaled)
    patches = layers.Permute((1, 3, 2, 4, 5), name="patch_order")(patches)
    patches = layers.Reshape((h * w, side * side * 3), name="patches")(patches)
    patches = layers.ZeroPadding1D((1 + vit.registers, 0), name="class_place")(patches)
    return layers.EinsumDense(
        "btk,kd->btd",
        output_shape=(1 + vit.registers + h * w, vit.width),
        bias_axes="td",
        bias_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        name="embed",
    )(patches)


def _block(tokens: keras.KerasTensor, vit: VisionTransformer, *, name: str) -> keras.KerasTensor:
    """Applies attention and two dense layers, each to normalised tokens and added to them."""

    def branch(tokens: keras.KerasTensor, number: int) -> keras.KerasTensor:
        x = layers.LayerNormalization(epsilon=vit.norm_epsilon, name=f"{name}_norm{number}")(tokens)
        if number == 1:
            x = layers.MultiHeadAttention(vit.heads, vit.width // vit.heads, name=f"{name}_attention")(x, x)
        else:
            x = layers.Dense(vit.width * vit.mlp_ratio, activation="gelu", name=f"{name}_fc1")(x)
            x = layers.Dense(vit.width, name=f"{name}_fc2")(x)
        if vit.layer_scale:
            x = layers.EinsumDense(
                "btd,d->btd", output_shape=(None, vit.width), kernel_initializer="ones", name=f"{name}_scale{number}"
            )(x)
        return layers.Add(name=f"{name}_add{number}")([tokens, x])

    return branch(branch(tokens, 1), 2)


def _reassembled(
    tokens: keras.KerasTensor, vit: VisionTransformer, grid: tuple[int, int], *, level: int
) -> keras.KerasTensor:
    """Makes a map of the patches' tokens, at 4, 2, 1 or 1/2 times their grid for level 0 to 3."""
    name, filters = f"{DECODER_PREFIX}_reassemble{level}", vit.map_filters[level]
    x = layers.Cropping1D((1 + vit.registers, 0), name=f"{name}_patches")(tokens)
    x = layers.Reshape((*grid, vit.width), name=f"{name}_map")(x)
    x = layers.Conv2D(filters, 1, name=f"{name}_project")(x)
    if level < 2:
        factor = 4 // 2**level
        return layers.Conv2DTranspose(filters, factor, strides=factor, name=f"{name}_resize")(x)
    if level == 2:
        return x
    x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return layers.Conv2D(filters, 3, strides=2, name=f"{name}_resize")(x)
