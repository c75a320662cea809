"""Tiny models in the format of transformers, written without it: random weights that are the same on every machine."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

WIDTH, HEADS = 32, 2
DINOV2 = {"model_type": "dinov2", "hidden_size": WIDTH, "num_attention_heads": HEADS}
VIT = {
    **{"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": 4, "intermediate_size": 2 * WIDTH},
    **{"image_size": 224, "patch_size": 14},
}
DEPTH = {
    "model_type": "depth_anything",
    **{"reassemble_hidden_size": WIDTH, "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8},
    "head_hidden_size": 32,
}
FOUR_LAYERS = {"num_hidden_layers": 4, "mlp_ratio": 2, "out_features": [f"stage{i}" for i in (1, 2, 3, 4)]}
TWELVE_LAYERS = {"out_features": [f"stage{i}" for i in (3, 6, 9, 12)]}
MODELS: dict[str, dict[str, Any]] = {
    # As on the hub: what is the default is left out. Its grid of positions is that of 518 x 518.
    "relative": {
        **DEPTH,
        "backbone_config": {**DINOV2, **TWELVE_LAYERS, "image_size": 518, "reshape_hidden_states": False},
    },
    "metric": {
        **DEPTH,
        **{"depth_estimation_type": "metric", "max_depth": 20},
        "backbone_config": {**DINOV2, **FOUR_LAYERS, "image_size": 70, "reshape_hidden_states": False},
    },
    # Its encoder is depthflow's dinov2_tiny, with a decoder dpt of 16 filters.
    "tiny": {
        **DEPTH,
        **{"reassemble_hidden_size": 48, "neck_hidden_sizes": [8, 16, 24, 48], "fusion_hidden_size": 16},
        "backbone_config": {
            **DINOV2,
            **{"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 4, "image_size": 70},
            **{"out_features": FOUR_LAYERS["out_features"], "reshape_hidden_states": False},
        },
    },
    "dinov2": {**DINOV2, "num_hidden_layers": 4, "image_size": 518},
    "registers": {
        **DINOV2,
        **{"model_type": "dinov2_with_registers", "num_register_tokens": 4, "num_hidden_layers": 4},
        **{"image_size": 224, "patch_size": 14},
    },
    "vit": {**VIT, "model_type": "vit"},
    # As facebook/deit-small-patch16-224: with the classifier it was trained with.
    "deit": {**VIT, "model_type": "vit", "architectures": ["ViTForImageClassification"]},
}
"""Name to configuration."""


def write_model(folder: Path, name: str, **changes: Any) -> Path:
    """Writes config.json and model.safetensors of one of `MODELS`; `changes` replace parts of its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**MODELS[name], **changes}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(random_tensors(shapes_of(config)), folder / "model.safetensors")
    return folder


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns a float32 tensor of each shape, scaled by its name so that signals neither vanish nor explode."""
    return {name: _random(name, shape) for name, shape in shapes.items()}


def _random(name: str, shape: tuple[int, ...]) -> np.ndarray:
    # Unlike the distributions of NumPy's generators, the raw numbers are promised never to change.
    raw = np.random.PCG64([*name.encode()]).random_raw(int(np.prod(shape)))
    standard = ((raw / 2**64 - 0.5) * 12**0.5).reshape(shape)  # Uniform, mean 0, variance 1.
    if name.endswith("head.conv3.bias"):
        return np.full(shape, 1.0, np.float32)  # Most of a relative map is above 0.
    if ("norm" in name and name.endswith("weight")) or name.endswith("lambda1"):
        return (1 + 0.2 * standard).astype(np.float32)
    if name.endswith("weight"):
        gain = 0.3 if name.endswith("head.conv3.weight") else 1.0  # Metric maps are not all at their largest depth.
        return (gain * standard / np.prod(shape[1:]) ** 0.5).astype(np.float32)
    return (0.3 * standard).astype(np.float32)


def shapes_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a model's tensors by their names in its file."""
    if config["model_type"] == "depth_anything":
        return {**_prefixed("backbone", _transformer_shapes(config["backbone_config"])), **_dpt_shapes(config)}
    shapes = _transformer_shapes(config)
    if "architectures" in config:
        return {**_prefixed(config["model_type"], shapes), **_affine("classifier", 2, config["hidden_size"])}
    return shapes | (_affine("pooler.dense", WIDTH, WIDTH) if config["model_type"] == "vit" else {})


def _prefixed(prefix: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def _transformer_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    width, patch = config["hidden_size"], config.get("patch_size", 14)
    is_vit = config["model_type"] == "vit"
    hidden = config["intermediate_size"] if is_vit else width * config.get("mlp_ratio", 4)
    positions = (config["image_size"] // patch) ** 2 + 1
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.position_embeddings": (1, positions, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
        **_affine("layernorm", width),
    }
    if not is_vit:
        shapes["embeddings.mask_token"] = (1, width)
    if "num_register_tokens" in config:
        shapes["embeddings.register_tokens"] = (1, config["num_register_tokens"], width)
    names = VIT_BLOCK if is_vit else DINOV2_BLOCK
    for block in range(config.get("num_hidden_layers", 12)):
        layer = f"encoder.layer.{block}"
        for part in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
            shapes |= _affine(f"{layer}.{part}", width, width)
        shapes |= _affine(f"{layer}.attention.output.dense", width, width)
        shapes |= _affine(f"{layer}.{names['norm1']}", width) | _affine(f"{layer}.{names['norm2']}", width)
        shapes |= _affine(f"{layer}.{names['fc1']}", hidden, width) | _affine(f"{layer}.{names['fc2']}", width, hidden)
        if not is_vit:
            shapes |= {f"{layer}.layer_scale{k}.lambda1": (width,) for k in (1, 2)}
    return shapes


DINOV2_BLOCK = {"norm1": "norm1", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
VIT_BLOCK = {
    **{"norm1": "layernorm_before", "norm2": "layernorm_after"},
    **{"fc1": "intermediate.dense", "fc2": "output.dense"},
}


def _dpt_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    fusion, head = config["fusion_hidden_size"], config["head_hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (filters, side) in enumerate(zip(config["neck_hidden_sizes"], (4, 2, None, 3), strict=True)):
        reassemble = f"neck.reassemble_stage.layers.{k}"
        shapes |= _affine(f"{reassemble}.projection", filters, config["reassemble_hidden_size"], 1, 1)
        if side:
            shapes |= _affine(f"{reassemble}.resize", filters, filters, side, side)
        shapes[f"neck.convs.{k}.weight"] = (fusion, filters, 3, 3)
        layer = f"neck.fusion_stage.layers.{k}"
        shapes |= _affine(f"{layer}.projection", fusion, fusion, 1, 1)
        for residual in (1, 2):
            for convolution in (1, 2):
                part = f"{layer}.residual_layer{residual}.convolution{convolution}"
                shapes |= _affine(part, fusion, fusion, 3, 3)
    return {
        **shapes,
        **_affine("head.conv1", fusion // 2, fusion, 3, 3),
        **_affine("head.conv2", head, fusion // 2, 3, 3),
        **_affine("head.conv3", 1, head, 1, 1),
    }


def _affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def random_image(height: int, width: int) -> np.ndarray:
    """Returns a smooth random (height, width, 3) uint8 image, the same on every machine."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    phases = np.random.PCG64(7).random_raw(12).reshape(4, 3) / 2**64
    waves = sum(
        np.sin(2 * np.pi * ((k + 1) * x[..., None] * (1 + p) + (k + 1) * y[..., None] * (2 - p) + p)) / (k + 1)
        for k, p in enumerate(phases)
    )
    return np.clip(127.5 + 60 * waves, 0, 255).astype(np.uint8)
