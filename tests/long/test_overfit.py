"""The tutorial's network, its decoder a quarter as wide, learns: it overfits eight mini-DIODE images."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from depthflow.datasets.decode import decode_frame
from depthflow.models.augmentation import draw
from depthflow.recipes import tutorial
from depthflow.store.read.share import Position
from depthflow.store.write.planes import Planes, make_planes
from depthflow.synthetic.synthesize import synthesize
from depthflow.training.collective import WorkerGroup
from depthflow.training.feed import TrainingBatch
from depthflow.training.train_state import TrainState
from tests.stores import diode_frames

STEPS = 60


@pytest.fixture
def eight_images(tmp_path) -> list[Planes]:
    synthesize(out=tmp_path / "tree", scans=4, samples_per_scan=2, height=64, width=64, seed=0)
    images = []
    for triplet in diode_frames(str(tmp_path / "tree"), ("train", "val")):
        members = {name: Path(path).read_bytes() for name, path in triplet.members.items()}
        frame = decode_frame(members)
        arrays = {"rgb": frame.rgb, "depth_m": frame.depth_m, "valid_mask": frame.valid_mask}
        images.append(make_planes(**arrays, height=64, width=64, edge_relative_jump=0.1, edge_radius_px=1))
    return images


def test_tutorials_unet_overfits_eight_images(eight_images):
    """The loss falls below 5% of its first value within sixty steps, in the step that every worker runs."""
    keras.utils.set_random_seed(0)
    size = {"decoder_filters": (256, 128, 64, 32, 16), "height": 64, "width": 64}
    recipe = replace(tutorial(), weights="none", learning_rate=3e-4, epochs=STEPS, **size)
    train_state = TrainState(recipe, steps_per_epoch=1, group=WorkerGroup(rank=0, size=1), checkpoint=None)
    ids = [f"image {k}" for k in range(len(eight_images))]
    batch = TrainingBatch(
        **{
            plane: np.stack([getattr(image, plane) for image in eight_images])
            for plane in ("rgb", "log_depth", "valid_mask")
        },
        draws=draw(recipe, seed=0, epoch=0, sample_ids=ids),
        epoch=0,
        batch_rows=np.arange(len(ids)),
        next_position=Position(seed=0, epoch=1),
    )
    losses = [float(train_state.step(batch, np.zeros(2)).loss) for _ in range(STEPS)]
    assert losses[-1] < 0.05 * losses[0], losses
