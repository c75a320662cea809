"""The train state of a network that is learnt in part: what resumes and what is registered."""

from dataclasses import replace

import keras
import numpy as np

from depthflow.models.augmentation import NEUTRAL
from depthflow.models.blocks import adapt
from depthflow.models.network import build_network
from depthflow.recipes import smoke
from depthflow.store.read.share import Position
from depthflow.training.checkpoint import load_checkpoint, write_checkpoint
from depthflow.training.feed import TrainingBatch
from depthflow.training.train_state import TrainState

SIDE = 28
RECIPE = replace(
    smoke(),
    encoder="dinov2_tiny",
    decoder="dpt",
    decoder_filters=(8,),
    decoder_norm="none",
    height=SIDE,
    width=SIDE,
    horizontal_flip=False,
    max_zoom=1.0,
    colour_jitter=0.0,
    lora_rank=2,
    remat=True,
    ema_momentum=0.5,
)


def batch_of(step: int) -> TrainingBatch:
    generator = np.random.default_rng(step)
    return TrainingBatch(
        rgb=generator.integers(0, 256, (2, SIDE, SIDE, 3), np.uint8),
        log_depth=generator.normal(1.0, 0.5, (2, SIDE, SIDE)).astype(np.float32),
        valid_mask=np.ones((2, SIDE, SIDE), bool),
        draws=np.tile(NEUTRAL, (2, 1)),
        epoch=0,
        batch_rows=np.arange(2),
        next_position=Position(seed=0, epoch=0, step=step + 1),
    )


def test_a_low_rank_change_resumes_and_is_in_the_registered_network(group, tmp_path):
    keras.utils.set_random_seed(0)
    signals = np.zeros(2, np.float32)
    one = TrainState(RECIPE, steps_per_epoch=8, group=group, checkpoint=None)
    frozen = {v.path: np.array(v) for v in one.model.weights if not v.trainable}
    one.step(batch_of(0), signals)
    one.step(batch_of(1), signals)
    path = write_checkpoint(tmp_path, one.snapshot(), replace(one.progress, steps_done=2))
    with one.averaged():
        wanted = np.array(one.model(batch_of(0).rgb))
    last = float(one.step(batch_of(2), signals).loss)
    assert "block0_attention/query/kernel" in frozen and "block3_fc1/kernel" in frozen
    for variable in one.model.weights:
        np.testing.assert_array_equal(variable, frozen.get(variable.path, variable))

    other = TrainState(RECIPE, steps_per_epoch=8, group=group, checkpoint=path)
    assert float(other.step(batch_of(2), signals).loss) == last
    assert other.checksum() == one.checksum()

    network = build_network(RECIPE.blank())
    adapt(network, rank=RECIPE.lora_rank)
    load_checkpoint(path, model=network)
    network.save(tmp_path / "network.keras")
    registered = keras.models.load_model(tmp_path / "network.keras", safe_mode=True)
    np.testing.assert_allclose(registered(batch_of(0).rgb), wanted, rtol=1e-4, atol=1e-5)
