"""How well the views of a scene explain a frame, given its depth: photometric errors, masks, smoothness, consistency.

Values are per pixel or per image, so that sums over images are additive.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false, reportAssignmentType=false, reportCallIssue=false

from typing import NamedTuple

import keras
from keras import ops

from depthflow.models.views import Views
from depthflow.models.warp import bilinear_sample, project

Tensor = keras.KerasTensor

SSIM_WEIGHT = 0.85
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2
MEAN_EPSILON = 1e-7
"""Added to an image's mean disparity before dividing by it."""


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity over 3 x 3 windows, mirrored at the borders; exactly 1 of equal images.

    Args:
        first, second: (B, H, W, C) float, 0 to 1; H and W at least 2.

    Returns:
        (B, H, W, C), -1 to 1.

    Source: Wang et al. 2004, doi:10.1109/TIP.2003.819861, equation 13, with uniform windows as in arXiv:1609.03677.
    """
    # Apart, since the frame's own means need no gradient.
    mean_1, square_1 = ops.split(_window_means(ops.concatenate([first, first * first], axis=-1)), 2, axis=-1)
    planes = ops.concatenate([second, second * second, first * second], axis=-1)
    mean_2, square_2, product = ops.split(_window_means(planes), 3, axis=-1)
    squares, products = mean_1 * mean_1 + mean_2 * mean_2, mean_1 * mean_2
    numerator = (2 * products + SSIM_C1) * (2 * (product - products) + SSIM_C2)
    return numerator / ((squares + SSIM_C1) * (square_1 + square_2 - squares + SSIM_C2))


def _window_means(planes: Tensor) -> Tensor:
    return _window_sums(ops.pad(planes, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")) / 9


@ops.custom_gradient
def _window_sums(padded: Tensor) -> Tensor:
    """Sums 3 x 3 windows. The gradient is such a sum again, in an eighth of the time of autodiff's."""

    def gradient(*arguments: Tensor, upstream: Tensor | None = None) -> Tensor:
        (upstream,) = arguments if upstream is None else (upstream,)
        return _sums(ops.pad(upstream, ((0, 0), (2, 2), (2, 2), (0, 0))))

    return _sums(padded), gradient


def _sums(padded: Tensor) -> Tensor:
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]


def photometric_error(target: Tensor, image: Tensor) -> Tensor:
    """Returns 0.85 (1 - SSIM) / 2 + 0.15 |difference| per pixel, the mean over the channels: (B, H, W), 0 to 1.

    Args:
        target, image: (B, H, W, C) float, 0 to 1.

    Source: Godard et al. 2017, arXiv:1609.03677, equation 2.
    """
    dissimilarity = ops.clip((1 - ssim(target, image)) / 2, 0, 1)
    difference = ops.abs(target - image)
    return ops.mean(SSIM_WEIGHT * dissimilarity + (1 - SSIM_WEIGHT) * difference, axis=-1)


class Reprojection(NamedTuple):
    """How well each view explains each pixel of a frame.

    Attributes:
        error: (B, V, H, W) photometric error of the view as depth and pose warp it. A pixel whose point lies outside
            the view's frame or not in front of its camera takes `unwarped` there, which has no gradient.
        unwarped: (B, V, H, W) photometric error of the view as it is.
        x, y, z: (B, V, H, W) where the pixel's point is in the view, in pixels and metres.
        visible: (B, V, H, W) bool, whether that is in the view's frame and in front of its camera.
    """

    error: Tensor
    unwarped: Tensor
    x: Tensor
    y: Tensor
    z: Tensor
    visible: Tensor


def reprojection(depth: Tensor, image: Tensor, views: Views) -> Reprojection:
    """Warps the views to the frame and compares them with it.

    No prediction gains by moving a point out of view: it takes the error of the unwarped view, which the auto-mask
    allows to any prediction anyway. A mean over visible pixels alone would reward it, and so would an error of zero.

    Args:
        depth: (B, H, W) float, metres.
        image: (B, H, W, 3) of its dtype, the frame, 0 to 1.
        views: Of the same dtype and size, images 0 to 1.

    Source: Zhou et al. 2017, arXiv:1704.07813; Godard et al. 2019, arXiv:1806.01260, which repeats the border instead.
    """
    count, (height, width) = views.images.shape[1], ops.shape(depth)[1:]
    images = ops.reshape(views.images, (-1, height, width, 3))
    target = ops.repeat(image, count, axis=0)
    x, y, z = project(
        ops.repeat(depth, count, axis=0),
        ops.repeat(views.camera, count, axis=0),
        ops.reshape(views.view_cameras, (-1, 4)),
        ops.reshape(views.poses, (-1, 4, 4)),
    )
    warped, inside = bilinear_sample(images, x, y)
    visible = ops.logical_and(inside, z > 0)
    unwarped = ops.stop_gradient(photometric_error(target, images))
    error = ops.where(visible, photometric_error(target, warped), unwarped)
    planes = (error, unwarped, x, y, z, visible)
    return Reprojection(*(ops.reshape(plane, (-1, count, height, width)) for plane in planes))


def over_views(
    error: Tensor, unwarped: Tensor, *, min_reprojection: bool = True, auto_mask: bool = True
) -> tuple[Tensor, Tensor]:
    """Returns one error per pixel, and where it is that of the warped views.

    The auto-mask leaves out pixels that look no worse without any warp, such as those that move with the camera: there
    the error is that of the unwarped views, and the gradient zero. A tie is masked, so that nothing is drawn at random.

    Args:
        error, unwarped: (B, V, H, W) float, as in `Reprojection`.
        min_reprojection: Take the view that explains the pixel best, so that occlusion in one view does not count.
            Otherwise, the mean over the views.
        auto_mask: Whether to mask.

    Returns:
        per_pixel: (B, H, W) float.
        counted: (B, H, W) bool.

    Source: Godard et al. 2019, arXiv:1806.01260, equations 4 and 5.
    """
    best, best_unwarped = ((ops.min if min_reprojection else ops.mean)(plane, axis=1) for plane in (error, unwarped))
    if not auto_mask:
        return best, ops.ones_like(best, dtype="bool")
    counted = best < best_unwarped
    return ops.where(counted, best, ops.stop_gradient(best_unwarped)), counted


def smoothness(disparity: Tensor, image: Tensor) -> Tensor:
    """Edge-aware smoothness of each image's disparity, divided by its mean: the mean step across plus the one down.

    Args:
        disparity: (B, H, W) float, > 0, of any scale.
        image: (B, H, W, 3) of its dtype, 0 to 1.

    Returns:
        (B,).

    Source: Godard et al. 2019, arXiv:1806.01260, equation 3; the mean of Wang et al. 2018, arXiv:1712.00175.
    """
    disparity = disparity / (ops.mean(disparity, axis=(1, 2), keepdims=True) + MEAN_EPSILON)
    down = ops.abs(disparity[:, 1:] - disparity[:, :-1])
    across = ops.abs(disparity[:, :, 1:] - disparity[:, :, :-1])
    edge_down = ops.mean(ops.abs(image[:, 1:] - image[:, :-1]), axis=-1)
    edge_across = ops.mean(ops.abs(image[:, :, 1:] - image[:, :, :-1]), axis=-1)
    return sum(
        ops.mean(step * ops.exp(-edge), axis=(1, 2)) for step, edge in ((down, edge_down), (across, edge_across))
    )


def consistency(warp: Reprojection, view_disparity: Tensor, view_camera: Tensor, pose: Tensor) -> Tensor:
    """Left-right consistency: |disparity of a point - disparity predicted for the pixel of the view that shows it|.

    Disparities are fractions of the image's width, as the view's camera and the distance of the two cameras give them.
    A pixel that is not visible in the view adds nothing.

    Args:
        warp: From the frame to its one view.
        view_disparity: (B, H, W) float, 1 / metres, predicted for the view.
        view_camera: (B, 4) float.
        pose: (B, 4, 4) float.

    Returns:
        (B,), the mean over all pixels.

    Source: Godard et al. 2017, arXiv:1609.03677, equation 4.
    """
    visible, z = warp.visible[:, 0], warp.z[:, 0]
    predicted = bilinear_sample(view_disparity[..., None], warp.x[:, 0], warp.y[:, 0])[0][..., 0]
    difference = ops.abs(1 / ops.where(visible, z, ops.ones_like(z)) - predicted)
    difference = ops.where(visible, difference, ops.zeros_like(difference))
    baseline = ops.sqrt(ops.sum(ops.square(ops.stop_gradient(pose[:, :3, 3])), axis=1))
    return ops.mean(difference, axis=(1, 2)) * baseline * view_camera[:, 0] / ops.shape(view_disparity)[2]
