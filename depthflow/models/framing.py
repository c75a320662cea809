"""Samples of images and depth maps at places between their pixels, which differ from image to image of a batch."""

# Keras and TensorFlow type their operations loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportReturnType=false
# pyright: reportIndexIssue=false, reportOptionalSubscript=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false

import keras
from keras import ops

Tensor = keras.KerasTensor


def source_places(size: int, zoom: Tensor, centre: Tensor, *, mirrored: Tensor, points: int) -> Tensor:
    """Returns (B, points) float32, the source position of each target point, with pixel centres at whole numbers.

    At zoom 1 about the middle with a point per pixel every term is exact in float32, so that the position is the pixel
    itself.
    """
    from_middle = (ops.arange(points, dtype="float32") + 0.5 - ops.cast(points, "float32") / 2) * (size / points)
    step = (1 - 2 * mirrored) / zoom
    return (centre * ops.cast(size, "float32"))[:, None] + from_middle * step[:, None] - 0.5


def interpolated(rgb: Tensor, rows: Tensor, across: Tensor) -> Tensor:
    """Returns (B, H, W, 3) float32: bilinear between source pixels, with the edge repeated beyond the frame."""
    # Rows of the transposed image are contiguous, which halves the time of gathering single pixels.
    image = _interpolated_rows(ops.transpose(rgb, (0, 2, 1, 3)), across)
    return _interpolated_rows(ops.transpose(image, (0, 2, 1, 3)), rows)


def _interpolated_rows(image: Tensor, places: Tensor) -> Tensor:
    before = ops.floor(places)
    share = (places - before)[:, :, None, None]
    here, next_ = (ops.cast(_taken(image, _held(row, image, 1)), "float32") for row in (before, before + 1))
    return here + share * (next_ - here)


def averaged(image: Tensor, times: tuple[int, int]) -> Tensor:
    """Returns the means of blocks of (B, H, W, 3) float32, which have this height and width."""
    if times == (1, 1):
        return image
    height, width = ops.shape(image)[1:3]
    blocks = ops.reshape(image, (-1, height // times[0], times[0], width // times[1], times[1], 3))
    return ops.mean(blocks, axis=(2, 4))


def point_sampled(log_depth: Tensor, valid_mask: Tensor, rows: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
    """Returns depth and mask at the nearest source pixels, with a mask of False beyond the frame."""
    height, width = ops.shape(valid_mask)[1:]
    row, column = ops.floor(rows + 0.5), ops.floor(across + 0.5)
    row_index, column_index = _held(row, valid_mask, 1), _held(column, valid_mask, 2)
    inside = ops.logical_and(
        ops.equal(row, ops.cast(row_index, "float32"))[:, :, None],
        ops.equal(column, ops.cast(column_index, "float32"))[:, None, :],
    )
    pixel = row_index[:, :, None] * width + column_index[:, None, :]
    log_depth, valid_mask = (
        _taken(ops.reshape(plane, (-1, height * width)), pixel) for plane in (log_depth, valid_mask)
    )
    return log_depth, ops.logical_and(valid_mask, inside)


def _held(places: Tensor, plane: Tensor, axis: int) -> Tensor:
    """Returns whole positions as int32, with those beyond the frame moved to its edge."""
    return ops.cast(ops.clip(places, 0, ops.cast(ops.shape(plane)[axis] - 1, "float32")), "int32")


def _taken(plane: Tensor, index: Tensor) -> Tensor:
    """Returns plane[b, index[b]] for each image b, given (B, N, ...) and (B, ...) int32."""
    batch, size, *rest = ops.shape(plane)
    first = ops.reshape(ops.arange(batch, dtype="int32") * size, (-1, *[1] * (len(index.shape) - 1)))
    return ops.take(ops.reshape(plane, (-1, *rest)), index + first, axis=0)
