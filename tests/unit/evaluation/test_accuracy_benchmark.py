"""The arithmetic of benchmarks/accuracy.py, and what it does not train a second time."""

import json

import pytest

from tests.benchmark_scripts import loaded


@pytest.fixture(scope="module")
def accuracy():
    with loaded("accuracy") as module:
        yield module


@pytest.mark.parametrize(
    ("values", "mean", "spread"),
    [([0.18, 0.2, 0.22], 0.2, 0.2), ([0.5], 0.5, 0.0), ([0.0, 0.0], 0.0, None), ([0.2, None], None, None)],
)
def test_mean_and_spread_by_hand(accuracy, values, mean, spread):
    found = accuracy.spread(values)
    assert found["values"] == values
    assert (found["mean"], found["spread"]) == pytest.approx((mean, spread))


def test_a_row_in_markdown(accuracy):
    figures = {"abs_rel": accuracy.spread([0.18, 0.22]), "boundary_f1": accuracy.spread([None, 0.1])}
    assert accuracy.markdown("train.py smoke", accuracy.spread([50.0, 52.0]), figures).splitlines() == [
        "| command | seeds | minutes | abs_rel | boundary_f1 |",
        "| --- | --- | --- | --- | --- |",
        "| `train.py smoke` | 2 | 51.0 | 0.200 (20.0%) |  |",
    ]


def test_a_seed_with_a_result_is_not_trained_and_another_command_is(accuracy, tmp_path):
    """Another recipe, which does not exist, would be trained."""
    benchmark = accuracy.Benchmark(recipe="smoke", samples="store", work=str(tmp_path), train="--epochs 3")
    command = ["smoke", "--samples", "store", "--seed", "1", "--epochs", "3"]
    kept = {"command": command, "model_uri": "models:/accuracy/2", "minutes": 7.0}
    (tmp_path / "seed-1.json").write_text(json.dumps(kept))
    assert accuracy.train(benchmark, 1, tmp_path) == kept
    other = accuracy.Benchmark(recipe="nothing", samples="store", work=str(tmp_path), train="--epochs 3")
    with pytest.raises(SystemExit):
        accuracy.train(other, 1, tmp_path)
