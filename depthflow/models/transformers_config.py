"""Reads what config.json says of a transformers model: the measures of its transformer, and of a Depth Anything."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from depthflow.errors import WeightsError
from depthflow.models.transformers_folder import CONFIG, TransformersFolder

if TYPE_CHECKING:  # It imports Keras, which takes seconds.
    from depthflow.models.vit import VisionTransformer

DEPTH_ANYTHING = "depth_anything"
DEFAULTS: dict[str, dict[str, Any]] = {
    "dinov2": {"patch_size": 14, "layer_norm_eps": 1e-6, "num_register_tokens": 0, "mlp_ratio": 4},
    "dinov2_with_registers": {"patch_size": 16, "layer_norm_eps": 1e-6, "num_register_tokens": 4, "mlp_ratio": 4},
    "vit": {"patch_size": 16, "layer_norm_eps": 1e-12, "num_register_tokens": 0, "intermediate_size": 3072},
}
"""Type of an encoder to what its config.json leaves out."""
SIZES = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
"""The same for every type."""
FIXED = {"hidden_act": "gelu", "qkv_bias": True, "use_swiglu_ffn": False, "apply_layernorm": True, "head_in_index": -1}
"""Settings of config.json that have no other value here."""
FACTORS = (4, 2, 1, 0.5)
"""Sizes of the maps in sides of the grid of patches."""
DEFAULT_MAP_FILTERS = (48, 96, 192, 384)
DEFAULT_FUSION_FILTERS = 64


def encoder_config(folder: TransformersFolder) -> Mapping[str, Any]:
    """Returns the configuration of a model's encoder, with what transformers takes for what is left out.

    Raises:
        WeightsError: if it is of a type, or has a setting, that is not read here.
    """
    config = folder.config
    if config["model_type"] == DEPTH_ANYTHING:
        _check_fixed(folder, config)
        config = config.get("backbone_config") or {}
    kind = config.get("model_type")
    if kind not in DEFAULTS:
        raise WeightsError(
            f"The model {folder.place} is of the type {kind or folder.config['model_type']}. Pass one of: "
            f"{', '.join((DEPTH_ANYTHING, *DEFAULTS))}."
        )
    _check_fixed(folder, config)
    return {**SIZES, **DEFAULTS[kind], **config}


def measures(folder: TransformersFolder) -> dict[str, Any]:
    """Returns those fields of `VisionTransformer` that the tensors of a model depend on.

    Raises:
        WeightsError: if the model is none that is read here.
    """
    config = encoder_config(folder)
    try:
        width, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        hidden = int(config.get("intermediate_size") or width * config["mlp_ratio"])
        found = {
            "patch_px": int(config["patch_size"]),
            "width": width,
            "depth": int(config["num_hidden_layers"]),
            "heads": heads,
            "registers": int(config["num_register_tokens"]),
            "layer_scale": config["model_type"] != "vit",
            "norm_epsilon": float(config["layer_norm_eps"]),
            "mlp_ratio": hidden // width,
        }
        if min(width, heads, found["depth"], found["patch_px"]) > 0 and width % heads == hidden % width == 0:
            return found
    except (TypeError, ValueError, ZeroDivisionError):
        pass
    raise WeightsError(f"{folder.folder / CONFIG} does not describe a vision transformer. Download the model again.")


def _check_fixed(folder: TransformersFolder, config: Mapping[str, Any]) -> None:
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise WeightsError(
                f"The model {folder.place} has {name} {config[name]} in its {CONFIG}, and only {value} is read. Pass "
                "another model."
            )


def check_measures(folder: TransformersFolder, vit: "VisionTransformer", *, encoder: str) -> None:
    """Checks that a model's encoder is the named one.

    Raises:
        WeightsError: naming the first measure that differs.
    """
    for name, value in measures(folder).items():
        if (expected := getattr(vit, name)) != value:
            raise WeightsError(
                f"The weights of {folder.place} are not those of the encoder {encoder}: {name} is {value} instead of "
                f"{expected}. Pass the --encoder that they are of, or other --weights."
            )


def depth_anything_measures(folder: TransformersFolder) -> dict[str, Any]:
    """Returns the fields of a Depth Anything's `VisionTransformer`.

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
    return {**measures(folder), "taps": taps, "map_filters": tuple(filters)}


def fusion_filters(folder: TransformersFolder) -> int:
    """Returns the width of a Depth Anything's decoder."""
    return folder.config.get("fusion_hidden_size", DEFAULT_FUSION_FILTERS)


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
