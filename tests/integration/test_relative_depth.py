"""A network of unknown scale from its registration to its use, beside the same network in metres.

It knows the images by heart: what is tested is what each command says and does about its scale.
"""

import json
import os
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from depthflow.inference import SERVING_CODE
from depthflow.models.canonical_camera import ModelCamera
from depthflow.models.interface import Output
from depthflow.registry.runs import dataset_of, mlflow_run
from depthflow.registry.versions import CHAMPION, VersionFacts, register_network
from depthflow.store.read.reader import SplitReader
from depthflow.store.store import open_store

SIZE = 64
FACTOR = 7.0
"""By which the network's depth is too large."""


def remembering(samples: Path, *, noise: float) -> keras.Model:
    """A network that predicts FACTOR times each stored depth, off by this standard deviation of log-depth."""
    reader = SplitReader(open_store(str(samples)), "val")
    batch = reader.read([*range(len(reader))])
    rgb = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    seen = keras.layers.AveragePooling2D(8)(keras.layers.Rescaling(1 / 255)(rgb))
    dense = keras.layers.Dense(SIZE * SIZE)
    network = keras.Model(rgb, keras.layers.Reshape((SIZE, SIZE, 1))(dense(keras.layers.Flatten()(seen))))
    pixels = keras.Model(rgb, keras.layers.Flatten()(seen)).predict_on_batch(batch.rgb)
    mean = np.full_like(batch.log_depth, batch.log_depth[batch.valid_mask].mean())
    wanted = np.where(batch.valid_mask, batch.log_depth, mean) + np.log(FACTOR)
    wanted += np.random.default_rng(0).normal(0, noise, wanted.shape)
    kernel, *_ = np.linalg.lstsq(pixels, wanted.reshape(len(wanted), -1), rcond=None)
    dense.set_weights([kernel, np.zeros(SIZE * SIZE)])
    return network


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory, write_triplet) -> Path:
    """The folder of all commands, with a store of ten samples."""
    folder = tmp_path_factory.mktemp("relative")
    for view in range(10):
        write_triplet(folder / "tree", split="val", view=view)
    size = ("--height", SIZE, "--width", SIZE, "--splits", "val")
    done = run("preprocess", "--source", "tree", "--out", "samples", *size, cwd=folder)
    assert done.code == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def registry(folder) -> dict[str, str]:
    """The environment of a registry: relative/1 is relative; both/1 is metric and champion, both/2 relative."""
    uri = f"sqlite:///{folder}/mlflow.db"
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    store = open_store(str(folder / "samples"))

    def register(name: str, network: keras.Model, **options: Any) -> None:
        with mlflow_run(experiment="tests", name=name, tags={}) as run_log:
            register_network(
                network,
                run_log=run_log,
                model_name=name,
                serving_code=SERVING_CODE,
                example_rgb=np.zeros((SIZE, SIZE, 3), np.uint8),
                facts=VersionFacts(
                    description="", tags={}, metrics={"val/photometric": 0.1}, epoch=1, dataset=dataset_of(store)
                ),
                camera=ModelCamera(),
                **options,
            )

    relative: Output = "relative depth"
    good = remembering(folder / "samples", noise=0.05)
    register("relative", good, output=relative)
    register("both", remembering(folder / "samples", noise=0.15))
    MlflowClient(uri, uri).set_registered_model_alias("both", CHAMPION, "1")
    register("both", good, output=relative)
    yield {"MLFLOW_TRACKING_URI": uri}
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])
    os.environ.pop("MLFLOW_TRACKING_URI")
    if before[2] is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before[2]


MODEL = ("--model", "models:/relative/1")


def test_a_version_states_what_it_predicts(registry):
    client = MlflowClient(registry["MLFLOW_TRACKING_URI"])
    found = {name: client.get_model_version(name, "1").tags["model_output"] for name in ("relative", "both")}
    assert found == {"relative": "relative depth", "both": "metres"}


@pytest.mark.parametrize("command", ["evaluate", "promote", "export"])
def test_what_needs_metres_is_refused_in_advance(run, folder, registry, command):
    """Before Ray starts or anything is written."""
    flags = {
        "evaluate": (*MODEL, "--out", "report-devkit"),
        "promote": ("--model-name", "relative"),
        "export": (*MODEL, "--format", "onnx", "--out", "exported-devkit"),
    }[command]
    done = run(command, *flags, "--samples", "samples", cwd=folder, env=registry)
    assert done.code == 1
    said = (
        "predicts relative depth, which has no metres, and the protocol devkit gives it none. Pass --protocol median."
    )
    assert said in done.result["error"]
    assert not list(folder.glob("*-devkit/*"))


@pytest.fixture(scope="module")
def evaluated(run, folder, registry):
    flags = ("--samples", "samples", "--protocol", "median", "--compare", "models:/both/1", "--out", "report")
    return run("evaluate", *MODEL, *flags, cwd=folder, env=registry)


def test_evaluated_under_median_beside_a_metric_model(evaluated, folder, registry):
    assert evaluated.code == 0, evaluated.stderr
    result = evaluated.result
    assert (result["output"], result["compared_outputs"]) == ("relative depth", {"models:/both/1": "metres"})
    errors = [metrics["all"]["abs_rel"] for metrics in (result["metrics"], *result["compared"].values())]
    assert 0.01 < errors[0] < 0.1 < errors[1] < result["baseline"]["all"]["abs_rel"]
    assert (result["samples"], result["without_depth"]) == (10, 0)
    page = (folder / "report" / "report.html").read_text()
    assert "relative depth" in page and "constant depth" in page
    client = MlflowClient(registry["MLFLOW_TRACKING_URI"])
    assert client.get_run(result["run_id"]).data.tags["depthflow.output"] == "relative depth"


def test_promoted_under_median(run, folder, registry):
    """Against any constant depth, since there is no champion."""
    flags = ("--model-name", "relative", "--samples", "samples", "--protocol", "median")
    done = run("promote", *flags, cwd=folder, env=registry)
    assert done.code == 0, done.stderr
    assert (done.result["decision"], done.result["champion"]) == ("promoted", "1"), done.result
    assert "the constant-depth baseline" in done.result["reasons"][0]
    outputs = {name: evidence["output"] for name, evidence in done.result["evaluations"].items()}
    assert outputs == {"models:/relative/1": "relative depth", "the constant-depth baseline": "relative depth"}


def test_a_better_one_does_not_replace_a_metric_champion(run, folder, registry):
    flags = ("--model-name", "both", "--samples", "samples", "--protocol", "median", "--max-latency-ratio", 1000)
    done = run("promote", *flags, cwd=folder, env=registry)
    assert done.code == 0, done.stderr
    assert (done.result["decision"], done.result["champion"]) == ("refused", "1")
    [reason] = done.result["reasons"]
    assert reason.startswith("models:/both/2 predicts relative depth, and users of models:/both/1 rely on metres")
    evaluations = done.result["evaluations"]
    better, champion = (evaluations[f"models:/both/{k}"]["figures"]["all"]["abs_rel"] for k in (2, 1))
    assert better < champion


@pytest.fixture(scope="module")
def exported(run, folder, registry):
    flags = ("--format", "onnx", "--out", "exported", "--samples", "samples", "--protocol", "median")
    return run("export", *MODEL, *flags, cwd=folder, env=registry)


def test_exported(exported, folder):
    assert exported.code == 0, exported.stderr
    facts = json.loads((folder / "exported" / "network.onnx.json").read_text())
    assert facts["model_output"] == "relative depth"
    assert facts["output"]["unit"].startswith("natural logarithm of relative depth")


def test_predicted_exported_and_served_alike(run, folder, registry, exported):
    image = next((folder / "tree").glob("val/**/*.png"))
    flags = ("--images", image, "--out", "depth", "--point-cloud", "--fov-deg", 60)
    done = run("predict", *MODEL, "--compare", "exported/network.onnx", *flags, cwd=folder, env=registry)
    assert done.code == 0, done.stderr
    assert done.result["output"] == "relative depth"
    stem, out = image.stem, folder / "depth"
    names = {Path(path).name for path in done.result["outputs"]}
    kinds = ("relative-depth.npy", "relative-depth.png", "panel.png", "relative-depth.ply", "compare.png")
    assert names == {f"{stem}.{kind}" for kind in kinds}
    assert json.loads((out / f"{stem}.depth.json").read_text())["output"] == "relative depth"
    depth = np.load(out / f"{stem}.relative-depth.npy")
    [of_onnx] = out.glob(f"*network.onnx/{stem}.relative-depth.npy")
    np.testing.assert_allclose(np.load(of_onnx), depth, rtol=1e-4)
    served = mlflow.pyfunc.load_model("models:/relative@champion")
    rgb = np.asarray(Image.open(image))[None]
    np.testing.assert_allclose(served.predict(rgb)[0], depth, rtol=1e-5)
    [png] = served.predict(rgb, params={"output_format": "png"})
    (folder / "served.png").write_bytes(png)
    with Image.open(folder / "served.png") as file:
        assert {*file.info} == {"relative_depth_scale"}


@pytest.fixture(scope="module")
def pairs(run, folder) -> str:
    """A store of rectified pairs: four of train without depth, and ten of val, of which six have depth."""
    rows = ["image,right_image,depth,split,scene,scan,width,height,fx_px,baseline_m"]
    (folder / "pairs").mkdir()
    for k in range(14):
        wide = np.random.default_rng(k).integers(0, 256, (SIZE, SIZE + 4, 3), np.uint8)
        Image.fromarray(wide[:, :-4]).save(folder / "pairs" / f"{k}.png")
        Image.fromarray(wide[:, 4:]).save(folder / "pairs" / f"{k}-right.png")
        np.save(folder / "pairs" / f"{k}.npy", np.full((SIZE, SIZE), 2.0, np.float32) + np.eye(SIZE, dtype=np.float32))
        split, depth = ("train", "") if k < 4 else ("val", f"{k}.npy" if k < 10 else "")
        rows.append(f"{k}.png,{k}-right.png,{depth},{split},{split},{split},{SIZE},{SIZE},40,0.2")
    (folder / "pairs" / "frames.csv").write_text("\n".join(rows) + "\n")
    size = ("--height", SIZE, "--width", SIZE)
    done = run("preprocess", "--source", "pairs", "--out", "pair-samples", "--kind", "stereo", *size, cwd=folder)
    assert (done.code, done.result["samples"]) == (0, 14), done.result
    return "pair-samples"


def test_pairs_without_depth_are_not_counted_and_the_others_show_their_views(run, folder, registry, pairs):
    flags = ("--samples", pairs, "--protocol", "median", "--out", "pair-report")
    done = run("evaluate", *MODEL, *flags, cwd=folder, env=registry)
    assert done.code == 0, done.stderr
    assert (done.result["samples"], done.result["without_depth"]) == (6, 4)
    assert "4 samples of val have no depth and are not counted; 6 have." in done.stderr
    page = (folder / "pair-report" / "report.html").read_text()
    assert "4 more samples of val have no depth and are not counted." in page
    assert page.count("right by models:/relative/1, photometric error") == 6
    assert page.count("data:image/jpeg") == 12


def test_pairs_without_any_depth_are_refused(run, folder, registry, pairs):
    flags = ("--samples", pairs, "--split", "train", "--protocol", "median")
    done = run("evaluate", *MODEL, *flags, cwd=folder, env=registry)
    assert done.code == 1
    assert "has no depth to compare with: none of its 4 samples has a valid pixel" in done.result["error"]
