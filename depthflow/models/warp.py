"""Warping: the bilinear sampler, and where the pixels of one camera lie in the image of another.

Everything is differentiable, and every gradient is finite for any depth, position or pose that is finite itself.
Positions are in pixels; pixel i covers [i, i + 1), so its centre is at i + 0.5.
"""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false, reportOptionalIterable=false

import keras
from keras import ops

Tensor = keras.KerasTensor

NEAREST_SHARE = 1e-6
"""A point is in front of a view if its depth there is more than this fraction of its depth in the frame."""
SMALL_ANGLE_SQUARED = 1e-8
"""Below, in rad^2, sine and cosine give way to their series, whose gradients are finite at zero."""


def bilinear_sample(image: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolates bilinearly between the four nearest pixel centres; beyond the outer centres the border repeats.

    A position at a pixel's centre returns that pixel to the last bit. The gradients by x and y are zero beyond the
    outer centres; at a centre, they are those of the pixel to the right and below. NaN is a position outside.

    Args:
        image: (B, H, W, C) float.
        x, y: (B, h, w) float, pixels.

    Returns:
        sampled: (B, h, w, C) of the dtype of image.
        inside: (B, h, w) bool, whether the position is within the outer pixel centres.

    Source: Jaderberg et al. 2015, arXiv:1506.02025, equation 5.
    """
    height, width, channels = ops.shape(image)[1:]
    left, right, across, inside_x = _neighbours(x, width)
    upper, lower, down, inside_y = _neighbours(y, height)
    pixels = ops.reshape(image, (-1, height * width, channels))
    corners = [taken(pixels, row * width + column) for row in (upper, lower) for column in (left, right)]
    across, down = ops.cast(across, image.dtype)[..., None], ops.cast(down, image.dtype)[..., None]
    above = corners[0] + across * (corners[1] - corners[0])
    below = corners[2] + across * (corners[3] - corners[2])
    return above + down * (below - above), ops.logical_and(inside_x, inside_y)


def _neighbours(place: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the pixels whose centres are before and after a position, its share of the way, and if it is inside."""
    index = ops.where(ops.isnan(place), ops.full_like(place, -1), place - 0.5)  # Pixel centres at whole numbers.
    held = ops.clip(index, 0, size - 1)
    whole = ops.stop_gradient(ops.floor(held))
    before = ops.cast(whole, "int32")
    return before, ops.minimum(before + 1, size - 1), held - whole, ops.equal(index, held)


def taken(plane: Tensor, index: Tensor) -> Tensor:
    """Returns plane[b, index[b]] for each image b, given (B, N, ...) and (B, ...) int32."""
    batch, size, *rest = ops.shape(plane)
    first = ops.reshape(ops.arange(batch, dtype="int32") * size, (-1, *[1] * (len(index.shape) - 1)))
    return ops.take(ops.reshape(plane, (-1, *rest)), index + first, axis=0)


def project(depth: Tensor, camera: Tensor, view_camera: Tensor, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns where the points that a frame's pixels show lie in the image of another view.

    x and y are the pixel's own position plus what camera and pose add to it. So equal cameras and the identity pose
    return each pixel's centre to the last bit, and small motions lose no digits.

    Args:
        depth: (B, H, W) float, metres along z. Where it is not positive, the point is not in front of the view.
        camera, view_camera: (B, 4) float: fx, fy, cx, cy in pixels.
        pose: (B, 4, 4) float: takes points of the frame's camera to the view's camera.

    Returns:
        x, y: (B, H, W) float, pixels of the view; those of the pixel itself where z is 0.
        z: (B, H, W) float, depth in the view in metres; 0 where the point is not in front of the view.

    Source: Zhou et al. 2017, arXiv:1704.07813, equation 2.
    """
    height, width = ops.shape(depth)[1:]
    u = (ops.arange(width, dtype=depth.dtype) + 0.5)[None, None, :]
    v = (ops.arange(height, dtype=depth.dtype) + 0.5)[None, :, None]
    fx, fy, cx, cy = (column[:, None, None] for column in ops.unstack(camera, 4, axis=1))
    view_fx, view_fy, view_cx, view_cy = (column[:, None, None] for column in ops.unstack(view_camera, 4, axis=1))
    ray_x, ray_y = (u - cx) / fx, (v - cy) / fy
    has_depth = depth > 0
    depth = ops.where(has_depth, depth, ops.ones_like(depth))
    inverse = 1 / depth
    # The point divided by its depth in the frame: finite at any distance.
    moved_x, moved_y, moved_z = (_entry(pose, row, ray_x, ray_y) + _of(pose, row, 3) * inverse for row in range(3))
    in_front = ops.logical_and(has_depth, moved_z > NEAREST_SHARE)
    divisor = ops.where(in_front, moved_z, ops.ones_like(moved_z))
    zero = ops.zeros_like(depth)
    slope_x = ops.where(in_front, moved_x / divisor - ray_x, zero)
    slope_y = ops.where(in_front, moved_y / divisor - ray_y, zero)
    x = u + ((view_fx / fx - 1) * (u - cx) + (view_cx - cx)) + view_fx * slope_x
    y = v + ((view_fy / fy - 1) * (v - cy) + (view_cy - cy)) + view_fy * slope_y
    return x, y, ops.where(in_front, moved_z * depth, zero)


def _of(pose: Tensor, row: int, column: int) -> Tensor:
    return pose[:, row, column][:, None, None]


def _entry(pose: Tensor, row: int, ray_x: Tensor, ray_y: Tensor) -> Tensor:
    """Returns a row of the rotated ray (x, y, 1); the rotation of the identity returns it to the last bit."""
    return _of(pose, row, 0) * ray_x + _of(pose, row, 1) * ray_y + _of(pose, row, 2)


def pose_matrix(vector: Tensor) -> Tensor:
    """Returns the rigid motion of an axis-angle vector and a translation; zeros return the identity to the last bit.

    Args:
        vector: (B, 6) float: axis times angle in radians, then translation in metres.

    Returns:
        (B, 4, 4) of the dtype of vector.

    Source: Rodrigues 1840; the parameters are those of Zhou et al. 2017, arXiv:1704.07813.
    """
    axis, translation = vector[:, :3], vector[:, 3:]
    squared = ops.sum(ops.square(axis), axis=1, keepdims=True)
    small = squared < SMALL_ANGLE_SQUARED
    angle = ops.sqrt(ops.where(small, ops.ones_like(squared), squared))
    # sin(a) / a and (1 - cos(a)) / a^2; the latter by the half angle, where nothing cancels.
    sine = ops.where(small, 1 - squared / 6, ops.sin(angle) / angle)
    cosine = ops.where(small, 0.5 - squared / 24, 0.5 * ops.square(ops.sin(angle / 2) / (angle / 2)))
    x, y, z = ops.unstack(axis, 3, axis=1)
    zero = ops.zeros_like(x)
    cross = ops.reshape(ops.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1), (-1, 3, 3))
    identity = ops.eye(3, dtype=vector.dtype)[None]
    outer = axis[:, :, None] * axis[:, None, :]
    rotation = identity + sine[:, :, None] * cross + cosine[:, :, None] * (outer - squared[:, :, None] * identity)
    return _rigid(rotation, translation)


def inverse_pose(pose: Tensor) -> Tensor:
    """Returns the inverse of rigid motions, (B, 4, 4): by the transposed rotation, so that it is one, too."""
    rotation = ops.transpose(pose[:, :3, :3], (0, 2, 1))
    return _rigid(rotation, -ops.sum(rotation * pose[:, None, :3, 3], axis=2))


def _rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    upper = ops.concatenate([rotation, translation[:, :, None]], axis=2)
    last = ops.concatenate([ops.zeros_like(translation), ops.ones_like(translation[:, :1])], axis=1)
    return ops.concatenate([upper, last[:, None]], axis=1)
