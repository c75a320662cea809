"""The images that an evaluation report shows: the best, the median, and the worst, which can be turned in 3D."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from depthflow.datasets.camera import Camera
from depthflow.evaluation.evaluate import Evaluation
from depthflow.evaluation.protocols import Protocol
from depthflow.evaluation.reprojection import Reprojected
from depthflow.reports.page import Gallery, Part, Picture, Section
from depthflow.reports.panels import DepthMap, panel_jpeg
from depthflow.reports.view_panels import views_jpeg
from depthflow.reports.viewer import viewer_page
from depthflow.store.read.reader import SplitReader
from depthflow.store.schema import PLANE_DTYPES
from depthflow.store.store import SampleStore

PANELS_EACH = 12
VIEWS_TEXT = (
    "Below an image: each of its further views whose pose is known, warped onto it by the predicted depth; the "
    "photometric error of the view that explains a pixel best (0.85 (1 - SSIM) / 2 + 0.15 L1), grey where no view "
    "shows the point; and the auto-mask, white where a warped view explains the pixel better than any view as it is. "
    "Training on video learns from white pixels only; training on stereo pairs has no mask."
)


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


def shown_rows(evaluation: Evaluation) -> list[int]:
    """Row numbers of the images that the report shows."""
    return [row for rows in chosen_images(evaluation, each=_panels_each(evaluation)).values() for row in rows]


def _panels_each(evaluation: Evaluation) -> int:
    """Returns how many images of each kind are shown: of a few, a third are the worst."""
    return min(PANELS_EACH, ceil(evaluation.samples / 3))


def _badness(image: Mapping[str, Any]) -> float:
    """By what images are ranked; a NaN, which has no order, is worst."""
    return float("inf") if math.isnan(image["abs_rel"]) else image["abs_rel"]


@dataclass(frozen=True, kw_only=True)
class _View:
    """An image with its truth and what the models predict.

    Attributes:
        sample_id: Its id.
        rgb: (H, W, 3) uint8.
        truth: Ground truth, its mask the counted pixels.
        predictions: One map per model, the model's name its title.
        abs_rel: One per model.
        camera: Camera of the image, if the store knows it.
        reprojected: How its further views, warped by the first prediction, explain it; None without known poses.
    """

    sample_id: str
    rgb: np.ndarray
    truth: DepthMap
    predictions: Sequence[DepthMap]
    abs_rel: Sequence[float]
    camera: Camera | None
    reprojected: Reprojected | None = None

    def pictures(self, *, links: Mapping[str, str], upright: bool = False) -> list[Picture]:
        """Returns a panel per model: photograph, truth, prediction, signed error, one scale bar."""
        return [
            Picture(
                image=panel_jpeg(rgb=self.rgb, maps=[self.truth, one], upright=upright),
                alt=f"Photograph, ground truth, what {one.title} predicts, and its relative error",
                caption=f"{self.sample_id}: {one.title}, abs_rel {abs_rel:.3f}",
                links=links,
            )
            for one, abs_rel in zip(self.predictions, self.abs_rel, strict=True)
        ]

    def view_pictures(self) -> list[Picture]:
        """Returns a panel of the further views, if there are any: each as warped, what is left, and the auto-mask."""
        if self.reprojected is None:
            return []
        error, counted = self.reprojected.error, self.reprojected.counted
        seen = np.isfinite(error)
        mean = f"photometric error {error[seen].mean():.3f}, " if seen.any() else ""
        names, model = ", ".join(self.reprojected.warped), self.predictions[0].title
        shares = f"{mean}{seen.mean():.0%} of the pixels in view, {counted.mean():.0%} count by the auto-mask"
        return [
            Picture(
                image=views_jpeg(rgb=self.rgb, warped=self.reprojected.warped, error=error, counted=counted),
                alt="Photograph, its further views as the predicted depth warps them, photometric error, auto-mask",
                caption=f"{self.sample_id}: {names} by {model}, {shares}",
            )
        ]

    def write_viewer(self, path: Path) -> None:
        """Writes the page with the points of the truth and of the predictions."""
        assert self.camera is not None
        page = viewer_page(
            title=self.sample_id,
            subtitle="Ground truth and prediction in 3D",
            rgb=self.rgb,
            camera=self.camera,
            maps=[self.truth, *self.predictions],
            pictures=self.pictures(links={}, upright=True),
        )
        path.write_text(page.to_html())


def image_sections(
    folder: Path,
    evaluations: Mapping[str, Evaluation],
    *,
    protocol: Protocol,
    store: SampleStore,
    depth_m: Mapping[str, Mapping[int, np.ndarray]],
    reprojected: Mapping[int, Reprojected] = MappingProxyType({}),
) -> tuple[dict[str, list[Section]], list[Path]]:
    """Draws the chosen images, and writes a viewer per worst image, worst-01.html the very worst.

    Args:
        folder: Folder of the viewers.
        evaluations: Name to evaluation; the first one chooses the images.
        depth_m: Model to row to prediction.
        reprojected: Row to how its views explain it, given the first model's depth.

    Returns:
        Best, median and worst to a section, or to none without such images; and the viewers' paths.
    """
    result, viewers = next(iter(evaluations.values())), list[Path]()
    views = _Views(evaluations, protocol=protocol, store=store, depth_m=depth_m, reprojected=reprojected)
    sections = {}
    for kind, rows in chosen_images(result, each=_panels_each(result)).items():
        parts, pictures = list[Part](), list[Picture]()
        for number, row in enumerate(reversed(rows) if kind == "worst" else rows, start=1):
            view, links = views.read(row), {}
            if kind == "worst" and view.camera:
                viewers.append(folder / f"worst-{number:02d}.html")
                view.write_viewer(viewers[-1])
                links = {"Look at it in 3D": viewers[-1].name}
            pictures += [*view.pictures(links=links), *view.view_pictures()]
        if kind == "worst" and len(viewers) < len(rows):
            parts.append("Images without a link cannot be shown in 3D: their source has no camera.json.")
        parts += [VIEWS_TEXT] * any(row in reprojected for row in rows)
        parts.append(Gallery(pictures=pictures))
        sections[kind] = [Section(heading=f"{kind.capitalize()} images", parts=parts)] if pictures else []
    return sections, viewers


class _Views:
    """Reads images of an evaluated split, one at a time: they may be large."""

    def __init__(
        self,
        evaluations: Mapping[str, Evaluation],
        *,
        protocol: Protocol,
        store: SampleStore,
        depth_m: Mapping[str, Mapping[int, np.ndarray]],
        reprojected: Mapping[int, Reprojected],
    ) -> None:
        split = next(iter(evaluations.values())).split
        self._protocol, self._depth_m, self._reprojected = protocol, depth_m, reprojected
        self._reader = SplitReader(store, split, planes=tuple(PLANE_DTYPES), cache_bytes=0)
        self._cameras = store.split_index(split).select(["fx_px", "fy_px", "cx_px", "cy_px"])
        self._size = {"height": store.height, "width": store.width}
        self._abs_rel = {
            (name, image["row"]): image["abs_rel"] for name, found in evaluations.items() for image in found.images
        }

    def read(self, row: int) -> _View:
        batch = self._reader.read([row])
        depth_gt = np.exp(batch.log_depth[0])
        mask = self._protocol.counted(depth_gt=depth_gt, valid_mask=batch.valid_mask[0], edge_mask=batch.edge_mask[0])
        [camera] = self._cameras.slice(row, 1).to_pylist()
        return _View(
            sample_id=batch.sample_ids[0],
            rgb=batch.rgb[0],
            truth=DepthMap(title="ground truth", depth_m=depth_gt, valid_mask=mask),
            predictions=[DepthMap(title=name, depth_m=maps[row]) for name, maps in self._depth_m.items()],
            abs_rel=[self._abs_rel[name, row] for name in self._depth_m],
            camera=None if None in camera.values() else Camera(**self._size, **camera),
            reprojected=self._reprojected.get(row),
        )
