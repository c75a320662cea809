"""One sample, from its files' bytes to a shard's row and back: nothing of it is blended, shifted or lost."""

import dataclasses
import io

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.datasets.camera import DIODE_CAMERA, Camera
from depthflow.datasets.frames import Frame
from depthflow.datasets.reject import RejectError
from depthflow.store.schema import PLANE_DTYPES, ROW_SCHEMA, shard_schema
from depthflow.store.write.planes import point_sample_index
from depthflow.store.write.sample import SampleLayout, from_batch, make_sample, to_table

CAMERA = Camera(width=80, height=60, fx_px=100.0, fy_px=90.0, cx_px=40.0, cy_px=30.0)


def png(image):
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def triplet(sample_id="00001_00002_outdoor_003_000", camera=None):
    scene, scan, scene_type = sample_id.split("_")[:3]
    return Frame(
        sample_id=sample_id,
        split="val",
        scene_type=scene_type,
        scene=f"scene_{scene}",
        scan=f"scan_{scan}",
        members={"rgb": "a", "depth": "b", "mask": "c"},
        camera=camera,
    )


def layout_of(height, width, **changes):
    defaults = {"height": height, "width": width, "edge_relative_jump": 0.1, "edge_radius_px": 1}
    return SampleLayout(**{**defaults, **changes})


def frame_of(seed, height, width, valid_share=0.7):
    """(rgb, depth_m, mask): every depth another one, garbage where invalid."""
    generator = np.random.default_rng(seed)
    rgb = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    depth = generator.permutation(np.geomspace(0.02, 1000, height * width)).astype(np.float32).reshape(height, width)
    mask = (generator.random((height, width)) < valid_share).astype(np.float32)
    garbage = np.array([0.0, -1.0, np.nan, np.inf, 1e30], np.float32)
    return rgb, np.where(mask > 0, depth, generator.choice(garbage, mask.shape)), mask


def members_of(rgb, depth, mask):
    return {"rgb": png(rgb), "depth": npy(depth[..., None]), "mask": npy(mask)}


def through_parquet(samples, height, width):
    """The samples as a shard would give them back."""
    schema = shard_schema(height=height, width=width, metadata={})
    stream = io.BytesIO()
    pq.write_table(to_table(samples, schema), stream)
    table = pq.read_table(stream)
    return [from_batch(table.slice(i, 1).combine_chunks().to_batches()[0]) for i in range(table.num_rows)]


sides = st.integers(1, 19)


@settings(max_examples=60)
@given(h=sides, w=sides, height=sides, width=sides, seed=st.integers(0, 2**16), share=st.sampled_from([0.1, 0.6, 1.0]))
def test_every_stored_depth_is_a_source_pixels_and_every_mask_is_exact(h, w, height, width, seed, share):
    rgb, depth, mask = frame_of(seed, h, w, share)
    sampled = point_sample_index((h, w), height=height, width=width)
    valid = mask[sampled] > 0
    members = members_of(rgb, depth, mask)
    if not valid.any():
        with pytest.raises(RejectError, match="no_valid_pixel"):
            make_sample(triplet(), members, layout_of(height, width))
        return

    made = make_sample(triplet(), members, layout_of(height, width))
    (stored,) = through_parquet([made], height, width)

    np.testing.assert_array_equal(stored.planes.valid_mask, valid)
    depth_m = np.exp(stored.planes.log_depth.astype(np.float64))
    source = np.sort(depth[mask > 0].astype(np.float64))
    for value, own in zip(depth_m[valid], depth[sampled][valid], strict=True):
        nearest = source[np.abs(source - value).argmin()]
        assert abs(value - nearest) <= 1e-4 * nearest
        assert nearest == own  # Not only some pixel's but its own: the source's depths are further apart than that.
    assert not stored.planes.log_depth[~valid].any()
    if (h, w) == (height, width):
        np.testing.assert_array_equal(stored.planes.rgb, rgb)
    assert stored.row == made.row


def test_samples_come_back_in_order_each_with_its_own_planes_and_row():
    ids = [f"0000{i}_0000{j}_indoors_{i:03d}_00{j}" for i in range(3) for j in range(3)]
    samples = [
        make_sample(triplet(name), members_of(*frame_of(i, 7, 9)), layout_of(7, 9)) for i, name in enumerate(ids)
    ]
    stored = through_parquet(samples, 7, 9)
    assert [s.row["sample_id"] for s in stored] == ids
    for i, (before, after) in enumerate(zip(samples, stored, strict=True)):
        assert after.row == before.row
        assert set(after.row) == set(ROW_SCHEMA.names)
        np.testing.assert_array_equal(after.planes.rgb, frame_of(i, 7, 9)[0])
        for name, dtype in PLANE_DTYPES.items():
            got, wanted = getattr(after.planes, name), getattr(before.planes, name)
            assert got.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(got, wanted)


def test_planes_taken_from_a_batch_are_views_of_it():
    sample = make_sample(triplet(), members_of(*frame_of(0, 8, 8)), layout_of(8, 8))
    (batch,) = to_table([sample], shard_schema(height=8, width=8, metadata={})).to_batches()
    addresses = {batch.column(name).buffers()[1].address for name in PLANE_DTYPES}
    planes = vars(from_batch(batch).planes)
    assert {plane.__array_interface__["data"][0] for plane in planes.values()} == addresses
    assert not any(plane.flags.writeable for plane in planes.values())


def test_a_batch_that_an_older_version_staged_is_of_diode():
    sample = make_sample(triplet(), members_of(*frame_of(0, 8, 8)), layout_of(8, 8))
    (batch,) = to_table([sample], shard_schema(height=8, width=8, metadata={})).drop_columns(["dataset"]).to_batches()
    assert from_batch(batch).row == sample.row


def test_a_row_states_the_triplets_names_and_checksums():
    members = members_of(*frame_of(0, 6, 8))
    row = make_sample(triplet(camera=CAMERA), members, layout_of(3, 4)).row
    wanted = {"sample_id": "00001_00002_outdoor_003_000", "split": "val", "scene_type": "outdoor"}
    wanted |= {"dataset": "diode", "scene": "scene_00001", "scan": "scan_00002", "source_height": 6, "source_width": 8}
    assert row.items() >= wanted.items()
    assert [row[k] for k in ("fx_px", "fy_px", "cx_px", "cy_px")] == pytest.approx([5.0, 4.5, 2.0, 1.5])
    assert len({row[f"{name}_xxh3"] for name in ("rgb", "depth", "mask", "content")}) == 4


def test_a_frame_of_diodes_size_has_diodes_camera():
    rgb, depth, mask = np.zeros((768, 1024, 3), np.uint8), np.ones((768, 1024), np.float32), np.ones((768, 1024))
    row = make_sample(triplet(), members_of(rgb, depth, mask), layout_of(256, 256)).row
    stored = DIODE_CAMERA.resized(height=256, width=256)
    assert [row[k] for k in ("fx_px", "fy_px", "cx_px", "cy_px")] == [
        stored.fx_px,
        stored.fy_px,
        stored.cx_px,
        stored.cy_px,
    ]


@pytest.mark.parametrize("change", ["rgb", "depth", "mask", "camera", "edges", "size"])
def test_the_content_checksum_depends_on_every_plane_and_the_camera(change):
    rgb, depth, mask = frame_of(0, 6, 8, valid_share=1.0)
    before = make_sample(triplet(camera=CAMERA), members_of(rgb, depth, mask), layout_of(6, 8)).row
    camera, layout = CAMERA, layout_of(6, 8)
    match change:
        case "rgb":
            rgb[0, 0, 0] ^= 1
        case "depth":
            depth[0, 0] *= 1.001
        case "mask":
            mask[0, 0] = 0
        case "camera":
            camera = dataclasses.replace(CAMERA, cx_px=41.0)
        case "edges":
            layout = layout_of(6, 8, edge_relative_jump=1e6)
        case "size":
            layout = layout_of(8, 6)
    after = make_sample(triplet(camera=camera), members_of(rgb, depth, mask), layout).row
    assert after["content_xxh3"] != before["content_xxh3"]
    files = [name for name in ("rgb", "depth", "mask") if after[f"{name}_xxh3"] != before[f"{name}_xxh3"]]
    assert files == ([change] if change in ("rgb", "depth", "mask") else [])


def test_the_content_checksum_does_not_depend_on_file_bytes():
    rgb, depth, mask = frame_of(0, 6, 8)
    first = members_of(rgb, depth, mask)
    other = {
        "rgb": cv2.imencode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes(),
        "depth": npy(depth.astype(np.float64)),
        "mask": npy(mask > 0),
    }
    a, b = (make_sample(triplet(), members, layout_of(6, 8)).row for members in (first, other))
    assert a["content_xxh3"] == b["content_xxh3"]
    assert all(a[f"{name}_xxh3"] != b[f"{name}_xxh3"] for name in other)


def test_an_arrow_table_of_samples_needs_no_copy_of_depthflow_to_be_read():
    sample = make_sample(triplet(), members_of(*frame_of(0, 6, 8)), layout_of(6, 8))
    table = to_table([sample], shard_schema(height=6, width=8, metadata={}))
    assert table["rgb"][0].as_py() == sample.planes.rgb.tobytes()
    assert table.schema.field("rgb").type == pa.binary(6 * 8 * 3)
