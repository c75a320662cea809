"""Evaluation protocols. Each fixes everything that affects a metric."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from depthflow.errors import ProtocolError
from depthflow.evaluation.alignment import affine_aligned, median_aligned
from depthflow.metrics import COUNTED_M, counted_pixels
from depthflow.models.interface import Output

if TYPE_CHECKING:
    from depthflow.store.store import SampleStore


Alignment = Literal["none", "median", "affine"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How metrics are computed: per image over the counted pixels, then the mean over images that have any.

    Attributes:
        name: Value of --protocol.
        description: Text for people.
        at_source_resolution: Whether the ground truth must have the source's resolution. Predictions are resized to
            the ground truth, never the other way.
        scene_type: Scene type to evaluate, or None for both.
        without_edges: Whether to ignore pixels at depth edges, where laser depth is least reliable.
        cap_m: Truth beyond it is ignored and predictions are clipped to it, as in ZoeDepth's evaluation
            (arXiv:2302.12288). None: no cap.
        alignment: How a prediction is fitted to each image's truth. See `ALIGNMENTS` for what needs it.
    """

    name: str
    description: str
    at_source_resolution: bool = True
    scene_type: str | None = None
    without_edges: bool = False
    cap_m: float | None = None
    alignment: Alignment = "none"

    @property
    def meaning(self) -> str:
        """The description, and the depths that are counted."""
        least, greatest = COUNTED_M
        return f"{self.description} Counts ground truth from {least:g} to {self.cap_m or greatest:,g} m."

    def counted(self, *, depth_gt: np.ndarray, valid_mask: np.ndarray, edge_mask: np.ndarray) -> np.ndarray:
        """Returns the pixels of an image that its metrics count, (H, W) bool.

        Args:
            depth_gt: (H, W) float, metres; any value where invalid.
            valid_mask, edge_mask: (H, W) bool.
        """
        mask = counted_pixels(depth_gt=depth_gt, valid_mask=valid_mask)
        mask = mask & ~edge_mask if self.without_edges else mask
        return mask if self.cap_m is None else mask & (depth_gt <= self.cap_m)

    def metres(self, pred: np.ndarray, *, depth_gt: np.ndarray, mask: np.ndarray, output: Output) -> np.ndarray:
        """Aligns and clips a prediction as the protocol says; returns (H, W) float, metres.

        Args:
            pred: (H, W) float, in the unit of `output`, which must have passed `check_output`.
            depth_gt: (H, W) float, metres.
            mask: (H, W) bool, from `counted`.
        """
        match self.alignment:
            case "median":
                pred = median_aligned(pred, depth_gt=depth_gt, mask=mask)
            case "affine":
                pred = affine_aligned(pred, depth_gt=depth_gt, mask=mask, output=output)
        return pred if self.cap_m is None else np.minimum(pred, self.cap_m)


NAMED = (
    Protocol(
        name="devkit",
        description=(
            "DIODE's official devkit: ground truth at the source's resolution, all valid pixels, no cap, no crop, "
            "no alignment; per image, then the mean over images that have a valid pixel."
        ),
    ),
    Protocol(
        name="devkit-clean",
        description=(
            "As devkit, without pixels at depth edges, where the laser returns depths that belong to neither side."
        ),
        without_edges=True,
    ),
    Protocol(
        name="indoor-10m",
        description="As devkit, indoors only; truth beyond 10 m is left out and predictions are cut to 10 m.",
        scene_type="indoors",
        cap_m=10.0,
    ),
    Protocol(
        name="outdoor-80m",
        description="As devkit, outdoor only; truth beyond 80 m is left out and predictions are cut to 80 m.",
        scene_type="outdoor",
        cap_m=80.0,
    ),
    Protocol(
        name="median",
        description="As devkit, after each prediction is scaled so that its median is the truth's.",
        alignment="median",
    ),
    Protocol(
        name="affine",
        description=(
            "As devkit, after scale and shift are fitted to each image's truth by least squares in the model's own "
            "space: log-depth, or inverse depth for models of relative inverse depth. Says nothing of metres."
        ),
        alignment="affine",
    ),
    Protocol(
        name="stored",
        description=(
            "As devkit, but at the store's own resolution: what training computes after each epoch. Figures at "
            "different resolutions cannot be compared."
        ),
        at_source_resolution=False,
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in NAMED}


ALIGNMENTS: Mapping[Output, tuple[Alignment, ...]] = {
    "metres": ("none", "median", "affine"),
    "relative depth": ("median", "affine"),
    "relative inverse depth": ("affine",),
}
"""The alignments under which an output has metrics, each also the name of a protocol but for none."""


def find_protocol(name: str) -> Protocol:
    """Returns the protocol with this name.

    Raises:
        ProtocolError: if there is none.
    """
    if name not in PROTOCOLS:
        raise ProtocolError(f"There is no protocol {name}. Pass --protocol one of: {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


def rows_of(protocol: Protocol, store: "SampleStore", split: str) -> list[int]:
    """Returns the rows of the split that the protocol evaluates, in the store's order: none without depth.

    Raises:
        ProtocolError: if it needs the source's resolution and a sample was resized, or if no sample has its
            scene type, or none of these has depth.
        StoreError: if the split is missing.
    """
    rows = _rows_with_depth(protocol, store, split)
    if not any(rows.values()):
        raise ProtocolError(
            f"{split} of {store.files.root} has no depth to compare with: none of its {len(rows)} samples has a valid "
            "pixel. Pass --samples a store of frames with depth, or write one of rectified pairs with preprocess.py "
            "--depth-from stereo."
        )
    return [row for row, has_depth in rows.items() if has_depth]


def count_without_depth(protocol: Protocol, store: "SampleStore", split: str) -> int:
    """Returns the number of samples that the protocol would evaluate if they had depth; raises what `rows_of` does."""
    return sum(not has_depth for has_depth in _rows_with_depth(protocol, store, split).values())


def _rows_with_depth(protocol: Protocol, store: "SampleStore", split: str) -> dict[int, bool]:
    """Returns each row of the protocol's scene type with whether it has depth."""
    index = store.split_index(split)
    sizes = set(zip(index["source_height"].to_pylist(), index["source_width"].to_pylist(), strict=True))
    if protocol.at_source_resolution and sizes != {(store.height, store.width)}:
        height, width = max(sizes)
        raise ProtocolError(
            f"The protocol {protocol.name} measures at the source's resolution ({height} x {width}), but the store "
            f"{store.files.root} was resized to {store.height} x {store.width}. Write {split} a second time with "
            f"preprocess.py --splits {split} --height {height} --width {width}."
        )
    scene_types = index["scene_type"].to_pylist()
    fractions = index["valid_fraction"].to_pylist()
    rows = {row: fractions[row] != 0 for row, kind in enumerate(scene_types) if protocol.scene_type in (None, kind)}
    if not rows:
        raise ProtocolError(
            f"The protocol {protocol.name} evaluates {protocol.scene_type} only, and {split} of {store.files.root} has "
            f"none. It holds: {', '.join(sorted(set(scene_types)))}. Pass another --protocol."
        )
    return rows


def check_output(protocol: Protocol, output: Output, *, model: str) -> None:
    """Checks that the protocol can evaluate this output.

    Raises:
        ProtocolError: if it has no metres and the protocol does not fit what it lacks to the truth.
    """
    if protocol.alignment not in ALIGNMENTS[output]:
        raise ProtocolError(
            f"{model} predicts {output}, which has no metres, and the protocol {protocol.name} gives it none. "
            f"Pass --protocol {ALIGNMENTS[output][0]}."
        )
