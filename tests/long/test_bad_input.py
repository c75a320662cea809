"""Bad input, each a clear message and a non-zero exit, and nothing half-written taken for whole."""

import numpy as np
import pytest
from mlflow import MlflowClient
from ray.util import get_node_ip_address


@pytest.fixture(scope="module")
def made(run, tmp_path_factory, write_triplet):
    """A tree, a small store of it with both splits at half the source's resolution, and an MLflow without runs."""
    folder = tmp_path_factory.mktemp("made")
    for split, scene in (("train", 0), ("val", 1)):
        for view in range(4):
            write_triplet(folder / "tree", split=split, scene=scene, view=view)
    done = run("preprocess", "--source", "tree", "--out", "store", "--height", 32, "--width", 32, cwd=folder)
    assert done.code == 0
    assert len(MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()) == 1
    return folder


@pytest.fixture
def store(made, copied):
    """That store in a folder of this test's own, the tree and MLflow beside it."""
    return copied(made) / "store"


def refused(done, *words):
    assert done.code not in (0, 3)
    assert done.result["status"] == "failed"
    for word in words:
        assert word in done.result["error"] + done.stderr


def test_missing_source(run, tmp_path):
    refused(run("preprocess", "--source", "nowhere", "--out", "store", cwd=tmp_path), "no source at", "/nowhere")
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_source_without_samples(run, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(
        run("preprocess", "--source", "empty", "--out", "store", cwd=tmp_path),
        "no sample",
        "fit no layout of diode, table, tum",
    )
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_only_triplet_with_a_file_missing(run, tmp_path, write_triplet):
    image = write_triplet(tmp_path / "tree")
    image.with_name(image.name.replace(".png", "_depth.npy")).unlink()
    refused(run("preprocess", "--source", "tree", "--out", "store", cwd=tmp_path), "no depth file", image.stem)
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_one_triplet_of_several_with_a_file_missing(run, tmp_path, write_triplet):
    for view in range(3):
        image = write_triplet(tmp_path / "tree", view=view)
    image.with_name(image.name.replace(".png", "_depth_mask.npy")).unlink()
    in_mm = write_triplet(tmp_path / "tree", view=0)
    depth_file = in_mm.with_name(in_mm.name.replace(".png", "_depth.npy"))
    np.save(depth_file, 1000 * np.load(depth_file))
    done = run("preprocess", "--source", "tree", "--out", "store", "--height", 32, "--width", 32, cwd=tmp_path)
    assert done.code == 3
    assert done.result["samples"] == 2
    assert done.result["rejects_by_reason"] == {"missing_member": 1}
    assert "rejects.parquet" in done.stderr
    assert f"1 of 2 samples have a median depth outside 0.05 to 500 m, such as {in_mm.stem} with " in done.stderr
    assert "this looks like millimetres" in done.stderr


def test_store_without_manifest(run, store):
    (store / "manifest.json").unlink()
    for command in (
        ("train", "smoke", "--samples", store, "--storage", "runs"),
        ("evaluate", "--model", "models:/depthflow@champion", "--samples", store),
    ):
        refused(run(*command, cwd=store.parent), "not a sample store", "manifest.json")


def test_unknown_recipe(run, store):
    refused(run("train", "alchemy", "--samples", store, "--storage", "runs", cwd=store.parent), "alchemy", "smoke")


def test_recipe_of_another_size(run, store):
    size = ("--height", 64, "--width", 64)
    done = run("train", "smoke", "--samples", store, "--storage", "runs", *size, cwd=store.parent)
    refused(done, "32 x 32", "64 x 64", "preprocess.py --height 64 --width 64")


def test_flag_out_of_range(run, store):
    done = run("train", "smoke", "--samples", store, "--storage", "runs", "--learning-rate", "-1", cwd=store.parent)
    refused(done, "--learning-rate must be positive")
    assert done.code == 2


def test_more_workers_than_cpus(run, store):
    flags = ("--height", 32, "--width", 32, "--num-workers", 64)
    done = run("train", "smoke", "--samples", store, "--storage", "runs", *flags, cwd=store.parent)
    refused(done, "64 workers need one CPU each", "room for 2", "--num-workers")


def test_store_without_the_split_names_the_flag(run, tmp_path, write_triplet):
    write_triplet(tmp_path / "tree", split="val", size=(64, 64))
    flags = ("--height", 64, "--width", 64)
    assert run("preprocess", "--source", "tree", "--out", "store", *flags, cwd=tmp_path).code == 0
    done = run("train", "smoke", "--samples", "store", "--storage", "runs", cwd=tmp_path)
    refused(done, "no train split", "--splits", "--resplit val")


@pytest.mark.parametrize("uri", ["models:/nobody@champion", "models:/nobody/3", "models:/nobody", "no-such-folder"])
def test_model_that_does_not_exist(run, store, uri):
    photograph = next(store.parent.glob("tree/val/**/*.png"))
    refused(run("predict", "--model", uri, "--images", photograph, "--out", "out", cwd=store.parent), uri, "models:/")
    assert not (store.parent / "out").exists()


def test_unknown_protocol(run, store):
    done = run("evaluate", "--model", "x", "--samples", store, "--protocol", "mine", cwd=store.parent)
    refused(done, "no protocol mine", "devkit")


def test_promote_without_a_challenger(run, store):
    refused(run("promote", "--samples", store, cwd=store.parent), "models:/depthflow@challenger")


def test_weights_that_cannot_be_downloaded_name_the_path(run, tmp_path, write_triplet):
    """Only worker 0 loads them, so only it fails to start: the other ends too, and the message comes through."""
    for split, scene in (("train", 0), ("val", 1)):
        for view in range(4):
            write_triplet(tmp_path / "tree", split=split, scene=scene, view=view)
    size = ("--height", 64, "--width", 64)
    assert run("preprocess", "--source", "tree", "--out", "store", *size, cwd=tmp_path).code == 0
    # TensorFlow's collectives heed the proxy too, so this machine's address is excepted.
    nowhere = {"https_proxy": "http://127.0.0.1:9", "no_proxy": f"127.0.0.1,localhost,{get_node_ip_address()}"}
    own_ray = {"RAY_ADDRESS": "", "KERAS_HOME": str(tmp_path / "keras")}
    flags = ("--decoder-filters", 8, 8, 8, 8, 8, "--num-cpus", 2, "--max-failures", 0, *size)
    done = run(
        *("train", "tutorial", "--samples", "store", "--storage", "runs", *flags), cwd=tmp_path, env=nowhere | own_ray
    )
    refused(done, "cannot be downloaded from here", "--weights PATH")


def test_missing_weights_file(run, store):
    flags = ("--weights", "absent.weights.h5", "--height", 32, "--width", 32)
    done = run("train", "tutorial", "--samples", store, "--storage", "runs", *flags, cwd=store.parent)
    refused(done, "no weights at", "absent.weights.h5", "--weights")


def test_a_folder_that_is_not_a_model(run, store):
    photograph = next(store.parent.glob("tree/val/**/*.png"))
    done = run("predict", "--model", store, "--images", photograph, "--out", "out", cwd=store.parent)
    refused(done, "is not a depthflow model", "MLmodel")


@pytest.mark.parametrize(
    "flags", [("--out", "tree"), ("--source", "tree", "--out", "tree"), ("--source", "tree", "--out", ".")]
)
def test_the_demo_replaces_no_existing_folder(run, store, flags):
    images = sorted(store.parent.glob("tree/**/*.png"))
    done = run("demo", *flags, cwd=store.parent)
    assert done.code == 1
    assert sorted(store.parent.glob("tree/**/*.png")) == images
