"""Models of transformers on disk and on the hub: what is read, and one line for each thing that is wrong."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from depthflow.errors import TrainingError
from depthflow.models.transformers_folder import TransformersFolder, open_transformers
from tests.commands import ROOT
from tests.transformers_models import MODELS, random_tensors, shapes_of, write_model


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_model(tmp_path / "model", "metric")


def one_line(place: object, match: str) -> None:
    with pytest.raises(TrainingError, match=match) as caught:
        dict(open_transformers(str(place)).tensors)
    assert "\n" not in str(caught.value)


def test_a_folder(folder):
    model = open_transformers(str(folder))
    written = random_tensors(shapes_of(MODELS["metric"]))
    assert model.config == MODELS["metric"]
    assert set(model.tensors) == set(written) and len(model.tensors) == len(written)
    for name, array in written.items():
        np.testing.assert_array_equal(model.tensors[name], array)
    assert model.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (model.licence, model.revision) == (None, None)
    assert "not known" in model.origin


def test_weights_in_several_files(folder):
    whole = dict(open_transformers(str(folder)).tensors)
    (folder / "model.safetensors").unlink()
    names = sorted(whole)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, inside in shards.items():
        save_file({name: whole[name] for name in inside}, folder / file)
    index = {"weight_map": {name: file for file, inside in shards.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    model = open_transformers(str(folder))
    assert set(model.tensors) == set(whole)
    np.testing.assert_array_equal(model.tensors[names[1]], whole[names[1]])
    content = b"".join((folder / file).read_bytes() for file in shards)
    assert model.sha256 == hashlib.sha256(content).hexdigest()
    (folder / "model-00002-of-00002.safetensors").unlink()
    one_line(folder, r"model-00002-of-00002\.safetensors is missing")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    one_line(folder, "names no files of this folder")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_become_float32(folder, dtype):
    numbers = np.array([1.0, -2.5, 0.15625], np.float32)  # Exact in each.
    save_file({"x": numbers.astype(dtype)}, folder / "model.safetensors")
    found = open_transformers(str(folder)).tensors["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, numbers)


def test_quantised_weights_are_rejected(folder):
    save_file({"x": np.ones(3, np.int8)}, folder / "model.safetensors")
    one_line(folder, "tensor x holds I8, and quantised weights are not read")


@pytest.mark.parametrize("kept", [0, 6, 5000, -1])
def test_truncated_weights(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    one_line(folder, r"model\.safetensors is damaged: .*Download the model again")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ("{", r"config\.json is damaged: "),
        ("[]", r"config\.json is damaged: it holds no JSON object"),
        ("{}", "it has no model_type"),
        ("\udcff", r"config\.json is damaged: "),
    ],
)
def test_a_bad_config(folder, config, match):
    (folder / "config.json").write_text(config, errors="surrogateescape")
    one_line(folder, match)


def test_a_folder_of_something_else(tmp_path):
    one_line(tmp_path, r"is not a transformers model: it has no config\.json")


def test_no_weights_or_only_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    one_line(folder, r"has no model\.safetensors\. Received: none")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
    one_line(folder, r"only pytorch_model\.bin, a pickle.*save_pretrained")


@pytest.mark.parametrize("place", ["nowhere", "./nowhere/here", "/no/where", "a/b/c"])
def test_a_place_that_is_not_there(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    one_line(place, r"There is no folder .*OWNER/NAME")


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("depth-anything/Depth-Anything-V2-Small-hf", "Apache-2.0"),
        ("depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf", "Apache-2.0"),
        ("depth-anything/Depth-Anything-V2-Base-hf", "CC-BY-NC-4.0: no commercial use"),
        ("depth-anything/Depth-Anything-V2-Metric-Indoor-Large-hf", "CC-BY-NC-4.0: no commercial use"),
        ("facebook/dinov2-small", "Apache-2.0"),
        ("facebook/dinov2-with-registers-large", "Apache-2.0"),
        ("somebody/Depth-Anything-V2-Small-hf", None),
    ],
)
def test_licences(name, licence):
    model = TransformersFolder(name, Path("snapshots/0123abc"), {}, {}, ())
    assert (model.licence, model.revision) == (licence, "0123abc")
    assert name in model.origin and "0123abc" in model.origin and (licence or "not known") in model.origin


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as a download needs: the repository owner/name, a folder."""

    folder: Path
    asked: list[str]

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path.partition("?")[0])
        start = f"/owner/name/resolve/{COMMIT}/"
        if self.asked[-1].startswith(start):
            content = (self.folder / self.asked[-1].removeprefix(start)).read_bytes()
        elif self.asked[-1] == "/api/models/owner/name/revision/main":
            content = json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": []}).encode()
        elif self.asked[-1] == f"/api/models/owner/name/tree/{COMMIT}":
            files = [{"type": "file", "path": p.name, "size": p.stat().st_size} for p in self.folder.iterdir()]
            content = json.dumps([{**file, "oid": hashlib.sha1(file["path"].encode()).hexdigest()} for file in files])
            content = content.encode()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def hub(folder, tmp_path):
    """The hub with one model, at another address; its cache begins empty."""
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
    handler = type("OneModel", (Hub,), {"folder": folder, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield handler, {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache")}
        server.shutdown()
        thread.join()


def opened(place: str, settings: dict[str, str]) -> str:
    """Opens a model in a process of its own, since the library reads its settings once, and returns what it says."""
    script = (
        "import sys\nfrom depthflow.errors import TrainingError\n"
        "from depthflow.models.transformers_folder import open_transformers\n"
        "try:\n    model = open_transformers(sys.argv[1])\n"
        "    print(model.sha256, model.revision, len(model.tensors))\n"
        "except TrainingError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", **settings}
    done = subprocess.run(
        [sys.executable, "-c", script, place], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_a_model_of_the_hub_is_downloaded_once_and_its_pickle_never(hub, folder):
    handler, settings = hub
    model = open_transformers(str(folder))
    expected = f"{model.sha256} {COMMIT} {len(model.tensors)}"
    assert opened("owner/name", settings) == expected
    files = {path.rpartition("/")[2] for path in handler.asked if "/resolve/" in path}
    assert files == {"config.json", "model.safetensors"}
    handler.asked.clear()
    assert opened("owner/name", settings) == expected
    assert opened("owner/name", {**settings, "HF_HUB_OFFLINE": "1"}) == expected
    assert handler.asked == []


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({}, "the Hugging Face hub does not give owner/other: "),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "Check the name and the network"),
        ({"HF_HUB_OFFLINE": "1"}, "Check the name and the network"),
    ],
)
def test_a_model_that_cannot_be_downloaded_is_told_in_one_line(hub, changes, match):
    said = opened("owner/other", {**hub[1], **changes})
    assert said.startswith("There is no folder owner/other") and match in said and "\n" not in said
