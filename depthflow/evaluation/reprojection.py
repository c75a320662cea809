"""How well the further views of an image, warped by a predicted depth, explain it: what reports show of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from depthflow.store.read.geometry import Geometry


class Reprojected(NamedTuple):
    """An image as its further views show it, given its depth.

    Attributes:
        warped: View to (H, W, 3) uint8, the view warped to the image; black where it does not show a pixel's point.
        error: (H, W) float32, photometric error of the view that explains a pixel best; NaN where none shows its point.
        counted: (H, W) bool, False where the auto-mask leaves a pixel out.
    """

    warped: Mapping[str, np.ndarray]
    error: np.ndarray
    counted: np.ndarray


def reprojected(
    rgb: np.ndarray, depth_m: np.ndarray, *, views: np.ndarray, geometry: Geometry, names: Sequence[str]
) -> Reprojected | None:
    """Warps the views of one image whose poses are known.

    Args:
        rgb: (H, W, 3) uint8.
        depth_m: (H, W) float, metres, since poses are in metres; a point without positive depth is seen by no view.
        views: (V, H, W, 3) uint8.
        geometry: Of this one image.
        names: V names of the views.

    Returns:
        What the views show; None if no pose is known.
    """
    from keras import ops  # Takes seconds.

    from depthflow.models.photometric import over_views, reprojection
    from depthflow.models.views import Views
    from depthflow.models.warp import bilinear_sample

    tensor: Any = ops.convert_to_tensor
    known = np.flatnonzero(np.isfinite(geometry.view_poses[0]).all(axis=(1, 2)))
    if not len(known):
        return None
    frame, images = (pixels.astype(np.float32) / 255 for pixels in (rgb, views[known]))
    placed = Views(
        images=tensor(images[None]),
        camera=tensor(geometry.camera),
        view_cameras=tensor(geometry.view_cameras[:, known]),
        poses=tensor(geometry.view_poses[:, known]),
    )
    depth = np.nan_to_num(depth_m.astype(np.float32), posinf=0.0)
    warp: Any = reprojection(tensor(depth[None]), tensor(frame[None]), placed)
    warped: Any = bilinear_sample(tensor(images), warp.x[0], warp.y[0])[0]
    visible, shown = np.asarray(warp.visible[0]), np.asarray(warped).clip(0, 1)
    error, counted = (np.asarray(plane)[0] for plane in over_views(warp.error, warp.unwarped))
    seen = visible.any(axis=0)
    return Reprojected(
        warped={
            names[view]: np.round(255 * np.where(visible[k][..., None], shown[k], 0)).astype(np.uint8)
            for k, view in enumerate(known.tolist())
        },
        error=np.where(seen, error, np.nan).astype(np.float32),
        counted=counted & seen,
    )
