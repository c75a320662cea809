"""Small trees of real files, and stores made of them without Ray."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from depthflow.store.write.config import PreprocessConfig
from tests.stores import make_store

HEIGHT, WIDTH = 6, 8


def random_frame(key):
    """(rgb, depth_m, mask) of HEIGHT x WIDTH: a few depths, a third of the pixels invalid with garbage under them."""
    generator = np.random.default_rng(key)
    rgb = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    depth = generator.choice(np.array([0.7, 2.0, 2.1, 9.0, 150.0], np.float32), (HEIGHT, WIDTH))
    mask = (generator.random((HEIGHT, WIDTH)) > 1 / 3).astype(np.float32)
    mask[0, 0] = 1
    depth[mask == 0] = generator.choice(np.array([0.0, -1.0, 1e20], np.float32))
    return rgb, depth, mask


def write_triplet(root, split, sample_id, rgb, depth, mask):
    """Writes the three files where DIODE has them."""
    scene, scan, scene_type = sample_id.split("_")[:3]
    folder = Path(root, split, scene_type, f"scene_{scene}", f"scan_{scan}")
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"{sample_id}.png"), rgb[..., ::-1])
    np.save(folder / f"{sample_id}_depth.npy", depth[..., None])
    np.save(folder / f"{sample_id}_depth_mask.npy", mask)
    return folder


def write_tree(root, splits):
    """Writes a tree of random frames.

    Args:
        splits: split to {SSSSS_NNNNN_type: number of samples}.

    Returns:
        split to sample id to (rgb, depth_m, mask).
    """
    tree = {}
    for split, scans in splits.items():
        for scan, count in scans.items():
            for i in range(count):
                sample_id = f"{scan}_{i:03d}_000"
                frame = random_frame([*scan.encode(), i])
                write_triplet(root, split, sample_id, *frame)
                tree.setdefault(split, {})[sample_id] = frame
    return tree


def write_store(out, *sources, **changes):
    """A store of these sources, archives among them."""
    return make_store(config_of(out, *sources, **changes))


def config_of(out, *sources, **changes):
    """The configuration of a store at the source's size."""
    defaults = {"source": tuple(map(str, sources)), "out": str(out), "height": HEIGHT, "width": WIDTH}
    return PreprocessConfig(**{**defaults, **changes})


@pytest.fixture(scope="session")
def write():
    """The functions above."""
    return SimpleNamespace(
        height=HEIGHT,
        width=WIDTH,
        frame=random_frame,
        triplet=write_triplet,
        tree=write_tree,
        store=write_store,
        config=config_of,
    )


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A store never to be changed: 70 samples of train in two shards, five of val, and two refused inputs.

    It is of the source's size, so that it holds the source's values: `tree` is what `write_tree` returned.
    """
    root = tmp_path_factory.mktemp("small")
    splits = {"train": {"00001_00001_indoors": 40, "00002_00001_outdoor": 30}, "val": {"00003_00001_indoors": 5}}
    tree = write_tree(root / "tree", splits)
    rgb, depth, mask = random_frame(0)
    write_triplet(root / "tree", "train", "00001_00001_indoors_900_000", rgb, depth, mask * 0)
    lone = write_triplet(root / "tree", "val", "00003_00001_indoors_900_000", rgb, depth, mask)
    (lone / "00003_00001_indoors_900_000_depth.npy").unlink()
    return SimpleNamespace(store=write_store(root / "store", root / "tree"), tree=tree, source=root / "tree")


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """A store never to be changed, of two data sets: train has 42 samples of diode and 28 of tum, val 4 and 3.

    One frame of tum is rejected. Ids of tum have slashes, and a scene is called as one of diode.
    """
    root = tmp_path_factory.mktemp("mixed")
    splits = {
        "train": {"00001_00001_indoors": 30, "00002_00001_outdoor": 12, "00009_00001_indoors": 28},
        "val": {"00003_00001_indoors": 4, "00009_00002_indoors": 3},
    }
    write_tree(root / "tree", splits)
    rgb, depth, mask = random_frame(0)
    write_triplet(root / "tree", "val", "00009_00002_indoors_900_000", rgb, depth, mask * 0)

    def of_tum(frame):
        if frame.scene != "scene_00009":
            return frame
        name = f"tum/freiburg1_desk_indoors_a_b/{frame.split}.{frame.sample_id[20:23]}"
        return replace(frame, dataset="tum", scene="scene_00003", scan="", sample_id=name)

    return make_store(config_of(root / "store", root / "tree"), change=of_tum)
