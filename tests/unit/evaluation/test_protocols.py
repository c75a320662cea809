"""Protocols: found by name, which store and model each allows, and which pixels each counts."""

import numpy as np
import pytest

from depthflow.errors import ProtocolError, StoreError
from depthflow.evaluation.config import EvaluateConfig, PromoteConfig
from depthflow.evaluation.protocols import PROTOCOLS, check_output, count_without_depth, find_protocol, rows_of
from depthflow.metrics import image_metrics
from tests.stores import write_index


def write_store(root, sizes: list[tuple[int, int]], *, stored: tuple[int, int], scene_types=("indoors",)):
    """A store without planes: validation samples whose sources had these sizes, their scene types taken in turn."""
    rows = [
        {
            "sample_id": f"id{k}",
            "split": "val",
            "scene_type": scene_types[k % len(scene_types)],
            "source_height": height,
            "source_width": width,
        }
        for k, (height, width) in enumerate(sizes)
    ]
    return write_index(root, rows, height=stored[0], width=stored[1])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_is_found_by_its_name(name):
    assert find_protocol(name).name == name
    assert find_protocol(name).description


def test_the_commands_default_exists():
    for config in (EvaluateConfig(model="m", samples="s"), PromoteConfig(samples="s")):
        assert find_protocol(config.protocol) is PROTOCOLS["devkit"]


@pytest.mark.parametrize("name", ["kitti", "", "DEVKIT"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ProtocolError) as caught:
        find_protocol(name)
    message = str(caught.value)
    assert message.startswith(f"There is no protocol {name}. Pass --protocol one of: ")
    assert all(known in message for known in PROTOCOLS)


def test_devkit_accepts_a_store_at_the_sources_resolution(tmp_path):
    store = write_store(tmp_path, [(768, 1024)] * 3, stored=(768, 1024))
    assert rows_of(PROTOCOLS["devkit"], store, "val") == [0, 1, 2]


@pytest.mark.parametrize(
    ("sizes", "stored"),
    [
        ([(768, 1024)], (256, 256)),
        ([(768, 1024)], (1024, 768)),
        ([(768, 1024), (256, 256)], (256, 256)),
        ([(192, 256), (192, 257)], (192, 256)),
    ],
)
def test_devkit_rejects_a_store_that_was_resized(tmp_path, sizes, stored):
    height, width = max(sizes)
    with pytest.raises(ProtocolError) as caught:
        rows_of(PROTOCOLS["devkit"], write_store(tmp_path, sizes, stored=stored), "val")
    message = str(caught.value)
    assert f"the source's resolution ({height} x {width})" in message
    assert f"was resized to {stored[0]} x {stored[1]}" in message
    assert f"preprocess.py --splits val --height {height} --width {width}" in message


def test_a_missing_split_is_rejected(tmp_path):
    with pytest.raises(StoreError, match="has no train split; it holds val"):
        rows_of(PROTOCOLS["devkit"], write_store(tmp_path, [(4, 4)], stored=(4, 4)), "train")


@pytest.mark.parametrize("name", [name for name, protocol in PROTOCOLS.items() if protocol.at_source_resolution])
def test_all_but_stored_measure_at_the_sources_resolution(tmp_path, name):
    store = write_store(tmp_path, [(768, 1024)], stored=(256, 256), scene_types=("indoors", "outdoor"))
    with pytest.raises(ProtocolError, match="measures at the source's resolution"):
        rows_of(PROTOCOLS[name], store, "val")
    assert rows_of(PROTOCOLS["stored"], store, "val") == [0]


@pytest.mark.parametrize(
    ("name", "rows"), [("indoor-10m", [0, 2, 4]), ("outdoor-80m", [1, 3]), ("median", [*range(5)])]
)
def test_a_protocol_of_one_scene_type_takes_only_its_samples(tmp_path, name, rows):
    store = write_store(tmp_path, [(4, 6)] * 5, stored=(4, 6), scene_types=("indoors", "outdoor"))
    assert rows_of(PROTOCOLS[name], store, "val") == rows


def test_a_store_without_the_scene_type_is_rejected(tmp_path):
    store = write_store(tmp_path, [(4, 6)], stored=(4, 6))
    with pytest.raises(ProtocolError, match=r"evaluates outdoor only, and val of .* has none. It holds: indoors\."):
        rows_of(PROTOCOLS["outdoor-80m"], store, "val")


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize(
    ("output", "allowed"), [("relative depth", ["median", "affine"]), ("relative inverse depth", ["affine"])]
)
def test_relative_depth_is_allowed_where_it_is_aligned(name, output, allowed):
    check_output(PROTOCOLS[name], "metres", model="m")
    if name in allowed:
        check_output(PROTOCOLS[name], output, model="m")
    else:
        with pytest.raises(ProtocolError, match=rf"m predicts {output}, .* Pass --protocol {allowed[0]}\."):
            check_output(PROTOCOLS[name], output, model="m")


def some_without_depth(root, fractions: list[float | None]):
    """Validation samples of these fractions of valid pixels, the second of each four outdoor."""
    rows = [
        {
            "sample_id": f"id{k}",
            "split": "val",
            "scene_type": "outdoor" if k % 4 == 1 else "indoors",
            "source_height": 4,
            "source_width": 6,
            "valid_fraction": fraction,
        }
        for k, fraction in enumerate(fractions)
    ]
    return write_index(root, rows, height=4, width=6)


def test_samples_without_depth_are_not_evaluated_but_counted(tmp_path):
    store = some_without_depth(tmp_path, [0.5, 0.0, 0.0, 1e-6, None])
    median, outdoor = PROTOCOLS["median"], PROTOCOLS["outdoor-80m"]
    assert rows_of(median, store, "val") == [0, 3, 4]
    assert count_without_depth(median, store, "val") == 2
    assert count_without_depth(PROTOCOLS["indoor-10m"], store, "val") == 1
    with pytest.raises(ProtocolError, match=r"val of .* has no depth to compare with: none of its 1 samples"):
        rows_of(outdoor, store, "val")


def test_a_store_without_any_depth_says_what_to_do(tmp_path):
    with pytest.raises(ProtocolError, match=r"none of its 2 samples .* --samples a store .* --depth-from stereo\."):
        rows_of(PROTOCOLS["median"], some_without_depth(tmp_path, [0.0, 0.0]), "val")


@pytest.mark.parametrize("name", ["median", "affine"])
@pytest.mark.parametrize("factor", [1e-3, 40.0])
def test_metrics_of_relative_depth_do_not_depend_on_its_factor(name, factor):
    gt, pred = np.exp(np.random.default_rng(0).normal(2.0, 1.5, (2, 32, 40)))
    mask = np.ones(gt.shape, bool)
    metres, relative = (
        PROTOCOLS[name].metres(pred * by, depth_gt=gt, mask=mask, output=output)
        for by, output in ((1.0, "metres"), (factor, "relative depth"))
    )
    np.testing.assert_allclose(relative, metres, rtol=1e-9)


def published_abs_rel_and_delta1(name: str, *, pred, gt, valid, edges) -> tuple[float, float]:
    """As in the papers' own scripts: uncounted pixels become zero, and pixels that are not above zero are ignored."""
    gt = np.where(valid, gt, 0.0)
    if name == "devkit-clean":
        gt[edges] = 0.0
    if cap := {"indoor-10m": 10.0, "outdoor-80m": 80.0}.get(name):
        gt[gt > cap] = 0.0
        pred = np.clip(pred, None, cap)
    seen = gt > 0
    p, g = pred[seen], gt[seen]
    if name == "median":
        p = p * np.median(g) / np.median(p)
    if name == "affine":
        p = np.exp(np.polyval(np.polyfit(np.log(p), np.log(g), 1), np.log(p)))
    return np.mean(np.abs(p - g) / g), np.mean(np.maximum(p / g, g / p) < 1.25)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_the_published_ones(name, seed):
    rng = np.random.default_rng(seed)
    shape = (32, 40)
    gt, pred = np.exp(rng.normal(2.0, 1.5, (2, *shape)))
    valid, edges = rng.random(shape) > 0.3, rng.random(shape) > 0.8
    gt[~valid] = rng.choice([0.0, np.nan, -1.0, 1e9], (~valid).sum())
    protocol = PROTOCOLS[name]
    mask = protocol.counted(depth_gt=gt, valid_mask=valid, edge_mask=edges)
    metres = protocol.metres(pred, depth_gt=gt, mask=mask, output="metres")
    found = image_metrics(depth_pred=metres, depth_gt=gt, valid_mask=mask)
    abs_rel, delta1 = published_abs_rel_and_delta1(name, pred=pred, gt=gt, valid=valid, edges=edges)
    assert found["abs_rel"] == pytest.approx(abs_rel, rel=1e-9)
    assert found["delta1"] == pytest.approx(delta1, rel=1e-9)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("impossible_m", [1e-40, 0.0009, 1.1e5, 1e30])
def test_a_depth_that_no_sensor_measures_does_not_count(name, impossible_m):
    gt = np.full((4, 6), 2.0, np.float32)
    gt[1, 2] = impossible_m
    everywhere, nowhere = np.ones(gt.shape, bool), np.zeros(gt.shape, bool)
    mask = PROTOCOLS[name].counted(depth_gt=gt, valid_mask=everywhere, edge_mask=nowhere)
    assert (mask == (gt == 2.0)).all()


@pytest.mark.parametrize(("name", "greatest"), [("devkit", 100_000), ("indoor-10m", 10), ("outdoor-80m", 80)])
def test_the_depths_that_are_counted_are_stated(name, greatest):
    assert PROTOCOLS[name].meaning.startswith(PROTOCOLS[name].description)
    assert PROTOCOLS[name].meaning.endswith(f" Counts ground truth from 0.001 to {greatest:,} m.")
    gt = np.array([[0.001, greatest]])
    assert PROTOCOLS[name].counted(depth_gt=gt, valid_mask=gt > 0, edge_mask=gt < 0).all()
