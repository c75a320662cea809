"""Photographs by the hundred over Ray: every one ends as a result or with a reason."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthflow.inference.images import find_images
from depthflow.inference.outputs import Outputs
from depthflow.inference.predict import predict_images
from depthflow.inference.predictor import ConstantPredictor

SIZES = ((24, 32), (32, 24), (40, 40), (1, 1))


@pytest.fixture
def photographs(tmp_path) -> Path:
    """195 photographs of several kinds and sizes, and 5 files that are none."""
    draws = np.random.default_rng(0)
    folder = tmp_path / "photographs"
    folder.mkdir()
    for k in range(195):
        size = SIZES[k % len(SIZES)]
        match k % 5:
            case 0:
                image, suffix = Image.fromarray(draws.integers(0, 256, (*size, 3), np.uint8)), "jpg"
            case 1:
                image, suffix = Image.fromarray(draws.integers(0, 256, (*size, 3), np.uint8)), "webp"
            case 2:
                image, suffix = Image.fromarray(draws.integers(0, 256, size, np.uint8)), "png"
            case 3:
                image, suffix = Image.fromarray(draws.integers(0, 65536, size, np.uint16)), "png"
            case _:
                image, suffix = Image.fromarray(draws.integers(0, 256, (*size, 4), np.uint8)), "png"
        image.save(folder / f"{k:03d}.{suffix}")
    (folder / "a.jpg").touch()
    (folder / "b.png").write_text("a note")
    (folder / "c.jpg").write_bytes((folder / "000.jpg").read_bytes()[:100])
    (folder / "d.webp").write_bytes(b"RIFF0000WEBP")
    (folder / "e.png").symlink_to(folder / "absent.png")
    return folder


def test_195_results_and_5_reasons(shared_ray, photographs, tmp_path):
    paths = find_images((str(photographs),))
    assert len(paths) == 200
    outputs = Outputs(
        folder=str(tmp_path / "out"), kinds=("npy",), model="constant", output="metres", lens=None, settings={}
    )

    def predict() -> list[dict]:
        return predict_images(paths, load=lambda: ConstantPredictor(2.0), outputs=outputs, num_workers=2, use_gpu=False)

    rows = predict()
    assert [row["path"] for row in rows] == sorted(paths)
    refused = {Path(row["path"]).name: row["reason"] for row in rows if row["reason"]}
    assert refused == {
        "a.jpg": "empty_file",
        "b.png": "unreadable_image",
        "c.jpg": "unreadable_image",
        "d.webp": "unreadable_image",
        "e.png": "unreadable_file",
    }
    for row in rows:
        if not row["reason"]:
            with Image.open(row["path"]) as image:
                assert np.load(row["outputs"][0]).shape == (image.height, image.width)
    assert Counter(row["done_before"] for row in rows) == {False: 200}
    assert Counter(row["done_before"] for row in predict()) == {True: 195, False: 5}


def test_24_megapixels_stay_under_4_gb(tmp_path):
    """Three at once, as a process of the pool has them, and every kind of file."""
    image = Image.effect_noise((600, 400), 80).convert("RGB").resize((6000, 4000))
    for k in range(3):
        image.save(tmp_path / f"{k}.jpg")
    done = subprocess.run([sys.executable, "-c", PREDICT_24_MEGAPIXELS, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    most_kib, depth_shape = json.loads(done.stdout.splitlines()[-1])
    assert depth_shape == [4000, 6000]
    assert most_kib * 1024 < 4e9, f"{most_kib / 1e6:.2f} GB"


PREDICT_24_MEGAPIXELS = """
import json, resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from depthflow.inference.outputs import Outputs
from depthflow.inference.predict import ImagePredictor
from depthflow.inference.predictor import NetworkPredictor
from depthflow.inference.lens import Lens
from depthflow.models.network import build_network, serving_network
from depthflow.recipes import smoke
folder = Path(sys.argv[1])
kinds = ("npy", "png", "panel", "ply")
outputs = Outputs(folder=str(folder), kinds=kinds, model="m", output="metres", lens=Lens(fov_deg=60.0), settings={})
pool = ImagePredictor(lambda: NetworkPredictor(serving_network(build_network(smoke()))), outputs)
batches = [{"path": [str(folder / f"{k}.jpg")], "name": [str(k)]} for k in range(3)]
with ThreadPoolExecutor(3) as threads:
    rows = [json.loads(row) for made in threads.map(pool, batches) for row in made["row"]]
assert all(len(row["outputs"]) == len(kinds) for row in rows), rows
shape = np.load(rows[0]["outputs"][0], mmap_mode="r").shape
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, shape]))
"""
