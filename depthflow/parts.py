"""Names of the parts that a recipe chooses from, each with its help, for command lines, which do not import Keras."""

ENCODERS = {
    "resnet50": "as in the tutorial",
    "resnet50v2": "its second version",
    "convnext_tiny": "no batch normalisation",
    "efficientnetv2_s": "20 M parameters",
    "mobilenetv3_large": "3 M parameters",
    "tiny": "0.05 M parameters, for tests and the demo",
    "dinov2_small": "a vision transformer, as in Depth Anything V2",
    "dinov2_base": "the same of 86 M parameters",
    "dinov2_large": "the same of 304 M",
    "dinov2_small_registers": "with register tokens",
    "dinov2_base_registers": "likewise",
    "dinov2_large_registers": "likewise",
    "dinov2_tiny": "0.1 M parameters, for tests",
    "deit_small": "a plain vision transformer of 22 M parameters",
    "deit_base": "of 86 M",
    "vit_base": "of 86 M, with weights of AugReg",
    "vit_large": "of 304 M",
}
"""Help text of each encoder; `depthflow.models.encoders.ENCODERS` and `depthflow.models.vit.TRANSFORMERS` have them."""
ENCODERS_WITHOUT_BATCH_NORM = ("convnext_tiny", "tiny")
"""Convolutional ones."""
CONVOLUTIONS_STRIDE_PX = 32
"""The convolutional encoders halve the resolution five times."""
PATCHES_PX = {"dinov2": 14, "deit": 16, "vit": 16}
"""Sides of the patches of vision transformers, by the first word of their names."""
DECODERS = {
    "unet": "upsampling and convolutions with the encoder's maps, as in the tutorial",
    "dpt": "fusion of four maps, as in Depth Anything",
    "fcrn": "up-projections of the coarsest map",
}
"""Help text of each decoder; `depthflow.models.decoders.DECODERS` builds them."""
OBJECTIVES = {
    "supervised": "depth labels, by --loss",
    "stereo": "the images of a stereo pair, of which each predicts the other (arXiv:1609.03677)",
    "video": "neighbours in time, which predict a frame (arXiv:1806.01260)",
}
"""Help text of each objective; `depthflow.models.objectives.OBJECTIVES` computes them."""
LOSS_TERMS = {
    "tutorial": "squared error + 0.1 Huber",
    "l1": "absolute error",
    "berhu": "absolute error, squared above a fifth of the image's largest",
    "silog": "scale-invariant",
    "gradient": "differences between neighbours at four scales",
    "smoothness": "edge-aware",
}
"""Help text of each loss term; `depthflow.models.losses.TERMS` computes them."""
AUGMENTATIONS = {
    "gamma": "brightness^(2^g), with g between minus and plus the amount",
}
"""Help text of each augmentation in --augment; `depthflow.models.augmentation.AUGMENTATIONS` applies them."""


def stride_px(encoder: str) -> int:
    """Returns the number of pixels that the sides of an encoder's input are multiples of."""
    return PATCHES_PX.get(encoder.partition("_")[0], CONVOLUTIONS_STRIDE_PX)


def is_transformer(encoder: str) -> bool:
    """Returns whether an encoder is a vision transformer."""
    return encoder.partition("_")[0] in PATCHES_PX
