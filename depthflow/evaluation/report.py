"""Pictures of an evaluation: its best, median and worst images."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from depthflow.evaluation.evaluate import Evaluation, Predict
from depthflow.pictures.panels import DepthMap, draw_panel
from depthflow.samples.reader import SplitReader
from depthflow.samples.store import SampleStore


def chosen_images(evaluation: Evaluation, *, each: int) -> dict[str, list[int]]:
    """Row numbers of the best, median and worst images by abs_rel, no image twice.

    Args:
        each: how many of each kind.
    """
    ranked = [image["row"] for image in sorted(evaluation.images, key=_badness)]
    middle = max(0, (len(ranked) - each) // 2)
    chosen = {"best": ranked[:each], "median": ranked[middle : middle + each], "worst": ranked[-each:]}
    seen: set[int] = set()
    for kind, rows in chosen.items():
        chosen[kind] = [row for row in rows if row not in seen]
        seen.update(rows)
    return chosen


def _badness(image: Mapping[str, Any]) -> float:
    """By what images are ranked; a NaN, which has no order, is worst."""
    return float("inf") if math.isnan(image["abs_rel"]) else image["abs_rel"]


def draw_panels(
    evaluation: Evaluation, *, predict: Predict, store: SampleStore, folder: Path, each: int = 2
) -> list[Path]:
    """Draws photograph, truth, prediction and signed error of the chosen images.

    Args:
        folder: for KIND_SAMPLEID.png; it is made.

    Returns:
        The files' paths.
    """
    reader = SplitReader(store, evaluation.split)
    by_row = {image["row"]: image for image in evaluation.images}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, rows in chosen_images(evaluation, each=each).items():
        for row in rows:
            batch = reader.read([row])
            truth = DepthMap(title="ground truth", depth_m=np.exp(batch.log_depth[0]), valid_mask=batch.valid_mask[0])
            prediction = DepthMap(title="prediction", depth_m=predict(batch.rgb)[0])
            path = folder / f"{kind}_{batch.sample_ids[0]}.png"
            title = f"{kind}: {batch.sample_ids[0]}, abs_rel {by_row[row]['abs_rel']:.3f}"
            draw_panel(path, rgb=batch.rgb[0], maps=[truth, prediction], title=title)
            paths.append(path)
    return paths
