"""The names that a recipe accepts without Keras are those of the tables that implement them."""

import subprocess
import sys

import keras

from depthflow import parts
from depthflow.models.augmentation import AUGMENTATIONS
from depthflow.models.decoders import DECODERS
from depthflow.models.encoders import ENCODERS
from depthflow.models.losses import TERMS
from depthflow.models.network import build_network
from depthflow.models.objectives import OBJECTIVES
from depthflow.models.vit import TRANSFORMERS
from depthflow.recipe import Recipe


def test_names_match_the_tables():
    assert sorted(parts.ENCODERS) == sorted([*ENCODERS, *TRANSFORMERS])
    assert list(parts.DECODERS) == list(DECODERS)
    assert list(parts.LOSS_TERMS) == list(TERMS)
    assert list(parts.OBJECTIVES) == list(OBJECTIVES)
    assert list(parts.AUGMENTATIONS) == list(AUGMENTATIONS)


def test_strides_are_those_of_the_encoders():
    strides = dict.fromkeys(ENCODERS, 32) | {name: vit.patch_px for name, vit in TRANSFORMERS.items()}
    assert {name: parts.stride_px(name) for name in parts.ENCODERS} == strides


def test_encoders_without_batch_norm_have_none():
    for name in ENCODERS:
        network = build_network(Recipe(name="n", encoder=name, weights="none", height=64, width=64))
        has_batch_norm = any(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers)
        assert has_batch_norm == (name not in parts.ENCODERS_WITHOUT_BATCH_NORM), name


def test_recipes_do_not_import_keras():
    script = "import sys, depthflow.recipes; assert not {'keras', 'tensorflow'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
