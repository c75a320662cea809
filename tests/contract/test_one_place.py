"""CONTRIBUTING.md: a new encoder, loss, augmentation, protocol, reject reason, format or recipe is one entry in a file.

The test inserts the snippets into a copy of the library, each into the file it names, as a contributor would. Then it
uses the copy in new processes, without any mock.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
KINDS = (
    "An encoder",
    "A loss term",
    "An augmentation",
    "A protocol",
    "A reject reason",
    "An output format",
    "A recipe",
)


class Snippet(NamedTuple):
    """An entry of CONTRIBUTING.md.

    Attributes:
        file: file to change, relative to the root.
        table: table to append to; empty to append to the file.
        code: text of the entry.
    """

    file: str
    table: str
    code: str

    def put_into(self, root: Path) -> None:
        path = root / self.file
        text = path.read_text()
        if not self.table:
            path.write_text(f"{text}\n\n{self.code}")
            return
        begun = re.search(rf"^{self.table}\b.*[{{(]$", text, re.MULTILINE)
        assert begun is not None, f"{self.file} has no table {self.table}"
        end = re.compile(r"^[})]", re.MULTILINE).search(text, begun.end())
        assert end is not None
        path.write_text(text[: end.start()] + self.code + text[end.start() :])


def snippets() -> dict[str, list[Snippet]]:
    """Returns the entry of each kind, followed by the entry of its name if a recipe can name it."""
    found = {}
    part = GUIDE.split("\n## One place to touch\n")[1].split("\n## ")[0]
    for section in part.split("\n### ")[1:]:
        kind = section.partition("\n")[0]
        found[kind] = []
        for place, code in re.findall(r"^```python\n# ([^\n]+)\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            file, _, where = place.partition(", ")
            assert where == "at the end" or where.startswith("in "), place
            found[kind].append(Snippet(file, where.removeprefix("in ") if where != "at the end" else "", code))
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A copy of the library and the commands with all seven entries."""
    copy = tmp_path_factory.mktemp("contributed")
    for folder in ("depthflow", "pipelines"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for entries in snippets().values():
        for snippet in entries:
            snippet.put_into(copy)
    return copy


@pytest.fixture(scope="module")
def run(root) -> Callable[..., dict]:
    """Runs a script on the copy and returns its last line, parsed as JSON."""

    def run(script: str, *arguments: object) -> dict:
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "80"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_each_kind_is_one_entry_in_one_file(tmp_path):
    found = snippets()
    assert tuple(found) == KINDS
    assert len({entries[0].file for entries in found.values()}) == len(KINDS)
    for kind, (entry, *names) in found.items():
        assert [name.file for name in names] == (["depthflow/parts.py"] if kind in KINDS[:3] else [])
        for snippet, most_lines in [(entry, 24), *((name, 1) for name in names)]:
            copy = tmp_path / snippet.file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / snippet.file, copy)
            snippet.put_into(tmp_path)
            added = len(copy.read_text().splitlines()) - len((ROOT / snippet.file).read_text().splitlines())
            assert 1 <= added <= most_lines


def test_the_tests_that_it_names_exist():
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", GUIDE))
    assert len(named) >= 8
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_snippets_pass_the_linter(root):
    ruff = Path(sys.executable).with_name("ruff")
    for words in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run([ruff, *words, "depthflow"], cwd=root, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout


COMMAND_LINES = """
import contextlib, io, json, sys
from pathlib import Path
from depthflow.command import parse_command

def said(name, *words):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown), contextlib.suppress(SystemExit):
        parse_command(Path("pipelines", name), words)
    return " ".join(shown.getvalue().replace("│", " ").split())

train = ("--samples", "s", "--storage", "t")
predict = ("--model", "m", "--images", "i", "--out", "o")
pocket = parse_command(Path("pipelines/train.py"), ["pocket", *train, "--max-zoom", "2"])["recipe"]
smoke = parse_command(
    Path("pipelines/train.py"),
    ["smoke", *train, *"--encoder mobilenetv2 --loss cauchy 2 l1 1 --augment grey 0.5 gamma 0.1".split()],
)["recipe"]
files = parse_command(Path("pipelines/predict.py"), [*predict, "--files", "npz"])["config"].files
light = not {"keras", "tensorflow"} & set(sys.modules)
print(json.dumps({
    "pocket": [pocket.name, pocket.encoder, pocket.loss, pocket.augment, pocket.max_zoom],
    "smoke": [smoke.name, smoke.encoder, smoke.loss, smoke.augment],
    "files": files,
    "light": light,
    "help": {
        "train": said("train.py", "--help"),
        "pocket": said("train.py", "pocket", "--help"),
        "predict": said("predict.py", "--help"),
        "evaluate": said("evaluate.py", "--help"),
        "promote": said("promote.py", "--help"),
    },
    "refused": {
        "encoder": said("train.py", "pocket", *train, "--encoder", "mobilenet"),
        "loss": said("train.py", "pocket", *train, "--loss", "cauchi", "1"),
        "augment": said("train.py", "pocket", *train, "--augment", "gray", "0.1"),
        "files": said("predict.py", *predict, "--files", "npx"),
        "recipe": said("train.py", "pocke", *train),
    },
}))
"""


def test_command_lines_accept_and_document_the_entries(run):
    parsed = run(COMMAND_LINES)
    assert parsed["pocket"] == ["pocket", "mobilenetv2", [["cauchy", 1.0]], [["grey", 0.2]], 2.0]
    assert parsed["smoke"] == ["smoke", "mobilenetv2", [["cauchy", 2.0], ["l1", 1.0]], [["grey", 0.5], ["gamma", 0.1]]]
    assert parsed["files"] == ["npz"]
    assert parsed["light"], "a command line needs no Keras"
    shown = parsed["help"]
    assert "pocket For a phone" in shown["train"]
    assert "vit_large,mobilenetv2}" in shown["pocket"] and "mobilenetv2: 2 M parameters" in shown["pocket"]
    assert "cauchy: log(1 + squared error)" in shown["pocket"] and "grey: fraction of the images" in shown["pocket"]
    assert "panel,npz}" in shown["predict"] and "npz: NAME.depth.npz" in shown["predict"]
    assert "stored, indoor-5m." in shown["evaluate"] and "stored, indoor-5m." in shown["promote"]
    names = {"encoder": "mobilenetv2", "loss": "cauchy", "augment": "grey", "files": "npz", "recipe": "pocket"}
    for kind, said in parsed["refused"].items():
        assert names[kind] in said, said


NETWORK = """
import json
from dataclasses import replace
import numpy as np
import tensorflow as tf
from depthflow.models.augmentation import augment, draw
from depthflow.models.losses import Loss
from depthflow.models.network import build_network, encoder_variables
from depthflow.recipes import RECIPES

recipe = replace(RECIPES["pocket"]().blank(), height=64, width=64, augment=(("grey", 1.0),))
model = build_network(recipe)
rgb = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
valid = np.zeros((2, 64, 64), bool)
valid[:, :32] = True
log_depth = np.where(valid, np.float32(1.0), np.float32(np.nan))
draws = draw(recipe, seed=0, epoch=0, sample_ids=["a", "b"])
names = [name for name, _ in recipe.augment]
rgb, log_depth, valid = augment(rgb, log_depth, valid, draws, zoom_depth=recipe.zoom_depth, named=names)
loss = Loss(recipe.loss)
with tf.GradientTape() as tape:
    predicted = model(rgb, training=True)[..., 0]
    sums = loss.sums([predicted], log_depth=log_depth, valid_mask=valid, rgb=rgb)
    value = loss.value(sums, loss.counts(valid))
gradients = tape.gradient(value, [variable.value for variable in encoder_variables(model)])
print(json.dumps({
    "encoder": model.name,
    "parameters": model.count_params(),
    "draws": draws[:, -1].tolist(),
    "colours": float(np.ptp(np.asarray(rgb), axis=-1).max()),
    "shades": len(np.unique(np.asarray(rgb))),
    "loss": float(value),
    "by_hand": float(np.log1p((np.asarray(predicted)[:, :32] - 1) ** 2).mean()),
    "gradients": [bool(np.isfinite(gradient).all() and np.any(gradient)) for gradient in gradients],
}))
"""


def test_a_network_of_the_encoder_is_augmented_and_has_the_loss_and_its_gradient(run):
    made = run(NETWORK)
    assert made["encoder"] == "mobilenetv2_unet"
    assert f"{made['parameters'] / 1e6:.1f} M parameters" in snippets()["A recipe"][0].code
    assert made["draws"] == [1.0, 1.0]
    assert made["colours"] == 0 and made["shades"] > 100, "grey, but not flat"
    assert made["loss"] == pytest.approx(made["by_hand"], rel=1e-5)
    assert len(made["gradients"]) > 100 and all(made["gradients"])


PROTOCOL = """
import json
import numpy as np
from depthflow.evaluation.protocols import find_protocol
from depthflow.metrics import image_metrics

protocol = find_protocol("indoor-5m")
depth_gt = np.array([[2.0, 4.0], [8.0, 5.0]])
valid, edges = np.array([[True, True], [True, False]]), np.zeros((2, 2), bool)
mask = protocol.counted(depth_gt=depth_gt, valid_mask=valid, edge_mask=edges)
pred = protocol.metres(np.array([[3.0, 9.0], [1.0, 1.0]]), depth_gt=depth_gt, mask=mask, output="metres")
figures = image_metrics(depth_pred=pred, depth_gt=depth_gt, valid_mask=mask)
print(json.dumps({"counted": mask.tolist(), "scene_type": protocol.scene_type, **figures}))
"""


def test_an_image_is_evaluated_under_the_protocol(run):
    """2 m predicted as 3 m, 4 m as 9 m, which is cut to 5 m; 8 m are too far, 5 m invalid."""
    found = run(PROTOCOL)
    assert (found["counted"], found["scene_type"]) == ([[True, True], [False, False]], "indoors")
    assert found["abs_rel"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert found["mae"] == pytest.approx(1.0)


SHARD = """
import contextlib, json, sys
from depthflow.store.write.config import PreprocessConfig
from depthflow.store.write.preprocess import plan_shards, sample_layout
from depthflow.store.write.shard import make_shard
from depthflow.store.write.sources import read_tree
from depthflow.store.write.staging import sample_maker
from depthflow.storage.files import open_files

config = PreprocessConfig(source=(sys.argv[1],), out=sys.argv[2], height=16, width=16)
files, layout = open_files(config.out), sample_layout(config)
make = sample_maker(layout, files)
records = [
    make_shard(plan, files=files, layout=layout, make=make, watch=lambda planned: contextlib.nullcontext())
    for plan in plan_shards(config, [read_tree(config.source[0], config.source_splits)])
]
print(json.dumps({"rejects": [row for record in records for row in record.rejects.to_pylist()]}))
"""


def test_a_triplet_is_rejected_for_the_reason(run, write_triplet, tmp_path):
    tree = tmp_path / "tree"
    for view, split in enumerate(("train", "train", "val")):
        write_triplet(tree, split=split, view=view)
    black = write_triplet(tree, view=7)
    cv2.imwrite(str(black), np.zeros((64, 64, 3), np.uint8))
    (reject,) = run(SHARD, tree, tmp_path / "store")["rejects"]
    assert (reject["sample_id"], reject["reason"]) == (black.stem, "black_image")
    assert reject["message"] == "every pixel of the image is black"


PHOTOGRAPH = """
import json, sys
from depthflow.inference.outputs import Outputs
from depthflow.inference.predict import ImagePredictor
from depthflow.inference.predictor import ConstantPredictor

outputs = Outputs(folder=sys.argv[2], kinds=("npz", "npy"), model="m", output="metres", lens=None, settings={})
predict = ImagePredictor(lambda: ConstantPredictor(2.5), outputs)
(row,) = predict({"path": [sys.argv[1]], "name": ["room"]})["row"]
print(json.dumps({**json.loads(row), "is_done": outputs.is_done(sys.argv[1], "room")}))
"""


def test_a_photographs_depth_is_written_in_the_format(run, tmp_path):
    photograph, out = tmp_path / "room.png", tmp_path / "out"
    cv2.imwrite(str(photograph), np.full((6, 8, 3), 90, np.uint8))
    row = run(PHOTOGRAPH, photograph, out)
    assert row["outputs"] == [str(out / "room.depth.npz"), str(out / "room.depth.npy")] and row["is_done"]
    with np.load(out / "room.depth.npz") as written:
        np.testing.assert_array_equal(written["depth"], np.full((6, 8), 2.5, np.float32))
    assert json.loads((out / "room.depth.json").read_text())["files"] == ["npz", "npy"]
