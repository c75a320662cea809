"""Vision transformers: their measures, the maps they make, and what belongs to the encoder."""

import keras
import numpy as np
import pytest

from depthflow.models.encoders import build_encoder
from depthflow.models.vit import TRANSFORMERS

PUBLISHED_PARAMETERS = {
    "dinov2_small": 22_056_576,
    "dinov2_small_registers": 22_058_112,
    "deit_small": 21_665_664,
}
"""Those of transformers' Dinov2Model, Dinov2WithRegistersModel and ViTModel (without its pooler), at their sizes."""
OWN_SIDE = {"dinov2_small": 518, "dinov2_small_registers": 518, "deit_small": 224}


def build(name: str, height: int, width: int) -> keras.Model:
    rgb = keras.Input((height, width, 3), dtype="uint8")
    features = build_encoder(rgb, name=name, weights="none")
    assert features.skips[0] is None
    return keras.Model(rgb, [*features.skips[1:], features.bottom])


@pytest.mark.parametrize(("height", "width"), [(70, 98), (56, 84)])
def test_maps_are_at_four_two_one_and_half_the_grid(height, width):
    h, w = height // 14, width // 14
    maps = build("dinov2_tiny", height, width)(np.zeros((2, height, width, 3), np.uint8))
    filters = TRANSFORMERS["dinov2_tiny"].map_filters
    sizes = [(4 * h, 4 * w), (2 * h, 2 * w), (h, w), (-(-h // 2), -(-w // 2))]
    assert [tuple(x.shape) for x in maps] == [(2, *size, n) for size, n in zip(sizes, filters, strict=True)]


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_parameters_are_the_published_ones(name):
    """But for the mask token, and the class token and the patches' bias, which are in one bias with the positions."""
    model, width = build(name, OWN_SIDE[name], OWN_SIDE[name]), TRANSFORMERS[name].width
    own = sum(layer.count_params() for layer in model.layers if not layer.name.startswith("decoder"))
    masks = 0 if name == "deit_small" else width
    assert own == PUBLISHED_PARAMETERS[name] - masks - 2 * width


def test_every_block_takes_part():
    """A change of any of the encoder's weights changes a map."""
    model = build("dinov2_tiny", 28, 42)
    rgb = np.random.default_rng(0).integers(0, 256, (1, 28, 42, 3), np.uint8)
    before = [np.asarray(x) for x in model(rgb)]
    for variable in model.trainable_variables:
        value = np.array(variable)
        variable.assign(value + 0.5 * np.random.default_rng(1).standard_normal(value.shape))
        after = [np.asarray(x) for x in model(rgb)]
        variable.assign(value)
        # A bias of the attention's keys adds the same to all of a query's scores, so that it has no effect.
        changed = any(not np.allclose(x, y, atol=1e-6) for x, y in zip(before, after, strict=True))
        assert changed != variable.path.endswith("key/bias"), variable.path
