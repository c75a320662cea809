"""The recipe's optimizer and learning-rate schedule: plain Keras."""

import keras

from depthflow.config import Recipe

WARMUP_FRACTION = 0.05
SGD_MOMENTUM = 0.9


def build_optimizer(recipe: Recipe, *, total_steps: int) -> keras.optimizers.Optimizer:
    """The optimizer, its schedule stretched over the run.

    Args:
        recipe: optimizer, learning_rate, schedule, weight_decay and clip_norm.
        total_steps: steps of the whole run.
    """
    learning_rate = recipe.learning_rate
    if recipe.schedule == "cosine":
        warmup_steps = int(WARMUP_FRACTION * total_steps)
        learning_rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup_steps else recipe.learning_rate,
            decay_steps=max(1, total_steps - warmup_steps),
            warmup_target=recipe.learning_rate if warmup_steps else None,
            warmup_steps=warmup_steps,
        )
    common = {"learning_rate": learning_rate, "global_clipnorm": recipe.clip_norm}
    if recipe.optimizer == "adam":
        return keras.optimizers.Adam(**common)
    if recipe.optimizer == "adamw":
        return keras.optimizers.AdamW(weight_decay=recipe.weight_decay, **common)
    return keras.optimizers.SGD(momentum=SGD_MOMENTUM, weight_decay=recipe.weight_decay or None, **common)
