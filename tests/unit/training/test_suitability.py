"""Which stores fit a recipe: checked before anything starts."""

from dataclasses import replace

import pytest
import tyro

from depthflow.errors import StoreError
from depthflow.parts import stride_px
from depthflow.recipes import RECIPES, recipe_choice, smoke
from depthflow.store.schema import KINDS
from depthflow.training.suitability import measurable, sized
from tests.stores import write_index

ROWS = [{"sample_id": split, "split": split, "scene_type": "indoors"} for split in ("train", "val")]


def write_views(root, kind, *, height=64, width=64, labelled=2, posed=2):
    """Writes an index of two samples per split, of which as many in each have depth and known poses."""
    camera, pose = [32.0, 32.0, 32.0, 32.0], [float(k % 5 == 0) for k in range(16)]
    rows = [
        {
            **row,
            "sample_id": f"{row['split']}{k}",
            **dict(zip(("fx_px", "fy_px", "cx_px", "cy_px"), camera, strict=True)),
            "valid_fraction": 0.5 if k < labelled else 0.0,
            **{f"{view}_camera": camera for view in KINDS[kind]},
            **{f"{view}_pose": pose if k < posed else None for view in KINDS[kind]},
        }
        for row in ROWS
        for k in range(2)
    ]
    return write_index(root, rows, height=height, width=width, kind=kind)


def write_store(root, counts: dict[str, int]):
    """Writes a store without planes: only its index and manifest."""
    rows = [
        {"sample_id": f"{split}{k}", "split": split, "scene_type": "indoors"}
        for split, count in counts.items()
        for k in range(count)
    ]
    return write_index(root, rows, height=64, width=64)


def test_a_fitting_store_passes(tmp_path):
    assert sized(smoke(), write_store(tmp_path, {"train": 20, "val": 1})) == smoke()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_without_a_size_takes_the_stores(tmp_path, name):
    recipe = replace(RECIPES[name](), height=None, width=None, camera="none")
    height, width = (n * stride_px(recipe.encoder) for n in (3, 5))
    kind = recipe.views_from or "depth"
    found = sized(recipe, write_views(tmp_path, kind, height=height, width=width))
    assert found == replace(recipe, height=height, width=width)
    assert found.size == (height, width)


@pytest.mark.parametrize(("asked", "size"), [((64, 96), (64, 96)), ((64, None), (64, 160)), ((128, 160), (128, 160))])
def test_a_recipe_may_be_smaller_than_the_store(tmp_path, asked, size):
    store = write_index(tmp_path, ROWS, height=128, width=160)
    assert sized(replace(smoke(), height=asked[0], width=asked[1]), store).size == size


def test_every_recipe_of_the_command_line_takes_the_stores_size():
    for name in RECIPES:
        recipe = tyro.cli(recipe_choice(), args=[name])
        assert (recipe.height, recipe.width) == (None, None)


def test_the_canonical_camera_needs_every_samples_camera(tmp_path):
    """Unless the recipe states the field of view of those that have none."""
    size, lens = {"source_height": 64, "source_width": 64}, {"fx_px": 32.0, "fy_px": 64.0}
    rows = [{**ROWS[0], "sample_id": f"train{k}", **size, **(lens if k else {})} for k in range(3)]
    rows.append({**ROWS[1], **size, **lens})
    store = write_index(tmp_path, rows, height=64, width=64)
    recipe = replace(smoke(), camera="canonical")
    with pytest.raises(StoreError, match=r"and 1 of 3 in train of .* have none\. .*--assume-fov-deg"):
        sized(recipe, store)
    assert sized(replace(recipe, assume_fov_deg=60.0), store).camera == "canonical"
    assert sized(smoke(), store) == smoke()


@pytest.mark.parametrize(("counts", "missing"), [({"train": 20}, "val"), ({"val": 20}, "train")])
def test_both_splits_are_needed(tmp_path, counts, missing):
    with pytest.raises(StoreError, match=f"has no {missing} split"):
        sized(smoke(), write_store(tmp_path, counts))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            (("kitti", 2.0),),
            r"kitti, of which the training split has no sample\. It holds 2 of diode, 1 of tum\.",
        ),
        ((("val", 2.0),), "names val"),
        ((("diode", 0.0), ("tum", 0.0)), "leaves nothing to train on"),
    ],
)
def test_weights_are_of_data_sets_in_the_training_split(tmp_path, weights, message):
    rows = [{**ROWS[0], "sample_id": f"{k}", "dataset": name} for k, name in enumerate(("diode", "tum", "diode"))]
    store = write_index(tmp_path, [*rows, {**ROWS[1], "dataset": "val"}], height=64, width=64)
    with pytest.raises(StoreError, match=message):
        sized(replace(smoke(), dataset_weights=weights), store)
    assert sized(replace(smoke(), dataset_weights=(("tum", 3.0),)), store).dataset_weights == (("tum", 3.0),)


@pytest.mark.parametrize(
    ("asked", "stored", "message"),
    [
        (
            (128, 128),
            (64, 64),
            r"of 64 x 64.*trains at 128 x 128\. .*--height 128 --width 128, or pass.* multiples of 32 .*no larger",
        ),
        ((160, None), (128, 96), r"of 128 x 96.*trains at 160 x 96\. .*--height 160 --width 96, "),
        ((None, None), (240, 300), r"of 240 x 300.*trains at multiples of 32\. .*--height 256 --width 288, "),
        ((None, None), (8, 64), r"of 8 x 64.*trains at multiples of 32\. .*--height 32 --width 64, "),
    ],
)
def test_a_size_that_does_not_fit_is_rejected_with_both_fixes(tmp_path, asked, stored, message):
    store = write_index(tmp_path, ROWS, height=stored[0], width=stored[1])
    with pytest.raises(StoreError, match=message):
        sized(replace(smoke(), height=asked[0], width=asked[1]), store)


VIDEO, STEREO, SUPERVISED = (("video", 1.0),), (("stereo", 1.0),), (("supervised", 1.0),)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"objective": VIDEO}, "depth", "--objective video needs a store of kind video, and .* is of kind depth"),
        ({"objective": STEREO}, "video", "of kind stereo, and .* of kind video.*or take --objective video"),
        ({"objective": SUPERVISED}, "stereo", "--objective supervised needs depth"),
        ({"objective": (*SUPERVISED, *VIDEO)}, "video", "--objective supervised needs depth"),
        ({"objective": VIDEO, "scale_from": "median"}, "video", "--scale-from median needs depth.*velocity"),
        ({"objective": VIDEO, "scale_from": "velocity"}, "video", "--scale-from velocity needs the distances"),
        ({"objective": STEREO}, "stereo", "--objective stereo needs the baseline .* 2 of 2 samples in train of"),
        ({"objective": VIDEO, "poses": "given"}, "video", "--poses given.* 2 of 2 samples in train of .*learned"),
    ],
)
def test_a_store_without_what_is_learned_from_is_rejected(tmp_path, changes, kind, message):
    store = write_views(tmp_path, kind, labelled=0, posed=0)
    with pytest.raises(StoreError, match=message):
        sized(replace(smoke(), **changes), store)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"objective": SUPERVISED}, "video"),
        ({"objective": VIDEO, "scale_from": "median"}, "video"),
        ({"objective": VIDEO, "scale_from": "velocity"}, "video"),
    ],
)
def test_some_samples_with_it_are_enough(tmp_path, changes, kind):
    recipe = replace(smoke(), **changes)
    assert sized(recipe, write_views(tmp_path, kind, labelled=1, posed=1)) == recipe


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({"objective": VIDEO, "poses": "given"}, "video"), ({"objective": (*SUPERVISED, *STEREO)}, "stereo")],
)
def test_given_poses_and_baselines_are_needed_of_every_sample(tmp_path, changes, kind):
    recipe = replace(smoke(), **changes)
    with pytest.raises(StoreError, match=r"1 of 2 samples in train of .* have none"):
        sized(recipe, write_views(tmp_path / "one", kind, posed=1))
    assert sized(recipe, write_views(tmp_path / "all", kind)) == recipe


def test_samples_that_tell_the_scale_are_found(tmp_path):
    store = write_views(tmp_path, "video", labelled=1, posed=0)
    assert measurable(store, "median").tolist() == [0]
    assert measurable(store, "velocity").tolist() == []


def test_views_do_not_shrink(tmp_path):
    store = write_views(tmp_path, "stereo", height=128, width=128)
    with pytest.raises(StoreError, match=r"trains at 64 x 64.*that are the store's, since views do not shrink"):
        sized(replace(smoke(), objective=STEREO), store)
