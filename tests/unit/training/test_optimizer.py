"""Schedules, momentum, decay and clipping, each by hand on one or two weights."""

import math
from dataclasses import replace

import keras
import numpy as np
import pytest

from depthflow.recipes import RECIPES, smoke
from depthflow.training.optimizer import build_optimizer

PEAK = 1e-3


def learning_rates(recipe, *, total_steps: int, steps) -> list[float]:
    """The rate that the optimizer takes for each step number."""
    optimizer = build_optimizer(recipe, total_steps=total_steps)
    rates = []
    for step in steps:
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    return rates


def updated(recipe, start: list[float], gradients: list[list[float]]) -> list[float]:
    """Weights, one scalar each, after a step a list of gradients."""
    variables = [keras.Variable(value, dtype="float32") for value in start]
    optimizer = build_optimizer(recipe, total_steps=10)
    optimizer.build(variables)
    for step in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(np.float32(g)) for g in step], variables)
    return [float(variable) for variable in variables]


def plain(**changes):
    """A constant rate of 0.1, no decay, no clipping, unless changed."""
    return replace(
        smoke(), **{"learning_rate": 0.1, "schedule": "constant", "weight_decay": 0.0, "clip_norm": None, **changes}
    )


# --- schedules ---


def test_constant_stays():
    assert learning_rates(plain(), total_steps=10, steps=[0, 5, 10, 1000]) == pytest.approx([0.1] * 4)


def test_cosine_warms_up_over_a_twentieth_peaks_and_ends_at_zero():
    """105 steps: 5 of warm-up, then half a cosine over 100."""
    recipe = plain(schedule="cosine", learning_rate=PEAK)
    steps = [0, 1, 4, 5, 30, 55, 80, 105, 200]
    quarter = 0.5 * (1 + math.cos(math.pi / 4))
    expected = [0, PEAK / 5, PEAK * 4 / 5, PEAK, PEAK * quarter, PEAK / 2, PEAK * (1 - quarter), 0, 0]
    assert learning_rates(recipe, total_steps=105, steps=steps) == pytest.approx(expected, abs=1e-9)


def test_cosine_of_a_short_run_starts_at_its_peak():
    """A twentieth of 19 steps is no whole step."""
    rates = learning_rates(plain(schedule="cosine", learning_rate=PEAK), total_steps=19, steps=[0, 19])
    assert rates == pytest.approx([PEAK, 0.0], abs=1e-9)


@pytest.mark.parametrize("total_steps", [1, 2, 20, 21, 60, 140, 1000])
def test_cosine_rises_then_falls_and_never_over_the_peak(total_steps):
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
    """With no gradient a weight of 2 loses rate x decay = 5 per cent of itself a step."""
    assert updated(plain(optimizer=optimizer, weight_decay=0.5), [2.0], [[0.0]]) == pytest.approx([1.9])
    assert updated(plain(optimizer=optimizer), [2.0], [[0.0]]) == pytest.approx([2.0])


def test_clips_the_norm_of_all_gradients_together():
    """(3, 4) has norm 5; at most 1 is left: (0.6, 0.8)."""
    recipe = plain(optimizer="sgd", clip_norm=1.0)
    assert updated(recipe, [1.0, 1.0], [[3.0, 4.0]]) == pytest.approx([0.94, 0.92])
    assert updated(recipe, [1.0, 1.0], [[0.3, 0.4]]) == pytest.approx([0.97, 0.96]), "a short gradient stays"
    assert updated(plain(optimizer="sgd"), [1.0, 1.0], [[3.0, 4.0]]) == pytest.approx([0.7, 0.6])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_clips(optimizer):
    assert build_optimizer(plain(optimizer=optimizer, clip_norm=0.25), total_steps=1).global_clipnorm == 0.25


@pytest.mark.parametrize(
    ("name", "kind"),
    [("smoke", keras.optimizers.AdamW), ("tutorial", keras.optimizers.Adam), ("diode", keras.optimizers.AdamW)],
)
def test_each_recipes_optimizer(name, kind):
    recipe = RECIPES[name]()
    optimizer = build_optimizer(recipe, total_steps=100)
    assert type(optimizer) is kind
    assert (optimizer.weight_decay or 0.0) == recipe.weight_decay
    assert optimizer.global_clipnorm == recipe.clip_norm
