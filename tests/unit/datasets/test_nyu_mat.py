"""NYU Depth v2's labelled set: read from its .mat in place."""

import h5py
import numpy as np
import pytest

from depthflow.datasets.archive import archive_listing, scan_archive
from depthflow.datasets.layouts import recognised
from depthflow.datasets.listing import list_tree
from depthflow.datasets.nyu_mat import fits, frames
from depthflow.errors import SourceError
from depthflow.store.write.sample import SampleLayout, make_sample
from depthflow.store.write.sources import read_member
from tests.archives import pack

SCENES = ["kitchen_0004", "kitchen_0028b", "nyu_office_1"]
NAME = "nyu_depth_v2_labeled.mat"
SIZE = HEIGHT, WIDTH = 12, 16
RGB = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
DEPTH_M = np.linspace(0.7, 9.9, 3 * HEIGHT * WIDTH, dtype=np.float32).reshape(3, *SIZE)


def write_mat(path, *, without="", scenes=SCENES):
    """As MATLAB writes images (H, W, 3, N) and depths (H, W, N): the axes reversed, names as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        arrays = {"images": RGB.transpose(0, 3, 2, 1), "depths": DEPTH_M.transpose(0, 2, 1)}
        for name, array in arrays.items():
            if name != without:
                file.create_dataset(name, data=array, chunks=(1, *array.shape[1:]), compression="gzip")
        references = file.create_dataset("scenes", (1, len(scenes)), dtype=h5py.ref_dtype)
        for number, scene in enumerate(scenes):
            text = file.create_dataset(f"#refs#/{number}", data=np.array([[ord(c)] for c in scene], np.uint16))
            references[0, number] = text.ref
    return path


def listed(root):
    listing = list_tree(str(root))
    assert fits(listing) and recognised(listing) == "nyu_mat"
    return list(frames(listing))


def test_the_frames_of_the_labelled_set(tmp_path):
    write_mat(tmp_path / NAME)
    (tmp_path / "splits.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    found = listed(tmp_path)
    assert [(f.sample_id, f.scene, f.scan) for f in found] == [
        ("nyu_mat/kitchen_0004/0001", "kitchen_0004", "kitchen_0004"),
        ("nyu_mat/kitchen_0028b/0002", "kitchen_0028", "kitchen_0028b"),
        ("nyu_mat/nyu_office_1/0003", "nyu_office_1", "nyu_office_1"),
    ]
    assert {(f.split, f.scene_type, f.dataset, f.problem) for f in found} == {("train", "indoors", "nyu_mat", "")}
    assert found[0].camera.cx_px == pytest.approx(325.0824, abs=1e-3)
    layout = SampleLayout(height=HEIGHT, width=WIDTH, edge_relative_jump=0.1, edge_radius_px=1)
    for number, frame in enumerate(found):
        members = {name: read_member(place) for name, place in frame.members.items()}
        sample = make_sample(frame, members, layout)
        np.testing.assert_array_equal(sample.planes.rgb, RGB[number])
        np.testing.assert_allclose(np.exp(sample.planes.log_depth), DEPTH_M[number], rtol=1e-6)
        assert sample.planes.valid_mask.all() and sample.row["rgb_xxh3"]
        assert sample.row["fx_px"] == pytest.approx(518.857901 * WIDTH / 640)


def test_a_store_of_the_labelled_set(tmp_path, write):
    (tmp_path / "tree").mkdir()
    write_mat(tmp_path / "tree" / NAME)
    store = write.store(tmp_path / "store", tmp_path / "tree", height=HEIGHT, width=WIDTH, splits=("train",))
    medians = {row["sample_id"]: row["depth_median_m"] for row in store.index.to_pylist()}
    assert medians["nyu_mat/nyu_office_1/0003"] == pytest.approx(np.median(DEPTH_M[2]), rel=1e-5)
    assert len(medians) == 3


def test_a_principal_point_of_matlab_is_moved_by_half_a_pixel(tmp_path):
    """The toolbox: x_m = (column - cx) * z / fx, where the first column is 1. Here, its centre is 0.5."""
    write_mat(tmp_path / NAME)
    camera = listed(tmp_path)[0].camera
    point = camera.unproject(np.full((480, 640), 2.0, np.float32))[99, 249]
    assert point[:2] == pytest.approx([(250 - 325.582449) * 2 / 518.857901, (100 - 253.736166) * 2 / 519.469611])


def test_a_file_of_another_name_is_taken_if_asked_for(tmp_path):
    write_mat(tmp_path / "labelled.MAT")
    assert len(list(frames(list_tree(str(tmp_path))))) == 3
    assert recognised(list_tree(str(tmp_path))) == "diode"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "not a plain HDF5 file"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "not a plain HDF5 file"),
        (lambda path: write_mat(path, without="depths"), "no dataset depths"),
        (lambda path: write_mat(path, scenes=SCENES[:2]), "2 scenes differ"),
        (lambda path: path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(2000)), "not a plain HDF5 file"),
    ],
)
def test_a_damaged_file_ends_the_listing(tmp_path, damage, message):
    damage(write_mat(tmp_path / NAME))
    with pytest.raises(SourceError, match=rf"{NAME} cannot be read as NYU .*{message}.*Fetch"):
        listed(tmp_path)


def test_in_an_archive_it_must_be_unpacked(tmp_path):
    (tmp_path / "tree").mkdir()
    write_mat(tmp_path / "tree" / NAME)
    archive = pack(tmp_path / "nyu.tar.gz", tmp_path / "tree")
    contents = scan_archive(archive, str(tmp_path / "index"), threads=1, progress=lambda name, done: None)
    listing = archive_listing(archive, contents)
    assert recognised(listing) == "nyu_mat"
    (frame,) = frames(listing)
    assert frame.reason == "packed_hdf5" and f"{NAME} cannot be read within an archive: unpack it" in frame.problem
