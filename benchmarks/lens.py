"""Whether a model's error depends on the lens: each image again as longer and shorter lenses would have taken it.

    python benchmarks/lens.py --model models:/NAME/1 [models:/OTHER/1 ...] --samples STORE

STORE holds images at their source's size, with known cameras (preprocess.py --height and --width). A centre cut of a
share s of both sides, enlarged, is what a lens of 1 / s times the focal length sees; depths stay as they are. To make
shorter lenses too without inventing pixels, the reference (factor 1) is itself a cut, of the share min(factors): the
factor z shows the share min(factors) / z, the smallest factor is the whole image, and the reference alone is not
resampled: every cut is resized to its size, the image by area or bilinearly, depth by point sampling. Each is then
predicted with its own focal length, by the predictor that predict.py and evaluate.py use; a model of the canonical
camera again without, when its training images' median stands in, as if it had been trained with --camera none.

For each of these and each factor:

- abs_rel: mean over images, over the whole cut, so that a longer lens also sees another part of the room;
- centre/abs_rel: the same over what all cuts show, the share min / max of the image;
- scale: median over images of the median prediction / truth there. A model that takes every image for its own lens's
  has a scale of 1 / z times the reference's; one that knows the lens has the reference's;
- change and centre/change: the relative difference of each abs_rel from the reference's; the largest is the figure.

The last line on stdout is one JSON object.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from depthflow.metrics import counted_pixels, image_metrics
from depthflow.models.interface import Predictor
from depthflow.observability.noise import TENSORFLOW_ENVIRONMENT
from depthflow.store.read.reader import SampleBatch, SplitReader, worker_pass
from depthflow.store.store import open_store
from depthflow.store.write.planes import point_sample_index, resize_rgb

FACTORS = (0.75, 0.87, 1.0, 1.15, 1.33)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The error of models with shorter and longer lenses."""

    model: tuple[str, ...]
    """Models as evaluate.py names them."""
    samples: str
    """Store of images at the source's size, with known cameras."""
    split: str = "val"
    """Split of the store."""
    factors: tuple[float, ...] = FACTORS
    """Focal lengths relative to the reference, which is 1."""
    batch_size: int = 8
    """Images predicted at once."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Images as another lens would have taken them.

    Attributes:
        rgb: (B, H, W, 3) uint8.
        depth_m: (B, H, W) float32, metres; anything where invalid.
        valid_mask: (B, H, W) bool, with a depth that counts.
        focal: (B,) float64, relative to the image size.
        in_centre: (H, W) bool; True for what every view shows.
    """

    rgb: np.ndarray
    depth_m: np.ndarray
    valid_mask: np.ndarray
    focal: np.ndarray
    in_centre: np.ndarray


def main(benchmark: Benchmark) -> dict[str, Any]:
    """Prints a table per model; returns the figures by model."""
    os.environ.update(TENSORFLOW_ENVIRONMENT)
    from depthflow.inference.named_model import find_models

    if 1.0 not in benchmark.factors:
        raise SystemExit(f"--factors needs the reference, 1. Received: {benchmark.factors}")
    store = open_store(benchmark.samples)
    reader = SplitReader(store, benchmark.split)
    found: dict[str, Any] = {}
    for model in find_models(benchmark.model):
        if model.output != "metres":
            raise SystemExit(f"{model.uri} predicts {model.output}, and a lens changes only metres.")
        predictor, found[model.uri] = model.load(), {"camera": model.camera.camera}
        for lens in ("known", "unknown") if model.camera.camera == "canonical" else ("known",):
            batches = worker_pass(reader, max_batch_size=benchmark.batch_size, rank=0, num_workers=1)
            shown = lens_figures(predictor, batches, benchmark.factors, lens_is_known=lens == "known")
            found[model.uri][lens] = shown
            print(table(f"{model.uri}, camera {model.camera.camera}, lens {lens}", shown), flush=True)
    return {"samples": len(reader), "fingerprint": store.fingerprint, "models": found}


def lens_figures(
    predictor: Predictor, batches: Iterable[SampleBatch], factors: Sequence[float], *, lens_is_known: bool = True
) -> dict[str, Any]:
    """Predicts every view of every image: figures by factor, and the largest change of both abs_rel."""
    images: dict[float, list[dict[str, float]]] = {factor: [] for factor in factors}
    for batch in batches:
        if np.isnan(batch.focal).any():
            raise SystemExit(f"The camera of some images is unknown, such as that of {batch.sample_ids[0]}.")
        for factor in factors:
            images[factor] += view_figures(predictor, seen_with(batch, factor, factors), lens_is_known=lens_is_known)
    figures = {
        factor: {
            "abs_rel": float(np.nanmean([image["abs_rel"] for image in rows])),
            "centre/abs_rel": float(np.nanmean([image["centre/abs_rel"] for image in rows])),
            "scale": float(np.nanmedian([image["scale"] for image in rows])),
        }
        for factor, rows in images.items()
    }
    for row in figures.values():
        row |= {f"{area}change": row[f"{area}abs_rel"] / figures[1.0][f"{area}abs_rel"] - 1 for area in ("", "centre/")}
    largest = {
        f"{area}largest_change": max(abs(row[f"{area}change"]) for row in figures.values()) for area in ("", "centre/")
    }
    return {"factors": {str(factor): row for factor, row in figures.items()}, **largest}


def view_figures(predictor: Predictor, view: View, *, lens_is_known: bool) -> list[dict[str, float]]:
    """Predicts a view: for each image abs_rel, centre/abs_rel and scale, NaN without a valid pixel."""
    rows = []
    predicted = predictor(view.rgb, view.focal if lens_is_known else None)
    for depth_pred, depth_gt, valid_mask in zip(predicted, view.depth_m, view.valid_mask, strict=True):
        centre = valid_mask & view.in_centre
        whole, inner = (
            image_metrics(depth_pred=depth_pred, depth_gt=depth_gt, valid_mask=mask)["abs_rel"]
            for mask in (valid_mask, centre)
        )
        scale = float(np.median(depth_pred[centre] / depth_gt[centre])) if centre.any() else np.nan
        rows.append({"abs_rel": whole, "centre/abs_rel": inner, "scale": scale})
    return rows


def seen_with(batch: SampleBatch, factor: float, factors: Sequence[float]) -> View:
    """Cuts images and resizes them to the reference's size, as a lens of `factor` times its focal length sees them."""
    height, width = batch.rgb.shape[1:3]
    smallest = centre_cut(height, width, min(factors) / max(factors))
    to_height, to_width = (part.stop - part.start for part in centre_cut(height, width, min(factors)))
    rows, columns = centre_cut(height, width, min(factors) / factor)
    cut = (slice(None), rows, columns)
    depth_m, in_all = np.exp(batch.log_depth[cut]), np.zeros((height, width), bool)
    in_all[smallest] = True
    counted = counted_pixels(depth_gt=depth_m, valid_mask=batch.valid_mask[cut])
    sampled = point_sample_index(depth_m.shape[1:], height=to_height, width=to_width)
    seen = (rows.stop - rows.start) * (columns.stop - columns.start)
    return View(
        rgb=np.stack(
            [resize_rgb(np.ascontiguousarray(rgb), height=to_height, width=to_width) for rgb in batch.rgb[cut]]
        ),
        depth_m=depth_m[:, *sampled],
        valid_mask=counted[:, *sampled],
        focal=batch.focal * np.sqrt(height * width / seen),
        in_centre=in_all[rows, columns][sampled],
    )


def centre_cut(height: int, width: int, share: float) -> tuple[slice, slice]:
    """Returns the rows and columns of a centred cut of this share of both sides, to a whole pixel on each side."""
    margins = [round(size * (1 - share) / 2) for size in (height, width)]
    return slice(margins[0], height - margins[0]), slice(margins[1], width - margins[1])


def table(name: str, found: dict[str, Any]) -> str:
    """Returns a model's figures as lines of text."""
    columns = ("abs_rel", "change", "centre/abs_rel", "centre/change", "scale")
    lines = [f"\n{name}", " ".join(f"{column:>15}" for column in ("factor", *columns))]
    for factor, row in found["factors"].items():
        cells = [f"{row[column]:+.1%}" if "change" in column else f"{row[column]:.4f}" for column in columns]
        lines.append(" ".join(f"{cell:>15}" for cell in (factor, *cells)))
    lines.append(f"largest change {found['largest_change']:.1%}, of the centre {found['centre/largest_change']:.1%}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Benchmark, description=__doc__))))
    sys.exit(0)
