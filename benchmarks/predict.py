"""Compares prediction and evaluation with the bare model.predict of the same network, and times each stage.

    python benchmarks/predict.py --work DIR [--recipe tutorial] [--samples STORE] [--backends keras onnx litert]

Images of 1024 x 768 are written to DIR, a scratch folder. The network has the recipe's encoder and decoder with random
weights. Sides alternate, rates are medians, and a ratio is the median over pairs, since other load slows both sides of
a pair.

- predict: images per second of `predict_images` with one process and .npy files, from the difference of a short
  and a long run, which excludes starting Ray and loading the network; against model.predict in a separate process, on
  as many images in memory at the network's size;
- evaluate: the same for `Evaluator.evaluate` over STORE, a store of 768 x 1024 samples;
- stages: milliseconds per image for reading, shrinking, the network, enlarging and each kind of file, one after the
  other in one process, for a few sizes;
- backends: milliseconds per image of `predict_on_batch` at the network's size by Keras and by the exported networks of
  the other --backends, in one process and in turn, and the rate of each relative to Keras.

The last line on stdout is one JSON object.
"""

import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import tyro

from depthflow.cluster.session import WORKER_ENVIRONMENT, ray_session
from depthflow.evaluation.evaluate import Evaluator
from depthflow.evaluation.protocols import PROTOCOLS
from depthflow.inference.formats import shrunk
from depthflow.inference.images import read_image
from depthflow.inference.lens import Lens
from depthflow.inference.outputs import Outputs
from depthflow.inference.predict import predict_images
from depthflow.inference.predictor import NetworkPredictor
from depthflow.inference.writers import write_npy, write_ply, write_png16
from depthflow.models.interface import LoadPredictor
from depthflow.observability.noise import TENSORFLOW_ENVIRONMENT
from depthflow.recipes import RECIPES
from depthflow.reports.panels import DepthMap, draw_panel
from depthflow.store.store import open_store
from depthflow.store.write.planes import resize_rgb

CALLS = 10
"""Number of calls of each backend per repeat."""
SIZES = ((768, 1024), (3000, 4000), (4000, 6000))
Part = Literal["predict", "evaluate", "stages", "backends"]
Backend = Literal["keras", "onnx", "litert", "saved_model"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Compares prediction and evaluation with the bare model.predict."""

    work: str
    """Scratch folder."""
    recipe: str = "tutorial"
    """Recipe of the network."""
    samples: str | None = None
    """Store of samples at 768 x 1024. Required for the part evaluate."""
    parts: tuple[Part, ...] = ("predict", "stages")
    """Parts to measure."""
    backends: tuple[Backend, ...] = ("keras", "onnx", "litert")
    """Backends to compare in the part backends."""
    batch_sizes: tuple[int, ...] = (1, 8)
    """Numbers of images per call in the part backends."""
    photographs: tuple[int, int] = (16, 80)
    """Number of images in the short and in the long run."""
    repeats: int = 3
    """Number of runs of each side."""
    num_cpus: int = 2
    """Number of CPUs of Ray."""


def main(benchmark: Benchmark) -> int:
    """Prints the results of every part."""
    os.environ.update(WORKER_ENVIRONMENT | TENSORFLOW_ENVIRONMENT)
    work = Path(benchmark.work).absolute()
    work.mkdir(parents=True, exist_ok=True)
    network = work / "network.keras"
    _apart(_save_network, benchmark.recipe, str(network))
    measures: dict[Part, Callable[[Benchmark, Path, Path], dict[str, Any]]] = {
        "predict": measure_predict,
        "evaluate": measure_evaluate,
        "stages": measure_stages,
        "backends": measure_backends,
    }
    results: dict[str, Any] = {}
    for part in benchmark.parts:
        results[part] = measures[part](benchmark, work, network)
        print(part, json.dumps(results[part], indent=2), flush=True)
    print(json.dumps(results))
    return 0


def measure_predict(benchmark: Benchmark, work: Path, network: Path) -> dict[str, Any]:
    """Measures images per second of the job and of the bare network, and their ratio."""
    folder = make_photographs(work / "photographs", benchmark.photographs[1], *SIZES[0])
    paths = sorted(str(path) for path in folder.iterdir())

    def seconds(count: int, out: Path) -> float:
        outputs = Outputs(
            folder=str(out), kinds=("npy",), model=str(time.monotonic_ns()), output="metres", lens=None, settings={}
        )
        began = time.monotonic()
        rows = predict_images(paths[:count], load=_loader(network), outputs=outputs, num_workers=1, use_gpu=False)
        assert all(row["outputs"] for row in rows)
        return time.monotonic() - began

    return _beside_bare(benchmark, network, lambda count: seconds(count, work / "out"))


def measure_evaluate(benchmark: Benchmark, work: Path, network: Path) -> dict[str, Any]:
    """Measures samples per second of the evaluation and of the bare network, and their ratio."""
    if benchmark.samples is None:
        raise SystemExit("The part evaluate needs --samples.")
    store = open_store(benchmark.samples)
    split = "val"

    class Shortened(Evaluator):
        """Evaluates only the first samples."""

        def shortened(self, count: int) -> "Shortened":
            rows = [row for batch in self._batches for row in batch][:count]
            self._batches = [rows[start : start + 8] for start in range(0, count, 8)]
            return self

    def seconds(count: int) -> float:
        began = time.monotonic()
        evaluator = Shortened(
            {"model": _loader(network)},
            store=store,
            split=split,
            protocol=PROTOCOLS["stored"],
            num_workers=1,
            use_gpu=False,
        )
        assert evaluator.shortened(count).evaluate()["model"].samples == count
        return time.monotonic() - began

    return _beside_bare(benchmark, network, seconds)


def _beside_bare(benchmark: Benchmark, network: Path, seconds: Callable[[int], float]) -> dict[str, Any]:
    short, long = benchmark.photographs
    ours, bare = [], []
    for _ in range(benchmark.repeats):
        with ray_session(benchmark.num_cpus):
            ours.append((long - short) / (seconds(long) - seconds(short)))
        bare.append(_apart(_bare_rate, str(network), short, long))
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    return {
        "ours_per_s": statistics.median(ours),
        "bare_per_s": statistics.median(bare),
        "ratio": statistics.median(ratios),
        "pairs": {"ours": ours, "bare": bare, "ratio": ratios},
    }


def measure_stages(benchmark: Benchmark, work: Path, network: Path) -> dict[str, Any]:
    """Measures milliseconds per image of every stage, by size."""
    return {
        f"{width}x{height}": _apart(
            _stages, str(make_photographs(work / f"photographs-{width}", 3, height, width)), str(network)
        )
        for height, width in SIZES
    }


def _stages(folder: str, network: str) -> dict[str, float]:
    predictor = NetworkPredictor.load(network)
    model: Any = predictor.network
    height, width = model.input_shape[1:3]
    model.predict_on_batch(np.zeros((1, height, width, 3), np.uint8))
    found: dict[str, list[float]] = {}
    scratch = Path(folder).parent / "scratch"
    scratch.mkdir(exist_ok=True)

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        began = time.monotonic()
        made = work()
        found.setdefault(stage, []).append((time.monotonic() - began) * 1000)
        return made

    for path in sorted(Path(folder).iterdir()):
        rgb = timed("read", lambda path=path: read_image(str(path)))
        small = timed("shrink", lambda rgb=rgb: resize_rgb(rgb, height=height, width=width))
        timed("network", lambda small=small: model.predict_on_batch(small[None]))
        camera = Lens(fov_deg=60.0).camera(height=rgb.shape[0], width=rgb.shape[1])
        depth_m = timed("network, shrink and enlarge", lambda rgb=rgb: predictor(rgb[None])[0])
        timed("npy", lambda d=depth_m: write_npy(scratch / "a.npy", d))
        timed("png", lambda d=depth_m: write_png16(scratch / "a.png", d))
        timed("ply", lambda d=depth_m, rgb=rgb, c=camera: write_ply(scratch / "a.ply", d, rgb, c))
        drawn = timed("panel, shrinking", lambda d=depth_m, rgb=rgb: shrunk(rgb, d))
        timed(
            "panel, drawing",
            lambda d=drawn: draw_panel(scratch / "p.png", rgb=d[0], maps=[DepthMap(title="depth", depth_m=d[1])]),
        )
    return {stage: statistics.median(ms) for stage, ms in found.items()}


def measure_backends(benchmark: Benchmark, work: Path, network: Path) -> dict[str, Any]:
    """Measures milliseconds per image by batch size and backend."""
    return _apart(_backends, str(network), str(work), benchmark.backends, benchmark.batch_sizes, benchmark.repeats)


def _backends(
    network: str, work: str, backends: tuple[Backend, ...], batch_sizes: tuple[int, ...], repeats: int
) -> dict[str, Any]:
    from depthflow.inference.conversion import Variant, convert
    from depthflow.inference.exported import open_network

    model: Any = NetworkPredictor.load(network).network
    height, width = model.input_shape[1:3]
    sides: dict[str, Any] = {"keras": model}
    for backend in backends:
        if backend != "keras":
            variant = Variant(format=backend)
            convert(model, variant, Path(work) / variant.name)
            path = str(Path(work) / variant.name)
            sides[backend] = open_network(path, backend, height=height, width=width)
    found: dict[str, Any] = {}
    for batch_size in batch_sizes:
        images = np.random.default_rng(0).integers(0, 256, (batch_size, height, width, 3), np.uint8)
        ms: dict[str, list[float]] = {backend: [] for backend in sides}
        for _ in range(CALLS * repeats):  # In turn, since other load on the machine then slows all of them.
            for backend, side in sides.items():
                began = time.monotonic()
                side.predict_on_batch(images)
                ms[backend].append((time.monotonic() - began) * 1000 / batch_size)
        ms = {backend: each[CALLS // 2 :] for backend, each in ms.items()}  # The first calls warm up.
        found[f"batch {batch_size}"] = {
            backend: {
                "ms": statistics.median(each),
                "rate": statistics.median(k / e for k, e in zip(ms["keras"], each, strict=True)),
            }
            for backend, each in ms.items()
        }
    return found


def make_photographs(folder: Path, count: int, height: int, width: int) -> Path:
    """Writes JPEGs of smooth noise with some grain, which take as long to decode as photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        draws = np.random.default_rng(k)
        smooth = cv2.resize(draws.random((12, 16, 3), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        grain = draws.normal(0, 6, (height, width, 1)).astype(np.float32)
        cv2.imwrite(str(folder / f"{k:04d}.jpg"), (255 * smooth + grain).clip(0, 255).astype(np.uint8))
    return folder


def _loader(network: Path) -> LoadPredictor:
    path = str(network)
    return lambda: NetworkPredictor.load(path)


def _save_network(recipe: str, path: str) -> None:
    from depthflow.models.network import build_network, serving_network

    serving_network(build_network(replace(RECIPES[recipe](), weights="none"))).save(path)


def _bare_rate(network: str, short: int, long: int) -> float:
    """Measures images per second of model.predict, from the difference of a short and a long call."""
    import keras

    model: Any = keras.saving.load_model(network, compile=False)
    images = np.random.default_rng(0).integers(0, 256, (long, *model.input_shape[1:]), np.uint8)
    model.predict(images[:8], batch_size=8, verbose=0)
    seconds = []
    for count in (short, long):
        began = time.monotonic()
        model.predict(images[:count], batch_size=8, verbose=0)
        seconds.append(time.monotonic() - began)
    return (long - short) / (seconds[1] - seconds[0])


def _apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a separate process, whose end by a signal is an error."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Benchmark, description=__doc__)))
