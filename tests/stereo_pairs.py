"""A made-up rectified pair, whose disparity is known exactly, and what spoils a pair."""

import cv2
import numpy as np

HEIGHT, WIDTH = 120, 192
FAR_PX, NEAR_PX = 5, 17
"""Disparities of the background and of a square before it."""
SQUARE = slice(40, 80), slice(70, 120)
"""Where the left image shows the square."""


def texture(key, width):
    """A (HEIGHT, width, 3) uint8 image with detail everywhere."""
    noise = np.random.default_rng(key).normal(size=(HEIGHT, width, 3))
    blurred = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return np.clip(128 + 60 * blurred / blurred.std(), 0, 255).astype(np.uint8)


def pair(*, doffs=0):
    """Left, right and the disparity of the left image, as of a right camera whose principal point is doffs further."""
    far, near = texture(0, WIDTH + 64), texture(1, WIDTH + 64)
    rows, columns = SQUARE
    left = far[:, :WIDTH].copy()
    left[SQUARE] = near[SQUARE]
    right = far[:, FAR_PX : FAR_PX + WIDTH].copy()
    shifted = slice(columns.start - NEAR_PX, columns.stop - NEAR_PX)
    right[rows, shifted] = near[SQUARE]
    disparity = np.full((HEIGHT, WIDTH), FAR_PX, np.float32)
    disparity[SQUARE] = NEAR_PX
    if doffs:
        right = np.roll(right, doffs, axis=1)
    return left, right, disparity - doffs


def seen_by_both(disparity):
    """(H, W) bool, the pixels of the left image that the right one shows, too, away from the square's edges."""
    seen = np.zeros((HEIGHT, WIDTH), bool)
    seen[4:-4, NEAR_PX + 4 : -NEAR_PX - 4] = True
    edges = cv2.morphologyEx(disparity, cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
    hidden = cv2.dilate(edges.astype(np.uint8), np.ones((9, 2 * (NEAR_PX - FAR_PX) + 9)))
    return seen & (hidden == 0)


def turned(image, degrees):
    """The image turned about its centre."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)


SPOILED = {
    "turned by 2 degrees": lambda left, right: (left, turned(right, 2)),
    "left turned by -2 degrees": lambda left, right: (turned(left, -2), right),
    "5 rows down": lambda left, right: (left, np.roll(right, 5, axis=0)),
    "5 rows up": lambda left, right: (left, np.roll(right, -5, axis=0)),
    "swapped": lambda left, right: (right, left),
    "mirrored": lambda left, right: (left[:, ::-1].copy(), right[:, ::-1].copy()),
}
