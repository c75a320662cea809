"""The names that a recipe accepts without Keras are those of the tables that implement them."""

import subprocess
import sys

import keras

from depthflow import recipe
from depthflow.models.augmentation import AUGMENTATIONS
from depthflow.models.encoders import ENCODERS
from depthflow.models.losses import TERMS
from depthflow.models.unet import build_unet
from depthflow.recipe import Recipe


def test_names_match_the_tables():
    assert list(recipe.ENCODERS) == list(ENCODERS)
    assert list(recipe.LOSS_TERMS) == list(TERMS)
    assert list(recipe.AUGMENTATIONS) == list(AUGMENTATIONS)


def test_encoders_without_batch_norm_have_none():
    for name in ENCODERS:
        network = build_unet(Recipe(name="n", encoder=name, encoder_weights="none", height=64, width=64))
        has_batch_norm = any(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers)
        assert has_batch_norm == (name not in recipe.ENCODERS_WITHOUT_BATCH_NORM), name


def test_recipes_do_not_import_keras():
    script = "import sys, depthflow.recipes; assert not {'keras', 'tensorflow'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
