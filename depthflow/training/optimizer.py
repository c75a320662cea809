"""The recipe's optimizer and learning-rate schedule: Keras's, with a separate learning rate for the encoder."""

# Keras types its operations loosely.
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIncompatibleMethodOverride=false
# pyright: reportAttributeAccessIssue=false, reportOptionalOperand=false

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
from keras import ops

from depthflow.models.blocks import FINAL_NORM, block_of
from depthflow.recipe import Recipe

WARMUP_FRACTION = 0.05
SGD_MOMENTUM = 0.9


class _RatesByLayer:
    """Keras optimizer mixin with a learning rate per variable, and weight decay that follows each rate.

    Decay is decoupled, w <- w - rate * decay * w (Loshchilov & Hutter 2019, arXiv:1711.05101). In Keras, the rate of
    the decay would be the same for all variables.

    Attributes:
        fractions: Fractions of the learning rate by variable path. Other variables have the whole rate.
        frozen_steps: Number of initial steps in which the variables in `fractions` stay as they are.
        ramp_steps: Number of steps after them until the fractions are reached.
        decay: Weight decay.
    """

    fractions: Mapping[str, float] = MappingProxyType({})
    frozen_steps: int = 0
    ramp_steps: int = 1
    decay: float = 0.0

    def build(self, variables: Sequence[keras.Variable]) -> None:
        super().build(variables)  # pyright: ignore[reportAttributeAccessIssue]
        self._fractions = [self.fractions.get(variable.path) for variable in variables]
        # Biases, normalisation weights and a transformer's factor per channel do not decay.
        self._decayed = {k for k, v in enumerate(variables) if v.name == "kernel" and len(v.shape) != 1}

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)  # Keras hands over the backend's variable.
        fraction = self._fractions[index]
        rate = learning_rate if fraction is None else learning_rate * self._ramped(fraction)
        if self.decay and index in self._decayed:
            shrink = ops.cast(rate * self.decay, variable.dtype)
            self.assign_sub(variable, variable * shrink)
        super().update_step(gradient, variable, rate)  # pyright: ignore[reportAttributeAccessIssue]

    def _ramped(self, fraction: float) -> Any:
        """Returns 0 while frozen, then a ramp up to the fraction, since the moments begin at zero."""
        if not self.frozen_steps:
            return fraction
        since = ops.cast(self.iterations, "float32") - self.frozen_steps
        return fraction * ops.clip(since / self.ramp_steps, 0.0, 1.0)


class AdamByLayer(_RatesByLayer, keras.optimizers.Adam):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980), or AdamW with weight decay."""


class SGDByLayer(_RatesByLayer, keras.optimizers.SGD):
    """SGD with momentum."""


def build_optimizer(
    recipe: Recipe, *, total_steps: int, steps_per_epoch: int, encoder: Sequence[keras.Variable]
) -> keras.optimizers.Optimizer:
    """Builds the optimizer, with its schedule stretched over the run.

    With dtype mixed_float16 the optimizer scales the loss and skips a step whose gradients overflow.

    Args:
        total_steps: Number of optimizer steps of the run.
        encoder: Trainable variables that `recipe.encoder_rate` and `recipe.layer_decay` apply to.
    """
    common = {
        "learning_rate": _learning_rate(recipe, total_steps),
        "global_clipnorm": recipe.clip_norm,
        "use_ema": recipe.ema_momentum is not None,
        "ema_momentum": recipe.ema_momentum or 0.99,
    }
    optimizer = SGDByLayer(momentum=SGD_MOMENTUM, **common) if recipe.optimizer == "sgd" else AdamByLayer(**common)
    optimizer.decay = recipe.weight_decay
    if recipe.encoder_rate < 1 or recipe.layer_decay < 1 or recipe.frozen_epochs:
        optimizer.fractions = _fractions(recipe, [variable.path for variable in encoder])
        optimizer.frozen_steps = recipe.frozen_epochs * steps_per_epoch
        optimizer.ramp_steps = max(1, int(WARMUP_FRACTION * total_steps))
    if recipe.dtype == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _fractions(recipe: Recipe, paths: Sequence[str]) -> dict[str, float]:
    """Returns the encoder's fractions of the learning rate by variable path.

    With a `recipe.layer_decay` d, counting from 0 to n - 1, block i of a transformer has the fraction d^(n - i) of the
    encoder's rate, what comes before the blocks d^(n + 1), and the normalisation after them all of it.

    Source: Bao et al. 2022 (BEiT), arXiv:2106.08254.
    """
    if recipe.layer_decay == 1:
        return dict.fromkeys(paths, recipe.encoder_rate)
    blocks = {path: block_of(path) for path in paths}
    count = 1 + max(block for block in blocks.values() if block is not None)

    def decays(path: str) -> int:
        block = blocks[path]
        if block is None:
            return 0 if path.startswith(FINAL_NORM) else count + 1
        return count - block

    return {path: recipe.encoder_rate * recipe.layer_decay ** decays(path) for path in paths}


def _learning_rate(recipe: Recipe, total_steps: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    if recipe.schedule == "constant":
        return recipe.learning_rate
    warmup_steps = int(WARMUP_FRACTION * total_steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else recipe.learning_rate,
        decay_steps=max(1, total_steps - warmup_steps),
        warmup_target=recipe.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
