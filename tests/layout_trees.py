"""Trees of frames in layouts other than DIODE's: written by hand, listed, and decoded."""

import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from depthflow.datasets.archive import archive_listing, open_archive, scan_archive
from depthflow.datasets.archive_member import member_span
from depthflow.datasets.decode import decode_frame
from depthflow.datasets.frame_table import frame_table
from depthflow.datasets.frame_table import frames_of as unpacked
from depthflow.datasets.layouts import LAYOUTS
from depthflow.datasets.listing import list_tree
from depthflow.store.write.sample import SampleLayout, make_sample

HEIGHT, WIDTH = 48, 64


def write_text(path, *lines):
    """Writes a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write_image(path, shape=(HEIGHT, WIDTH), key=0):
    """Writes a random image, and returns it as RGB; a JPEG only resembles it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.random.default_rng(key).integers(0, 256, (*shape, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix.lower(), rgb[..., ::-1])[1].tobytes())
    return rgb


def write_depth(path, values):
    """Writes 16-bit depth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix.lower(), np.asarray(values, np.uint16))[1].tobytes())


def depth_values(shape=(HEIGHT, WIDTH), key=0, low=500, high=9000):
    """Random 16-bit depth."""
    return np.random.default_rng(key).integers(low, high, shape, dtype=np.uint16)


def real(shared, name):
    """A folder or file of real frames; without it, the test is skipped."""
    path = shared / "frames" / name
    if not path.exists():
        pytest.skip(f"there is no {path}; set DEPTHFLOW_SHARED to the folder that holds frames/")
    return path


def fitting(listing):
    """The layouts that a source fits."""
    return [name for name, layout in LAYOUTS.items() if layout.fits(listing)]


def frames_of(root, layout, splits=("train", "val")):
    """Sample ID to frame, of a tree that must fit this layout alone."""
    listing = list_tree(str(root))
    assert fitting(listing) == [layout]
    frames = [frame for frame in LAYOUTS[layout].frames(listing) if frame.split in splits]
    for frame, packed in zip(frames, unpacked(frame_table(frames)), strict=True):
        assert packed == replace(frame, required=packed.required, reason=packed.reason, problem=packed.problem)
    found = {frame.sample_id: frame for frame in frames}
    assert len(found) == len(frames)
    return found


def archived(root, archive, layout):
    """The same of a .tar.gz of the tree, and what decodes a frame of it."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root, arcname=".")
    index = f"{archive}.gzidx"
    listing = archive_listing(str(archive), scan_archive(str(archive), index, threads=1, progress=lambda *_: None))
    assert fitting(listing) == [layout]

    def members(frame):
        spans = {member: member_span(place) for member, place in frame.members.items()}
        end = max(map(sum, spans.values()))
        with Path(index).open("rb") as file, open_archive(str(archive), file, begin=0, end=end) as read:
            return {member: read(span) for member, span in spans.items()}

    return {frame.sample_id: frame for frame in LAYOUTS[layout].frames(listing)}, members


def same_in_archive(root, archive, layout):
    """Asserts that a tree's archive holds the same frames, with the same files."""
    there, members = archived(root, archive, layout)
    here = frames_of(root, layout)
    assert there.keys() == here.keys()
    for name, frame in here.items():
        fields, wanted = vars(there[name]), vars(frame)
        assert {**fields, "members": None} == {**wanted, "members": None}
        assert members(there[name]) == contents(frame)


def contents(frame):
    """The content of a frame's files."""
    return {member: Path(place).read_bytes() for member, place in frame.members.items()}


def decoded(frame):
    """What `decode_frame` makes of it."""
    return decode_frame(
        contents(frame),
        frame.encoding,
        camera=frame.camera,
        depth_camera=frame.depth_camera,
        baseline_m=frame.baseline_m,
        right_cx_px=frame.right_cx_px,
    )


def sample(frame, height=HEIGHT, width=WIDTH):
    """The stored row, depth in metres (NaN where invalid) and image."""
    layout = SampleLayout(height=height, width=width, edge_relative_jump=0.1, edge_radius_px=2)
    made = make_sample(frame, contents(frame), layout)
    depth_m = np.where(made.planes.valid_mask, np.exp(made.planes.log_depth), np.nan)
    return made.row, depth_m, made.planes.rgb
