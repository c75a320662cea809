"""Arrays of HDF5 files: slices of large ones in place, and depth maps that are a file of their own."""

import contextlib
import io
import resource
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.datasets.depth_files import decode_depth
from depthflow.datasets.hdf5_file import Hdf5Files, Hdf5Slice, parse_slice
from depthflow.datasets.reject import RejectError
from depthflow.errors import SourceError
from depthflow.store.write.sources import read_member

DEPTHS = np.random.default_rng(0).random((3, 5, 4), dtype=np.float32)


@pytest.fixture
def mat(tmp_path):
    """A MATLAB file, which has 512 bytes before its HDF5."""
    path = tmp_path / "set.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("depths", data=DEPTHS, chunks=(1, 5, 4), compression="gzip")
        file["group/deep"] = DEPTHS.astype(np.uint16)
        file["outside"] = h5py.ExternalLink("other.h5", "/secret")
        file["soft"] = h5py.SoftLink("/depths")
        layout = h5py.VirtualLayout((5, 4), np.float32)
        layout[:] = h5py.VirtualSource("other.h5", "secret", shape=(5, 4))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("external", (5, 4), np.float32, external=[(str(tmp_path / "raw"), 0, 80)])
        file["names"] = ["a", "b"]
        file.create_dataset("references", data=[file["depths"].ref], dtype=h5py.ref_dtype)
        file["complex"] = np.ones(3, np.complex64)
        file["empty"] = h5py.Empty("f")
        file.create_dataset("huge", (2, 2**14, 2**14 + 1), np.float64, chunks=(1, 64, 64))
        file.create_dataset("lump", (2, 4), np.float32, chunks=(2**27, 4), maxshape=(None, 4))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = DEPTHS[0]
    (tmp_path / "raw").write_bytes(bytes(80))
    return path


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("depths", DEPTHS),
        ("/depths", DEPTHS),
        ("depths[2]", DEPTHS[2]),
        ("depths[2].T", DEPTHS[2].T),
        ("depths.T", DEPTHS.T),
        ("group/deep[0]", DEPTHS[0].astype(np.uint16)),
    ],
)
def test_a_slice_is_an_npy(mat, what, expected):
    found = np.load(io.BytesIO(read_member(f"{mat}#{what}")))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["a#b.png", "c.h5#0.png", "d.mat#depths[0]", "e.mat#depths[0].T"])
def test_a_file_whose_name_looks_like_a_place_is_a_file(tmp_path, mat, name):
    (tmp_path / name).write_bytes(b"itself")
    mat.rename(tmp_path / "d.mat")
    assert read_member(str(tmp_path / name)) == b"itself"


@pytest.mark.parametrize("name", ["a#b", "x.h5", "x.h5#", "x.h5#[3]", "x.h5#d[-1]", "x.h5#d[1:2]", "x.tif#d"])
def test_what_is_no_place_of_an_array(name):
    assert parse_slice(name) is None


def test_the_parts_of_a_place():
    assert parse_slice("/a#b/X.HDF5##refs#/c[12].T") == Hdf5Slice("/a#b/X.HDF5", "#refs#/c", 12, True)
    assert parse_slice("s3://b/x.mat#d") == Hdf5Slice("s3://b/x.mat", "d", None, False)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("depths[3]", r"depths has no element 3: its shape is \(3, 5, 4\)"),
        ("nothing", "no dataset nothing"),
        ("depths/deeper", "no dataset depths/deeper"),
        ("group", "not an array"),
        ("empty", "not an array"),
        ("outside", "a link, which is not followed"),
        ("soft", "a link, which is not followed"),
        ("virtual", "lie in other files"),
        ("external", "lie in other files"),
        ("names[0]", "must be numeric"),
        ("references[0]", "must be numeric"),
        ("complex", "must be numeric"),
        ("huge[0]", "too large"),
        ("lump[0]", "has chunks of .* too large"),
    ],
)
def test_what_is_not_a_plain_array_is_a_reject(mat, what, message):
    with pytest.raises(RejectError, match=message) as caught:
        read_member(f"{mat}#{what}")
    assert caught.value.reason == "unreadable_array"


def test_a_file_that_is_gone_ends_the_run(tmp_path):
    with pytest.raises(SourceError, match=r"gone\.mat#depths\[0\] can no longer be read"):
        read_member(str(tmp_path / "gone.mat#depths[0]"))


def test_a_disk_that_fails_ends_the_run(tmp_path):
    """Linux refuses to read the first bytes of a process's memory, as a failing disk does."""
    (tmp_path / "set.mat").symlink_to("/proc/self/mem")
    with pytest.raises(SourceError, match=r"#depths\[0\] can no longer be read: (Input|Invalid)"):
        read_member(f"{tmp_path}/set.mat#depths[0]")


def test_a_file_is_opened_once(mat):
    hdf5 = Hdf5Files()
    read_member(f"{mat}#depths[0]", hdf5)
    kept = mat.rename(mat.with_name("moved"))
    assert kept.exists() and read_member(f"{mat}#depths[1]", hdf5)


@settings(deadline=None, max_examples=150)
@given(places=st.lists(st.integers(512, 20_000), min_size=1, max_size=8), seed=st.integers(0, 255), cut=st.booleans())
def test_damage_is_a_reject_or_unnoticed(tmp_path_factory, places, seed, cut):
    path = tmp_path_factory.getbasetemp() / "damaged.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("depths", data=DEPTHS, chunks=(1, 5, 4), compression="gzip")
    content = bytearray(path.read_bytes())
    for place in places:
        content[place % len(content)] ^= seed
    path.write_bytes(content[: places[0]] if cut else content)
    for read in (lambda: read_member(f"{path}#depths[1]"), lambda: decode_depth(bytes(content[512:]))):
        with contextlib.suppress(RejectError):  # Anything else fails.
            assert len(read()) > 0


def test_a_large_file_is_never_read_whole(tmp_path):
    """A slice of 1 MiB of a file of 512 MiB, in a process that may not have that much memory."""
    path = tmp_path / "large.mat"
    with h5py.File(path, "w") as file:
        file.create_dataset("depths", (512, 512, 512), np.float32)[300] = 7
    script = f"""
import numpy, resource
from depthflow.store.write.sources import read_member
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert read_member({str(path) + "#depths[300].T"!r})[-4:] == numpy.float32(7).tobytes()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    assert path.stat().st_size > 2**29 and resource.RUSAGE_SELF == 0
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True)
    assert int(done.stdout) < 40_000


# --- a whole file ---


def hdf5(**datasets) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, array in datasets.items():
            file[name] = array
    return stream.getvalue()


@pytest.mark.parametrize(
    "others", [{}, {"rgb": np.ones((5, 4, 3))}, {"depth_of": np.ones((2, 2)), "note": "text"}, {"index": np.arange(9)}]
)
@pytest.mark.parametrize("name", ["depth", "dataset"])
def test_the_depth_map_of_a_whole_file(name, others):
    np.testing.assert_array_equal(decode_depth(hdf5(**{name: DEPTHS[0]}, **others)), DEPTHS[0])


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1)])
def test_the_only_plane_of_a_file_may_have_any_name(shape):
    found = decode_depth(hdf5(z_m=DEPTHS[0].reshape(shape), rgb=np.ones((5, 4, 3)), values=np.arange(3)))
    np.testing.assert_array_equal(found.reshape(5, 4), DEPTHS[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (hdf5(a=DEPTHS[0], b=DEPTHS[0]), "none of the 2-D datasets a, b is named depth"),
        (hdf5(rgb=np.ones((5, 4, 3))), "no 2-D dataset"),
        (hdf5(depth=h5py.ExternalLink("/etc/hostname", "x")), "no 2-D dataset"),
        (hdf5(depth=DEPTHS[0])[:700], "not a plain HDF5 file"),
    ],
)
def test_a_whole_file_without_one_depth_map_is_a_reject(content, message):
    with pytest.raises(RejectError, match=message) as caught:
        decode_depth(content)
    assert caught.value.reason == "unreadable_array"


def test_a_depth_map_that_claims_to_be_huge_is_rejected_from_its_header():
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("depth", (2**16, 2**16), np.float32, chunks=(64, 64))
    with pytest.raises(RejectError, match="too large"):
        decode_depth(stream.getvalue())
