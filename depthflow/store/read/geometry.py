"""Where a sample's views were taken from: cameras at the stored size and poses relative to the frame, as arrays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Geometry(NamedTuple):
    """Cameras and poses of n samples with V views each, in the order of the store's views.

    Attributes:
        camera: (n, 4) float32, fx, fy, cx, cy of the frame in pixels at the stored size; pixel i covers [i, i + 1).
        view_cameras: (n, V, 4) float32, those of the views.
        view_poses: (n, V, 4, 4) float32, x_view = pose @ x_frame in metres; NaN where unknown.
        time_s: (n,) float64, when the frame was taken, in seconds from any origin of its scan; NaN where unknown.
    """

    camera: np.ndarray
    view_cameras: np.ndarray
    view_poses: np.ndarray
    time_s: np.ndarray

    def take(self, rows: np.ndarray) -> "Geometry":
        """Returns the geometry of some of the samples."""
        return Geometry(*(values[rows] for values in self))


def geometry_of(index: Any, views: Sequence[str]) -> Geometry | None:
    """Returns the geometry of rows of a store's index (`depthflow.store.schema.index_schema`); None without views."""
    if not views:
        return None
    camera = [index[name].to_numpy() for name in ("fx_px", "fy_px", "cx_px", "cy_px")]
    cameras = [_numbers(index[f"{view}_camera"], 4) for view in views]
    poses = [_numbers(index[f"{view}_pose"], 16) for view in views]
    is_timed = "time_s" in index.column_names
    return Geometry(
        camera=np.stack(camera, axis=1).astype(np.float32),
        view_cameras=np.stack(cameras, axis=1),
        view_poses=np.stack(poses, axis=1).reshape(-1, len(views), 4, 4),
        time_s=index["time_s"].to_numpy().astype(np.float64) if is_timed else np.full(index.num_rows, np.nan),
    )


def _numbers(column: Any, count: int) -> np.ndarray:
    """Returns a column of lists of `count` numbers as (n, count) float32, NaN where it is null."""
    lists = column.combine_chunks()
    numbers = np.full((len(lists), count), np.nan, np.float32)
    numbers[lists.is_valid().to_numpy(zero_copy_only=False)] = lists.flatten().to_numpy().reshape(-1, count)
    return numbers
