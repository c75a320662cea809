"""The interface between an encoder and a decoder, and the input scaling that pre-trained weights expect."""

from dataclasses import dataclass

import keras

DECODER_PREFIX = "decoder"
"""Prefix of the names of layers that do not belong to the encoder."""

Factor = float | tuple[float, ...]
"""One number, or one per channel."""
IMAGENET_DEVIATIONS_RGB = (0.229, 0.224, 0.225)
IMAGENET_SCALE = tuple(1 / (255 * deviation) for deviation in IMAGENET_DEVIATIONS_RGB)
IMAGENET_OFFSET = tuple(-m / d for m, d in zip((0.485, 0.456, 0.406), IMAGENET_DEVIATIONS_RGB, strict=True))
"""rgb * scale + offset has zero mean and unit variance per channel over ImageNet."""


@dataclass(frozen=True)
class Features:
    """An encoder's outputs.

    Attributes:
        skips: Four maps, fine to coarse, at 1/2, 1/4, 1/8 and 1/16 of the input's resolution; None if there is none at
            1/2.
        bottom: Map at 1/32. Where the map at 1/16 has an odd side, its own is rounded up.
    """

    skips: tuple[keras.KerasTensor | None, keras.KerasTensor, keras.KerasTensor, keras.KerasTensor]
    bottom: keras.KerasTensor
