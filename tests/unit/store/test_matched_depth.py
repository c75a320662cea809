"""Stores whose depth comes from matching pairs: of trees and archives alike, in place of depth files."""

import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from depthflow.store.read.reader import SplitReader
from depthflow.store.write.config import PreprocessConfig
from depthflow.store.write.preprocess import content_config
from tests.stereo_pairs import HEIGHT, WIDTH, pair, seen_by_both
from tests.stores import make_store
from tests.view_trees import write_png, write_table

FOCAL_PX, BASELINE_M = 150.0, 0.2
CAMERA = {"fx_px": FOCAL_PX, "width": WIDTH, "height": HEIGHT}


def write_pairs(root, *, with_depth=False, doffs=(0, 7)):
    """A pair per doffs, in scenes of their own, and, on request, files of another depth."""
    rows = []
    for shift in doffs:
        left, right, _ = pair(doffs=shift)
        row = {"image": f"{shift}/left.png", "right_image": f"{shift}/right.png", "sample_id": str(shift)}
        write_png(root / row["image"], left)
        write_png(root / row["right_image"], right)
        if with_depth:
            np.save(root / f"{shift}/depth.npy", np.full((HEIGHT, WIDTH), 77.0, np.float32))
            np.save(root / f"{shift}/mask.npy", np.zeros((HEIGHT, WIDTH), np.uint8))
            row |= {"depth": f"{shift}/depth.npy", "mask": f"{shift}/mask.npy", "depth_units_per_m": 10}
        rows.append({**row, **CAMERA, "baseline_m": BASELINE_M, "right_cx_px": WIDTH / 2 + shift})
    return write_table(root, rows)


def store_of(source, out, **changes):
    config = {"source": (str(source),), "out": str(out), "height": HEIGHT, "width": WIDTH, "depth_from": "stereo"}
    return make_store(PreprocessConfig(**{**config, **changes}))


@pytest.mark.parametrize("with_depth", [False, True])
@pytest.mark.parametrize("kind", ["depth", "stereo"])
def test_depth_is_that_of_the_disparity_whatever_the_files_say(tmp_path, kind, with_depth):
    store = store_of(write_pairs(tmp_path / "pairs", with_depth=with_depth), tmp_path / "out", kind=kind)
    assert store.views == (("right",) if kind == "stereo" else ())
    reader = SplitReader(store, "train")
    batch = reader.read(range(len(reader)))
    assert sorted(batch.sample_ids) == ["0", "7"]
    for name, log_depth, valid_mask in zip(batch.sample_ids, batch.log_depth, batch.valid_mask, strict=True):
        *_, truth = pair(doffs=int(name))
        sure = seen_by_both(truth)
        assert valid_mask[sure].mean() > 0.99
        wanted = FOCAL_PX * BASELINE_M / (truth + int(name))
        np.testing.assert_allclose(np.exp(log_depth[sure & valid_mask]), wanted[sure & valid_mask], rtol=0.1)
    index = pq.read_table(f"{store.files.root}/index.parquet").to_pylist()
    assert [row["depth_xxh3"] for row in index] == [None, None]
    assert all(row["fx_px"] == FOCAL_PX for row in index)


@pytest.mark.parametrize("kind", ["depth", "stereo"])
def test_an_archive_makes_the_same_store(tmp_path, kind):
    tree = write_pairs(tmp_path / "pairs", with_depth=True)
    with tarfile.open(tmp_path / "pairs.tar.gz", "w:gz") as tar:
        tar.add(tree, arcname=".")
    stores = [store_of(tmp_path / name, tmp_path / f"{name}-out", kind=kind) for name in ("pairs", "pairs.tar.gz")]
    assert stores[0].manifest["samples"] == 2
    assert stores[0].manifest["fingerprint"] == stores[1].manifest["fingerprint"]


def test_where_depth_is_from_is_part_of_the_configuration_only_where_it_is_no_file():
    config = {"source": ("a",), "out": "b"}
    assert "depth_from" not in content_config(PreprocessConfig(**config))
    assert content_config(PreprocessConfig(**config, depth_from="stereo"))["depth_from"] == "stereo"
    assert PreprocessConfig(**config, depth_from="stereo", kind="stereo").needed == ("rgb", "right")
