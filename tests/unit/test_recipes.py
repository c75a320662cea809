"""Named recipes: each one builds, and documents its purpose."""

import pytest

from depthflow.models.augmentation import is_augmented
from depthflow.recipe import Recipe
from depthflow.recipes import RECIPES, named, smoke


@pytest.mark.parametrize("name", RECIPES)
def test_each_builds_under_its_own_name(name):
    recipe = RECIPES[name]()
    assert isinstance(recipe, Recipe)
    assert recipe.name == name
    assert RECIPES[name]() == recipe, "a recipe is always the same"


@pytest.mark.parametrize("name", RECIPES)
def test_each_documents_its_purpose_and_command(name):
    text = RECIPES[name].__doc__
    assert len(text.splitlines()[0]) > 40
    assert f"python pipelines/train.py {name} --samples " in text


def test_a_name_that_is_taken_is_rejected():
    with pytest.raises(ValueError, match="named smoke"):
        named(lambda: smoke())
    assert RECIPES["smoke"] is smoke


def test_the_documented_recipes_exist():
    assert list(RECIPES) == [
        *("smoke", "demo", "tutorial", "diode", "nyu-cpu", "fcrn"),
        *("depth-anything-small-metric", "depth-anything-small-frozen"),
        *("stereo", "video", "stereo-tiny", "video-tiny"),
    ]


def test_tutorial_has_the_tutorials_hyper_parameters():
    recipe = RECIPES["tutorial"]()
    assert (recipe.height, recipe.width, recipe.global_batch_size, recipe.epochs) == (256, 256, 32, 60)
    assert (recipe.optimizer, recipe.learning_rate, recipe.schedule, recipe.clip_norm) == (
        "adam",
        1e-3,
        "constant",
        None,
    )
    assert (recipe.encoder, recipe.weights, recipe.decoder_norm) == ("resnet50", "imagenet", "none")
    assert recipe.decoder_filters == (1024, 512, 256, 128, 64)
    assert (recipe.loss, recipe.clip_depth) == ((("tutorial", 1.0),), "tutorial")
    assert (recipe.batch_norm, recipe.bottleneck_filters, recipe.decoder_upsampling) == ("synchronized", 0, "nearest")
    assert (recipe.encoder_rate, recipe.frozen_encoder_epochs, recipe.ema_momentum) == (1.0, 0, None)
    assert not is_augmented(recipe)


def test_smoke_needs_no_download():
    assert RECIPES["smoke"]().weights == "none"
