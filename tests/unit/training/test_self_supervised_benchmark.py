"""The arithmetic of benchmarks/self_supervised.py."""

import numpy as np
import pytest

from depthflow.recipes import RECIPES
from depthflow.store.write.config import PreprocessConfig
from tests.benchmark_scripts import loaded
from tests.stores import make_store
from tests.view_trees import CAMERA, HEIGHT, WIDTH, depth_row, seen_from, wall, write_png, write_table


@pytest.fixture(scope="module")
def benchmark():
    with loaded("self_supervised") as module:
        yield module


@pytest.fixture(scope="module")
def walls(tmp_path_factory):
    """Returns a store of flat walls: 2 m in train; 1 m and 4 m in val."""
    root, rows = tmp_path_factory.mktemp("walls"), []
    for split, metres in (("train", 2.0), ("val", 1.0), ("val", 4.0)):
        name = f"{split}{metres:g}.png"
        write_png(root / name, seen_from(wall(0), 0))
        depth = depth_row(root, name.replace("png", "npy"), metres)
        rows.append({"image": name, "split": split, **depth, **CAMERA})
    write_table(root, rows)
    return make_store(PreprocessConfig(source=(str(root),), out=str(root / "store"), height=HEIGHT, width=WIDTH))


def test_constants_by_hand(benchmark, walls):
    """2 m is wrong by 100% at 1 m and by 50% at 4 m; 1 m by nothing and 75%; each image's median by nothing."""
    assert benchmark.constant_abs_rel(walls, "mean") == pytest.approx(0.75)
    assert benchmark.constant_abs_rel(walls, "best") == pytest.approx(0.375, abs=0.02)
    assert benchmark.constant_abs_rel(walls, "median") == pytest.approx(0.0)


def test_figures_are_medians_over_seeds(benchmark, walls):
    case = benchmark.CASES["stereo"]
    runs = [{"val/abs_rel": value, "val/pose_direction_median_deg": 10 * value} for value in (0.3, 0.9, 0.6)]
    found = benchmark.figures(case, runs, walls)
    assert found["ratio"] == pytest.approx(0.6 / 0.75)
    assert found["pose_direction_median_deg"] == pytest.approx(6.0)
    assert "| stereo | `train.py stereo-tiny` | 3 | 0.600 | 0.750 | 0.800 | 0.5 | 6.0 |" in benchmark.markdown(
        {"stereo": found}
    )


def test_cases_name_recipes(benchmark):
    assert {case.train.split()[0] for case in benchmark.CASES.values()} <= {*RECIPES}
    assert np.all([case.data in (*benchmark.DATA, "frames") for case in benchmark.CASES.values()])
