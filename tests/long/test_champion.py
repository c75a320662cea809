"""What a user does with the demo's champion: predict, serve, evaluate, compare, promote another one, roll back."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image
from safetensors.numpy import load_file, save_file

from depthflow.datasets.image_file import decode_rgb
from depthflow.inference.depth_anything import DepthAnythingPredictor
from depthflow.inference.writers import read_png16
from depthflow.models.transformers_folder import open_transformers
from tests.pages import ROOT, blocks_of
from tests.served_model import ServedModel, bare_environment
from tests.transformers_models import MODELS, write_model


def test_photographs_that_are_done_are_not_predicted_again(run, demo, tmp_path):
    photographs = sorted(demo.folder.glob("mini-diode/val/**/*_000_000.png"))[:3]
    flags = ("--model", "models:/depthflow@champion", "--out", "out", "--files", "npy", "--images")
    for wanted, done_before in ((photographs[:2], 0), (photographs, 2), (photographs, 3)):
        done = run("predict", *flags, *wanted, cwd=tmp_path, env=demo.env)
        assert (done.code, done.result["images"], done.result["done_before"]) == (0, len(wanted), done_before)
        assert len(done.result["outputs"]) == len(wanted)
    assert len(list((tmp_path / "out").glob("*.npy"))) == 3 and not list((tmp_path / "out").glob("*.png"))


def test_a_broken_photograph_is_reported_and_the_rest_goes_on(run, demo, tmp_path):
    photographs = [*sorted(demo.folder.glob("mini-diode/val/**/*_000_000.png"))[:2], tmp_path / "broken.jpg"]
    photographs[-1].write_bytes(b"no image")
    done = run(
        "predict",
        *("--model", "models:/depthflow@champion", "--images", *photographs, "--out", "out"),
        cwd=tmp_path,
        env=demo.env,
    )
    assert done.code == 3
    assert done.result["images"] == 2
    assert done.result["rejects_by_reason"] == {"unreadable_image": 1}
    assert "broken.jpg: unreadable_image" in done.stderr


def test_only_an_image_that_is_not_one(run, demo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    done = run(
        *("predict", "--model", "models:/depthflow@champion", "--images", "broken.png", "--out", "out"),
        cwd=tmp_path,
        env=demo.env,
    )
    assert done.code != 0
    assert done.result["images"] == 0
    assert list((tmp_path / "out").glob("*")) == []


def test_a_network_that_was_changed_since_it_was_registered_is_refused(run, demo, tmp_path):
    """By predict, and by MLflow, which knows no depthflow."""
    [network] = demo.folder.parent.glob("**/network.keras")
    content = network.read_bytes()
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    photograph = next(demo.folder.glob("mini-diode/val/**/*.png"))
    served = 'import mlflow; mlflow.pyfunc.load_model("models:/depthflow@champion")'
    network.write_bytes(changed)
    try:
        done = run(
            *("predict", "--model", "models:/depthflow@champion", "--images", photograph, "--out", "out"),
            cwd=tmp_path,
            env=demo.env,
        )
        loaded = subprocess.run(
            [sys.executable, "-c", served], capture_output=True, text=True, cwd=tmp_path, env=demo.env
        )
    finally:
        network.write_bytes(content)
    assert done.code == 1
    assert "is not the network that was registered" in done.result["error"] and "\n" not in done.result["error"]
    assert loaded.returncode == 1 and "is not the network that was registered" in loaded.stderr


@pytest.fixture(scope="module")
def bare(demo, tmp_path_factory) -> dict[str, str]:
    """The environment of a process that sees neither this checkout nor what a model's requirements do not bring."""
    return bare_environment(tmp_path_factory.mktemp("bare"), demo.env)


def test_pyfunc_predicts_where_depthflow_is_not_installed_and_nothing_is_unpickled(bare, tmp_path):
    """The artifact brings its own code, and no pickle."""
    script = """
import pickle
class Denied(pickle._Unpickler):
    def __init__(self, *arguments, **options):
        raise SystemExit("something was unpickled")
import numpy as np, mlflow
try:
    import depthflow
except ImportError:
    pass
else:
    raise SystemExit(f"depthflow is visible: {depthflow.__file__}")
for module in ("ray", "tyro", "xxhash"):
    try:
        __import__(module)
    except ImportError:
        continue
    raise SystemExit(f"{module} is visible")
pickle.load = pickle.loads = pickle.Unpickler = pickle._Unpickler = Denied
model = mlflow.pyfunc.load_model("models:/depthflow@champion")
photographs = np.random.default_rng(0).integers(0, 255, (2, 100, 150, 3), dtype=np.uint8)
depth_m = model.predict(photographs)
import depthflow
assert "mlartifacts" in depthflow.__file__, depthflow.__file__
print(depth_m.shape, depth_m.dtype, bool((depth_m > 0).all()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=bare)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[-2] == "(2, 100, 150) float32 True"


PAGE = ROOT / "docs" / "how-to" / "predict.md"
HTTP = [block for block in blocks_of(PAGE) if "/invocations" in block.text]
[SERVE] = [line for block in blocks_of(PAGE) for line in block.lines if line.startswith("mlflow models serve ")]


@pytest.fixture(scope="class")
def server(bare, tmp_path_factory) -> Iterator[ServedModel]:
    """The champion behind HTTP, started as the page says."""
    with ServedModel(SERVE, tmp_path_factory.mktemp("served"), bare) as server:
        yield server


class TestOverHttp:
    """What docs/how-to/predict.md says, with its own commands, where depthflow is not installed."""

    @pytest.fixture
    def photo(self, demo, tmp_path) -> np.ndarray:
        """Writes photo.jpg, 640 x 480, and returns its pixels."""
        path = next(demo.folder.glob("mini-diode/val/outdoor/**/*.png"))
        with Image.open(path) as image:
            image.convert("RGB").resize((640, 480)).save(tmp_path / "photo.jpg", quality=95)
        return decode_rgb((tmp_path / "photo.jpg").read_bytes())

    def test_the_commands_of_the_page(self, server, photo, tmp_path):
        """Their files are far smaller than an array's JSON, and hold the same depth."""
        answer = server.post({"inputs": photo[None].tolist()})
        depth_m = np.array(answer["predictions"], np.float32)
        assert depth_m.shape == (1, 480, 640) and (depth_m > 0).all()
        for block in HTTP:
            command = ["bash", "-euc"] if block.language == "sh" else [sys.executable, "-c"]
            text = block.text.replace(":5001/", f":{server.port}/")
            done = subprocess.run([*command, text], cwd=tmp_path, capture_output=True, text=True, env=server.client_env)
            assert done.returncode == 0, f"{block.where}\n{done.stdout}\n{done.stderr}"
            if block.language == "sh":
                up, down = map(int, re.findall(r"\d+", done.stdout)[:2])
                assert up < 0.1 * len(json.dumps(photo.tolist())) and down < 0.15 * len(json.dumps(answer))
            else:
                assert done.stdout.startswith("(480, 640) float32"), block.where
        found = read_png16(tmp_path / "photo.depth.png")
        np.testing.assert_allclose(found, depth_m[0], atol=0.51 * depth_m.max() / 65535, rtol=1e-4)

    def test_images_of_several_sizes(self, server, photo):
        files = [cv2.imencode(".png", image)[1].tobytes() for image in (photo, photo[:100])]
        records = [{"image": base64.b64encode(file).decode()} for file in files]
        answer = server.post({"dataframe_records": records, "params": {"output_format": "npy"}})
        depths_m = [np.load(io.BytesIO(base64.b64decode(one))) for one in answer["predictions"]]
        assert [(one.shape, one.dtype) for one in depths_m] == [((480, 640), np.float32), ((100, 640), np.float32)]
        numbers = server.post({"inputs": [record["image"] for record in records]})["predictions"]
        for ours, theirs in zip(depths_m, numbers, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)

    def test_the_example_in_the_artifact_is_a_request(self, server, demo):
        [example] = demo.folder.parent.glob("**/serving_input_example.json")
        assert example.stat().st_size < 100_000
        assert len(server.post(json.loads(example.read_text()))["predictions"]) == 1

    def test_a_lens_makes_no_difference_to_a_network_that_learned_with_one(self, server, photo):
        request = {"inputs": photo[None, ::8, ::8].tolist()}
        with_lens = {**request, "params": {"fx_px": 500.0, "fy_px": 510.0}}
        assert server.post(with_lens) == server.post(request)

    @pytest.mark.parametrize(
        ("record", "params", "said"),
        [
            ("bm8gaW1hZ2U=", {}, "Image 1 of 1 was rejected: unreadable_image: the image's 8 bytes cannot be decoded"),
            ("photo.jpg", {}, "Image 1 of 1 was rejected: not_base64"),
            ("A" * 100_000, {}, "Image 1 of 1 was rejected: unreadable_image"),
            ("", {"output_format": "tiff"}, "output_format must be one of array, npy, png. Received: 'tiff'"),
            ("", {"fx_px": 500.0}, "fx_px and fy_px must be focal lengths in pixels of the image, both or neither"),
            ("", {"fx_px": 500.0, "fy_px": -1.0}, "fx_px and fy_px must be focal lengths in pixels of the image"),
        ],
    )
    def test_an_error_says_what_is_wrong_without_repeating_the_image(self, server, record, params, said):
        request = {"dataframe_records": [{"image": record}], "params": params}
        error = server.post(request, code=400)
        assert error["error_code"] == "INVALID_PARAMETER_VALUE"
        assert said in error["message"] and len(error["message"]) < 600


def test_the_lens_over_http(demo, bare, tmp_path):
    """Of the champion, its saved camera replaced by the canonical one: depth grows with the focal length."""
    [network] = demo.folder.parent.glob("**/network.keras")
    model = next(folder for folder in network.parents if (folder / "MLmodel").is_file())
    shutil.copytree(model, tmp_path / "model")
    description = yaml.safe_load((tmp_path / "model/MLmodel").read_text())
    config = description["flavors"]["python_function"]["config"]
    assert config["model_camera"]["camera"] == "none"
    config["model_camera"] = {"camera": "canonical", "median_focal": 1.0}
    (tmp_path / "model/MLmodel").write_text(yaml.safe_dump(description))
    rgb = np.random.default_rng(0).integers(0, 255, (1, 60, 80, 3), dtype=np.uint8)
    with ServedModel(SERVE.replace("models:/depthflow@champion", "model"), tmp_path, bare) as server:
        lenses = [{}, {"fx_px": 80.0, "fy_px": 60.0}, {"fx_px": 160.0, "fy_px": 120.0}, {"fx_px": 320.0, "fy_px": 60.0}]
        answers = [server.post({"inputs": rgb.tolist(), "params": lens})["predictions"] for lens in lenses]
    unknown, once, twice, anamorphic = map(np.array, answers)
    np.testing.assert_allclose(unknown, once, rtol=1e-5)  # The median of training: relative focal 1.
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)
    np.testing.assert_allclose(anamorphic, 2 * once, rtol=1e-5)


def test_evaluation_does_not_depend_on_the_number_of_workers(run, demo, tmp_path):
    full = demo.folder / "val-full-resolution"
    flags = ("--model", "models:/depthflow@champion", "--samples", full, "--num-workers", 2)
    done = run("evaluate", *flags, cwd=tmp_path, env=demo.env)
    assert done.code == 0
    one = demo.finished.result["evaluate"]
    assert done.result["samples"] == one["samples"]
    for group, metrics in one["metrics"].items():
        assert done.result["metrics"][group] == pytest.approx(metrics, rel=1e-9)


def test_protocol_refuses_a_resized_store(run, demo, tmp_path):
    flags = ("--model", "models:/depthflow@champion", "--samples", demo.folder / "samples")
    done = run("evaluate", *flags, cwd=tmp_path, env=demo.env)
    assert done.code == 1
    assert "--height 192 --width 256" in done.result["error"]


SMALL = {"backbone_config": {**MODELS["relative"]["backbone_config"], "image_size": 28}}
"""Looks at images of 28 pixels."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A folder as transformers saves a Depth Anything: random weights, relative depth."""
    return write_model(tmp_path_factory.mktemp("depth-anything"), "relative", **SMALL)


class TestDepthAnything:
    """A tiny Depth Anything; tests/unit/models/test_transformers_weights.py compares it with transformers' own."""

    def test_evaluated_beside_the_champion_where_a_protocol_aligns(self, run, demo, tiny, tmp_path):
        flags = ("--samples", demo.folder / "val-full-resolution", "--out", "evaluation")
        both = ("--model", "models:/depthflow@champion", "--compare", f"depth-anything:{tiny}")
        done = run("evaluate", *both, *flags, "--protocol", "affine", cwd=tmp_path, env=demo.env)
        assert done.code == 0, done.stderr
        assert f"Weights of {tiny}, licence: not known here" in done.stderr
        theirs = done.result["compared"][f"depth-anything:{tiny}"]["all"]
        assert done.result["metrics"]["all"]["abs_rel"] > 0 and 0 < theirs["abs_rel"] < 10
        assert (tmp_path / "evaluation" / "report.html").read_text().count("data:image/jpeg") == 72
        refused = run("evaluate", *both, *flags, "--protocol", "devkit", cwd=tmp_path, env=demo.env)
        assert refused.code == 1
        assert "has no metres" in refused.result["error"] and "--protocol affine" in refused.result["error"]

    def test_predicts_beside_the_champion(self, run, demo, tiny, tmp_path):
        photographs = sorted(demo.folder.glob("mini-diode/val/**/*_000_000.png"))[:2]
        done = run(
            "predict",
            *("--model", "models:/depthflow@champion", "--compare", f"depth-anything:{tiny}"),
            *("--images", *photographs, "--out", "out", "--files", "panel"),
            cwd=tmp_path,
            env=demo.env,
        )
        assert done.code == 0, done.stderr
        pictures = [path for path in done.result["outputs"] if path.endswith(".compare.png")]
        assert len(pictures) == 2
        [folder] = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
        predict = DepthAnythingPredictor(open_transformers(str(tiny)))
        for photograph in photographs:
            [expected] = predict(decode_rgb(photograph.read_bytes())[None])
            found = np.load(folder / f"{photograph.stem}.relative.npy")
            np.testing.assert_allclose(found, expected, rtol=1e-5)
            assert np.ptp(found) > 1e-3

    @pytest.mark.parametrize("damage", ["truncated", "other shape", "other architecture"])
    def test_damaged_weights_are_told_in_one_line(self, run, demo, tmp_path, damage):
        folder = write_model(tmp_path / "model", "dinov2" if damage == "other architecture" else "metric")
        path, layer = folder / "model.safetensors", "backbone.encoder.layer.1.mlp.fc1.bias"
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        elif damage == "other shape":
            save_file({**load_file(path), layer: np.zeros(63, np.float32)}, path)
        photograph = next(demo.folder.glob("mini-diode/val/**/*.png"))
        flags = ("--model", "depth-anything:model", "--images", photograph, "--out", "out")
        done = run("predict", *flags, cwd=tmp_path, env=demo.env)
        said = {
            "truncated": "model/model.safetensors is damaged: ",
            "other shape": f"The tensor {layer} of {folder} must have the shape (64,). Received: (63,).",
            "other architecture": f"The model {folder} is not a Depth Anything, but of the type dinov2.",
        }[damage]
        assert done.code == 1 and said in done.result["error"] and "\n" not in done.result["error"]
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("flags", [("--tile-px", 64), ("--viewer", "--fov-deg", 60)])
    def test_without_metres_no_tiles_and_no_points(self, run, demo, tiny, tmp_path, flags):
        photograph = next(demo.folder.glob("mini-diode/val/**/*.png"))
        done = run(
            *("predict", "--model", f"depth-anything:{tiny}", "--images", photograph, "--out", "out", *flags),
            cwd=tmp_path,
            env=demo.env,
        )
        assert done.code == 1
        assert "without metres" in done.result["error"]


class TestPromotion:
    """In order: what happens to the alias after the demo's first champion."""

    def promote(self, run, demo, *flags):
        return run("promote", *flags, cwd=demo.folder.parent, env=demo.env)

    def champion(self, demo):
        uri = demo.env["MLFLOW_TRACKING_URI"]
        return str(MlflowClient(uri, uri).get_model_version_by_alias("depthflow", "champion").version)

    def test_the_champion_is_no_challenger(self, run, demo):
        done = self.promote(run, demo, "--samples", demo.folder / "val-full-resolution")
        assert done.code == 1
        assert "is the champion already" in done.result["error"]

    def test_nothing_to_roll_back_to(self, run, demo):
        done = self.promote(run, demo, "--rollback")
        assert done.code == 1
        assert "no champion before" in done.result["error"]

    def test_a_worse_challenger_is_refused_then_forced_then_rolled_back(self, run, demo):
        trained = run(
            *("train", "smoke", "--samples", demo.folder / "samples", "--storage", demo.folder / "runs"),
            *("--epochs", 1, "--learning-rate", 1e-5, "--seed", 5),
            cwd=demo.folder.parent,
            env=demo.env,
        )
        assert trained.code == 0
        assert trained.result["version"] == "2"
        full = demo.folder / "val-full-resolution"
        dry = self.promote(run, demo, "--samples", full, "--dry-run")
        assert dry.result["decision"] == "refused"
        refused = self.promote(run, demo, "--samples", full)
        assert refused.code == 0
        assert refused.result["decision"] == "refused"
        assert "not lower by the margin" in refused.result["reasons"][0]
        assert self.champion(demo) == "1"
        forced = self.promote(run, demo, "--samples", full, "--force", "--reason", "a test of the record")
        assert forced.result["decision"] == "forced"
        assert forced.result["reasons"][-1] == "a test of the record"
        assert self.champion(demo) == "2"
        back = self.promote(run, demo, "--rollback", "--reason", "it was worse")
        assert (back.result["champion"], back.result["previous"]) == ("1", "2")
        assert self.champion(demo) == "1"
        assert self.decisions(demo) == ["promoted", "refused", "forced", "rolled_back"]
        told = self.promote(run, demo, "--history")
        assert told.result["champion"] == "1"
        assert [row["decision"] for row in told.result["decisions"]] == self.decisions(demo)
        assert all(row["status"] == "finished" and row["who"] for row in told.result["decisions"])
        assert "rolled_back 2 -> 1: it was worse" in told.stdout

    def decisions(self, demo):
        """From the record, in order; the dry run left none."""
        uri = demo.env["MLFLOW_TRACKING_URI"]
        client = MlflowClient(uri, uri)
        experiment = client.get_experiment_by_name("depthflow-promotions").experiment_id
        runs = client.search_runs([experiment], order_by=["attributes.start_time ASC"])
        return [run.data.tags["depthflow.decision"] for run in runs]
