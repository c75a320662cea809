"""Schedules, learning rates by layer, momentum, decay, averages and loss scaling, by hand on one or two weights."""

import math
from dataclasses import replace

import keras
import numpy as np
import pytest

from depthflow.recipes import RECIPES, smoke
from depthflow.training.optimizer import AdamByLayer, SGDByLayer, build_optimizer

PEAK = 1e-3


def learning_rates(recipe, *, total_steps: int, steps) -> list[float]:
    """Returns the optimizer's learning rate at each step."""
    optimizer = build_optimizer(recipe, total_steps=total_steps, steps_per_epoch=total_steps, encoder=[])
    rates = []
    for step in steps:
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    return rates


def begin(recipe, start: list[float], *, encoder=(), names=(), layers=(), total_steps=10, steps_per_epoch=10):
    """Returns an optimizer and scalar weights; the indices in `encoder` are the encoder's."""
    names = names or ["kernel"] * len(start)
    layers = layers or [f"layer{k}" for k in range(len(start))]
    variables = []
    for value, name, layer in zip(start, names, layers, strict=True):
        with keras.name_scope(layer):
            variables.append(keras.Variable(value, dtype="float32", name=name))
    assert len({variable.path for variable in variables}) == len(variables)
    optimizer = build_optimizer(
        recipe, total_steps=total_steps, steps_per_epoch=steps_per_epoch, encoder=[variables[k] for k in encoder]
    )
    optimizer.build(variables)
    return optimizer, variables


def apply(optimizer, variables, gradients: list[float]) -> list[float]:
    """Returns the weights after a step."""
    optimizer.apply([keras.ops.convert_to_tensor(np.float32(g)) for g in gradients], variables)
    return [float(variable) for variable in variables]


def updated(recipe, start: list[float], gradients: list[list[float]], **options) -> list[float]:
    """Returns scalar weights after one step per list of gradients."""
    optimizer, variables = begin(recipe, start, **options)
    return [apply(optimizer, variables, step) for step in gradients][-1]


def plain(**changes):
    """Returns a recipe with a constant rate of 0.1, no decay and no clipping, unless changed."""
    return replace(
        smoke(), **{"learning_rate": 0.1, "schedule": "constant", "weight_decay": 0.0, "clip_norm": None, **changes}
    )


# --- schedules ---


def test_constant_rate_stays():
    assert learning_rates(plain(), total_steps=10, steps=[0, 5, 10, 1000]) == pytest.approx([0.1] * 4)


def test_cosine_warms_up_over_a_twentieth_peaks_and_ends_at_zero():
    """105 steps: 5 of warm-up, then half a cosine over 100."""
    recipe = plain(schedule="cosine", learning_rate=PEAK)
    steps = [0, 1, 4, 5, 30, 55, 80, 105, 200]
    quarter = 0.5 * (1 + math.cos(math.pi / 4))
    expected = [0, PEAK / 5, PEAK * 4 / 5, PEAK, PEAK * quarter, PEAK / 2, PEAK * (1 - quarter), 0, 0]
    assert learning_rates(recipe, total_steps=105, steps=steps) == pytest.approx(expected, abs=1e-9)


def test_cosine_of_a_short_run_starts_at_its_peak():
    """A twentieth of 19 steps is less than one step."""
    rates = learning_rates(plain(schedule="cosine", learning_rate=PEAK), total_steps=19, steps=[0, 19])
    assert rates == pytest.approx([PEAK, 0.0], abs=1e-9)


@pytest.mark.parametrize("total_steps", [1, 2, 20, 21, 60, 140, 1000])
def test_cosine_rises_then_falls_and_never_exceeds_the_peak(total_steps):
    recipe = plain(schedule="cosine", learning_rate=PEAK)
    rates = learning_rates(recipe, total_steps=total_steps, steps=range(total_steps + 1))
    top = total_steps // 20
    assert rates[top] == pytest.approx(PEAK)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert all(rate > 0 for rate in rates[1:-1])


# --- updates ---


def test_sgd_has_momentum():
    """v = 0.9 v - 0.1 g: 1 - 0.1 = 0.9, then v = -0.09 - 0.1 and 0.9 - 0.19 = 0.71."""
    assert updated(plain(optimizer="sgd"), [1.0], [[1.0]]) == pytest.approx([0.9])
    assert updated(plain(optimizer="sgd"), [1.0], [[1.0], [1.0]]) == pytest.approx([0.71])


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adams_first_step_is_the_rate(optimizer):
    """m / sqrt(v) is the gradient's sign after one step, whatever its size."""
    assert updated(plain(optimizer=optimizer), [1.0, 1.0], [[5.0, -0.01]]) == pytest.approx([0.9, 1.1], abs=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_is_decoupled(optimizer):
    """With no gradient a weight of 2 loses rate x decay = 5% per step."""
    assert updated(plain(optimizer=optimizer, weight_decay=0.5), [2.0], [[0.0]]) == pytest.approx([1.9])
    assert updated(plain(optimizer=optimizer), [2.0], [[0.0]]) == pytest.approx([2.0])


def test_clips_the_norm_of_all_gradients_together():
    """(3, 4) has norm 5 and is clipped to norm 1: (0.6, 0.8)."""
    recipe = plain(optimizer="sgd", clip_norm=1.0)
    assert updated(recipe, [1.0, 1.0], [[3.0, 4.0]]) == pytest.approx([0.94, 0.92])
    assert updated(recipe, [1.0, 1.0], [[0.3, 0.4]]) == pytest.approx([0.97, 0.96]), "a short gradient stays"
    assert updated(plain(optimizer="sgd"), [1.0, 1.0], [[3.0, 4.0]]) == pytest.approx([0.7, 0.6])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_clips(optimizer):
    assert begin(plain(optimizer=optimizer, clip_norm=0.25), [1.0])[0].global_clipnorm == 0.25


@pytest.mark.parametrize(("name", "kind"), [("smoke", AdamByLayer), ("tutorial", AdamByLayer), ("diode", AdamByLayer)])
def test_optimizer_of_each_recipe(name, kind):
    recipe = RECIPES[name]()
    optimizer = build_optimizer(recipe, total_steps=100, steps_per_epoch=10, encoder=[])
    assert type(optimizer) is kind
    assert optimizer.decay == recipe.weight_decay
    assert optimizer.weight_decay is None, "Keras's own decay would be added"
    assert optimizer.global_clipnorm == recipe.clip_norm


@pytest.mark.parametrize(
    ("ours", "keras_optimizer"),
    [
        (plain(), keras.optimizers.Adam(0.1)),
        (plain(weight_decay=0.3, clip_norm=0.5), keras.optimizers.AdamW(0.1, weight_decay=0.3, global_clipnorm=0.5)),
        (plain(optimizer="sgd", weight_decay=0.3), keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.3)),
    ],
    ids=["adam", "adamw", "sgd"],
)
def test_with_one_rate_it_equals_keras(ours, keras_optimizer):
    """On kernels only, since Keras decays every variable that is not excluded."""
    gradients = np.random.default_rng(0).normal(size=(6, 2))
    variables = [keras.Variable(value, dtype="float32") for value in (1.0, -2.0)]
    keras_optimizer.build(variables)
    for step in gradients:
        wanted = apply(keras_optimizer, variables, step)
    assert updated(ours, [1.0, -2.0], gradients.tolist()) == pytest.approx(wanted, rel=1e-5)


# --- rates by layer ---


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_encoder_has_a_fraction_of_the_rate(optimizer):
    """The first step is 0.1, and a quarter of it in the encoder."""
    recipe = plain(optimizer=optimizer, encoder_rate=0.25)
    assert updated(recipe, [1.0, 1.0], [[1.0, 1.0]], encoder=[0]) == pytest.approx([0.975, 0.9], abs=1e-5)


def test_the_fraction_follows_the_schedule():
    """Step 4, counted from 0, of a cosine over 19 steps without warm-up."""
    recipe = plain(optimizer="sgd", encoder_rate=0.5, schedule="cosine")
    rate = 0.1 * 0.5 * (1 + math.cos(math.pi * 4 / 19))
    optimizer, variables = begin(recipe, [1.0, 1.0], encoder=[1], total_steps=19)
    optimizer.iterations.assign(4)
    assert apply(optimizer, variables, [1.0, 1.0]) == pytest.approx([1 - rate, 1 - rate / 2], abs=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_decay_follows_the_rate_of_the_variable(optimizer):
    """Without a gradient a weight of 2 loses 0.1 x 0.5 of itself, and a quarter as much in the encoder."""
    recipe = plain(optimizer=optimizer, weight_decay=0.5, encoder_rate=0.25)
    assert updated(recipe, [2.0, 2.0], [[0.0, 0.0]], encoder=[0]) == pytest.approx([1.975, 1.9])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_only_kernels_decay(optimizer):
    names = ["kernel", "bias", "gamma", "beta"]
    after = updated(plain(optimizer=optimizer, weight_decay=0.5), [2.0] * 4, [[0.0] * 4], names=names)
    assert after == pytest.approx([1.9, 2.0, 2.0, 2.0])


def test_the_networks_convolutions_decay(small_network):
    model = small_network()
    optimizer = build_optimizer(plain(weight_decay=0.5), total_steps=1, steps_per_epoch=1, encoder=[])
    optimizer.build(model.trainable_variables)
    before = [np.array(variable) for variable in model.trainable_variables]
    optimizer.apply([keras.ops.zeros_like(variable) for variable in model.trainable_variables])
    decayed = {
        variable.path
        for variable, was in zip(model.trainable_variables, before, strict=True)
        if not np.array_equal(variable, was)
    }
    assert decayed == {"small_conv/kernel", "log_depth/kernel"}


TRANSFORMER = {"encoder": "dinov2_tiny", "height": 56, "width": 56}
BLOCKS = ["embed", "block0_fc1", "block1_attention", "block10_fc2", "final_norm", "decoder1_conv1"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_each_block_has_a_fraction_of_the_next_ones_rate(optimizer):
    """Of 11 blocks, the last is the eleventh, not the second."""
    recipe = plain(optimizer=optimizer, layer_decay=0.9, encoder_rate=0.5, **TRANSFORMER)
    after = updated(recipe, [1.0] * 6, [[1.0] * 6], encoder=range(5), layers=BLOCKS)
    fractions = [0.5 * 0.9**12, 0.5 * 0.9**11, 0.5 * 0.9**10, 0.5 * 0.9, 0.5, 1.0]
    assert after == pytest.approx([1 - 0.1 * fraction for fraction in fractions], abs=1e-5)


def test_weight_decay_follows_the_rate_of_the_block():
    recipe = plain(optimizer="sgd", layer_decay=0.5, weight_decay=0.5, **TRANSFORMER)
    after = updated(recipe, [2.0, 2.0], [[0.0, 0.0]], encoder=[0], layers=["block0_fc1", "decoder1_conv1"])
    assert after == pytest.approx([2 - 2 * 0.1 * 0.5 * 0.5, 2 - 2 * 0.1 * 0.5])


def test_a_factor_per_channel_does_not_decay():
    """Such as a transformer's layer scale, which Keras names kernel."""
    scale = keras.Variable([2.0, 2.0], dtype="float32", name="kernel")
    optimizer = build_optimizer(plain(weight_decay=0.5), total_steps=1, steps_per_epoch=1, encoder=[])
    optimizer.build([scale])
    optimizer.apply([keras.ops.zeros(2)], [scale])
    np.testing.assert_array_equal(scale, 2.0)


def test_frozen_epochs_and_the_ramp_by_hand():
    """Four frozen steps, then a ramp over a twentieth of 100 steps: 0, 1/5, 2/5 ... of 0.5."""
    recipe = plain(optimizer="sgd", encoder_rate=0.5, frozen_encoder_epochs=2, epochs=50)
    optimizer, variables = begin(recipe, [1.0, 1.0], encoder=[0], total_steps=100, steps_per_epoch=2)
    fractions, momentum, weight = [], 0.0, 1.0
    for step in range(12):
        fraction = 0.5 * min(max(step - 4, 0) / 5, 1)
        fractions.append(fraction)
        gradient = 0.0 if step < 4 else 1.0  # The step computes no gradient for a frozen encoder.
        momentum = 0.9 * momentum - 0.1 * fraction * gradient
        weight += momentum
        encoder, decoder = apply(optimizer, variables, [gradient, 1.0])
        assert encoder == pytest.approx(weight, abs=1e-6)
        if step <= 4:
            assert encoder == 1.0, "frozen to the last bit"
        assert decoder < 1 - 0.09 * (step + 1)
    assert fractions[4:11] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_weights_do_not_decay(optimizer):
    recipe = plain(optimizer=optimizer, weight_decay=0.5, frozen_encoder_epochs=1, epochs=2)
    after = updated(recipe, [2.0, 2.0], [[0.0, 0.0]] * 3, encoder=[0], steps_per_epoch=5)
    assert after == pytest.approx([2.0, 2 * 0.95**3]) and after[0] == 2.0


# --- averages ---


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_the_average_by_hand(dtype):
    """SGD's weights are 0.9, 0.71 and 0.439; the average starts with the first of them."""
    optimizer, variables = begin(plain(optimizer="sgd", ema_momentum=0.75, dtype=dtype), [1.0])
    scale = 2.0**15 if dtype == "mixed_float16" else 1.0
    weights = [apply(optimizer, variables, [scale])[0] for _ in range(3)]
    assert weights == pytest.approx([0.9, 0.71, 0.439])
    optimizer.finalize_variable_values(variables)
    assert float(variables[0]) == pytest.approx(0.75 * (0.75 * 0.9 + 0.25 * 0.71) + 0.25 * 0.439)


def test_without_an_average_the_weights_stay():
    optimizer, variables = begin(plain(optimizer="sgd"), [1.0])
    apply(optimizer, variables, [1.0])
    optimizer.finalize_variable_values(variables)
    assert float(variables[0]) == pytest.approx(0.9)


# --- loss scaling ---


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_step_that_is_not_finite_is_skipped_and_halves_the_scale(bad):
    optimizer, variables = begin(
        plain(optimizer="sgd", dtype="mixed_float16", weight_decay=0.5, ema_momentum=0.5), [1.0, 1.0]
    )
    assert float(optimizer.scale_loss(3.0)) == 3 * 2**15
    apply(optimizer, variables, [2.0**15, 2.0**15])
    before = [np.array(variable) for variable in (*variables, *optimizer.inner_optimizer.variables)]
    apply(optimizer, variables, [1.0, bad])
    after = [np.array(variable) for variable in (*variables, *optimizer.inner_optimizer.variables)]
    for was, now in zip(before, after, strict=True):
        np.testing.assert_array_equal(now, was)  # Also the momentum, the average and the number of steps.
    assert float(optimizer.scale_loss(3.0)) == 3 * 2**14
    assert int(optimizer.iterations) == 1


def test_gradients_are_unscaled_before_they_are_clipped():
    """(3, 4), scaled, is clipped to (0.6, 0.8)."""
    recipe = plain(optimizer="sgd", clip_norm=1.0, dtype="mixed_float16")
    assert updated(recipe, [1.0, 1.0], [[3 * 2.0**15, 4 * 2.0**15]]) == pytest.approx([0.94, 0.92])


@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_bfloat16"])
def test_only_float16_needs_loss_scaling(dtype):
    optimizer, _ = begin(plain(dtype=dtype), [1.0])
    assert not isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert float(optimizer.scale_loss(3.0)) == 3


def test_sgd_is_sgd():
    assert type(begin(plain(optimizer="sgd"), [1.0])[0]) is SGDByLayer
