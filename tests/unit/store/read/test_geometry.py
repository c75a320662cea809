"""Cameras and poses of an index as arrays."""

import numpy as np
import pyarrow as pa

from depthflow.store.read.geometry import geometry_of
from depthflow.store.schema import KINDS, index_schema

POSE = [float(n) for n in range(16)]


def index(kind, *rows):
    cameras = {"fx_px": 1.0, "fy_px": 2.0, "cx_px": 3.0, "cy_px": 4.0}
    return pa.Table.from_pylist([{**cameras, **row} for row in rows], schema=index_schema(kind))


def test_no_views_no_geometry():
    assert geometry_of(index("depth", {}), KINDS["depth"]) is None


def test_views_in_order():
    rows = [
        {"previous_camera": [1, 1, 1, n], "next_camera": [2, 2, 2, n], "next_pose": POSE if n else None, "time_s": t}
        for n, t in ((0, None), (1, 2.5))
    ]
    found = geometry_of(index("video", *rows), KINDS["video"])
    assert found is not None
    np.testing.assert_array_equal(found.camera, [[1, 2, 3, 4]] * 2)
    np.testing.assert_array_equal(found.view_cameras[:, :, 3], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(found.view_cameras[:, :, 0], [[1, 2]] * 2)
    assert np.isnan(found.view_poses[:, 0]).all()
    assert np.isnan(found.view_poses[0, 1]).all()
    np.testing.assert_array_equal(found.view_poses[1, 1], np.reshape(POSE, (4, 4)))
    np.testing.assert_array_equal(found.time_s, [np.nan, 2.5])
    assert [values.dtype for values in found] == [np.float32, np.float32, np.float32, np.float64]
    one = found.take(np.array([1]))
    assert (one.camera.shape, one.view_cameras.shape, one.view_poses.shape) == ((1, 4), (1, 2, 4), (1, 2, 4, 4))


def test_an_index_in_several_chunks():
    rows = [{"right_camera": [1, 1, 1, n], "right_pose": POSE if n % 2 else None} for n in range(4)]
    parts = pa.concat_tables([index("stereo", row) for row in rows]).slice(1)
    found = geometry_of(parts, KINDS["stereo"])
    assert found is not None
    np.testing.assert_array_equal(found.view_cameras[:, 0, 3], [1, 2, 3])
    np.testing.assert_array_equal(np.isnan(found.view_poses[:, 0, 0, 0]), [False, True, False])
