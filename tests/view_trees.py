"""Frame tables of stereo pairs and of video: a textured wall, seen by cameras that move along their x axis."""

from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH = 24, 32
FX_PX, WALL_M = 32.0, 4.0
PX_PER_FRAME = 2
"""By which the wall moves in the image from one camera to the next."""
STEP_M = PX_PER_FRAME * WALL_M / FX_PX
CAMERA = {"fx_px": FX_PX, "width": WIDTH, "height": HEIGHT}


def wall(key, height=HEIGHT, width=400):
    """A texture whose neighbouring pixels are alike."""
    noise = np.random.default_rng(key).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)


def seen_from(texture, cameras, width=WIDTH):
    """What the camera sees that many steps along its x axis."""
    left = PX_PER_FRAME * cameras
    return texture[:, left : left + width]


def write_png(path, rgb):
    """Writes an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes())


def pose_of(cameras):
    """Camera to world, 16 numbers, of the camera that many steps along x of the world; turned by 90 degrees about z."""
    matrix = np.eye(4)
    matrix[:2, :2] = [[0.0, -1.0], [1.0, 0.0]]
    matrix[:3, 3] = matrix[:3, 0] * cameras * STEP_M + (1.0, 2.0, 3.0)
    return matrix


def write_table(root, rows):
    """Writes frames.csv of rows whose values are texts, numbers or arrays."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def cell(value):
        return " ".join(map(repr, np.asarray(value).ravel().tolist())) if isinstance(value, np.ndarray) else str(value)

    lines = [",".join(names), *(",".join(cell(row.get(name, "")) for name in names) for row in rows)]
    Path(root).mkdir(parents=True, exist_ok=True)
    Path(root, "frames.csv").write_text("\n".join(lines) + "\n")
    return root


def depth_row(root, place, metres=WALL_M):
    """Writes a depth file; returns its column."""
    path = Path(root, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.full((HEIGHT, WIDTH), metres, np.float32))
    return {"depth": place}


def write_pairs(root, count, *, with_depth=True, split="train", **columns):
    """Writes rectified pairs, each of another wall and scene; returns their rows."""
    rows = []
    for number in range(count):
        texture = wall(number)
        name = f"{split}/pair{number}/left.png"
        write_png(Path(root, name), seen_from(texture, 0))
        write_png(Path(root, name.replace("left", "right")), seen_from(texture, 1))
        depth = depth_row(root, name.replace("left.png", "depth.npy")) if with_depth else {}
        row = {"image": name, "right_image": name.replace("left", "right"), "split": split, "baseline_m": STEP_M}
        rows.append({**row, **depth, **CAMERA, **columns})
    write_table(root, rows)
    return rows


def write_video(root, count, *, scans=("a",), with_depth=True, with_poses=True, split="train", **columns):
    """Writes scans of a camera that moves a step per frame; returns their rows."""
    rows = []
    for key, scan in enumerate(scans):
        texture = wall(1000 + key)
        for number in range(count):
            name = f"{scan}/{number}.png"
            write_png(Path(root, name), seen_from(texture, number))
            depth = depth_row(root, f"{scan}/{number}.npy") if with_depth else {}
            pose = {"pose": pose_of(number)} if with_poses else {}
            row = {"image": name, "scan": scan, "split": split, "time_s": number / 10}
            rows.append({**row, **depth, **pose, **CAMERA, **columns})
    write_table(root, rows)
    return rows
