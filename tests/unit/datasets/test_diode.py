"""DIODE's names: what comes out of a tree is what lies in it, and what is misnamed comes back with its problem."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.datasets.diode import MEMBER_SUFFIXES, group_triplets
from depthflow.datasets.listing import SourceFile
from depthflow.errors import SourceError
from tests.stores import diode_frames

STEM = "00022_00193_indoors_010_000"
FOLDER = "indoors/scene_00022/scan_00193"
BOTH = ("train", "val")


def put(folder: Path, stem: str, *members: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for member in members or tuple(MEMBER_SUFFIXES):
        (folder / f"{stem}{MEMBER_SUFFIXES[member]}").write_bytes(b"x")


numbers = st.integers(0, 99999).map(lambda n: f"{n:05d}")
angles = st.integers(0, 999).map(lambda n: f"{n:03d}")
names = st.tuples(st.sampled_from(BOTH), st.sampled_from(["indoors", "outdoor"]), numbers, numbers, angles, angles)


@settings(deadline=None, max_examples=25)
@given(wanted=st.sets(names, min_size=1, max_size=6))
def test_every_triplet_of_the_layout_is_found(wanted):
    with tempfile.TemporaryDirectory() as root:
        for split, scene_type, scene, scan, a, b in wanted:
            folder = Path(root, split, scene_type, f"scene_{scene}", f"scan_{scan}")
            put(folder, f"{scene}_{scan}_{scene_type}_{a}_{b}")

        found = diode_frames(root, BOTH)

        got = set()
        for t in found:
            a, b = t.sample_id.split("_")[-2:]
            got.add((t.split, t.scene_type, t.scene.removeprefix("scene_"), t.scan.removeprefix("scan_"), a, b))
            folder = Path(root, t.split, t.scene_type, t.scene, t.scan)
            assert t.members == {m: str(folder / f"{t.sample_id}{suffix}") for m, suffix in MEMBER_SUFFIXES.items()}
            assert (t.problem, t.reason) == ("", "")
        assert got == wanted
        assert len(found) == len(wanted)


def test_a_known_sample(tmp_path):
    put(tmp_path / "val" / FOLDER, STEM)
    (triplet,) = diode_frames(str(tmp_path), BOTH)
    assert (triplet.sample_id, triplet.split, triplet.scene_type) == (STEM, "val", "indoors")
    assert (triplet.scene, triplet.scan) == ("scene_00022", "scan_00193")
    assert triplet.members["mask"].endswith(f"val/{FOLDER}/{STEM}_depth_mask.npy")
    assert triplet.members["depth"].endswith(f"val/{FOLDER}/{STEM}_depth.npy")


@pytest.mark.parametrize("members", [("rgb",), ("depth",), ("mask",), ("rgb", "mask"), ("depth", "mask")])
def test_an_incomplete_triplet_lists_its_existing_files(tmp_path, members):
    put(tmp_path / "train" / FOLDER, STEM, *members)
    (triplet,) = diode_frames(str(tmp_path), BOTH)
    assert set(triplet.members) == set(members)
    assert triplet.sample_id == STEM
    assert triplet.problem == ""


@pytest.mark.parametrize(
    "folder",
    [
        "outdoor/scene_00022/scan_00193",
        "indoors/scene_00021/scan_00193",
        "indoors/scene_00022/scan_00194",
        "indoors/scene_00022",
        "indoors/scene_00022/scan_00193/copy",
        "backup/indoors/scene_00022/scan_00193",
        ".",
    ],
)
def test_a_sample_in_the_wrong_folder_has_a_problem(tmp_path, folder):
    put(tmp_path / "train" / folder, STEM)
    (triplet,) = diode_frames(str(tmp_path), BOTH)
    assert triplet.sample_id == STEM
    assert len(triplet.members) == 3
    assert folder in triplet.problem
    assert FOLDER in triplet.problem
    assert triplet.reason == "bad_name"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_fails(tmp_path):
    put(tmp_path / "train" / FOLDER, STEM)
    (tmp_path / "train/outdoor").mkdir(mode=0)
    with pytest.raises(SourceError, match=r"train/outdoor cannot be read: .*permissions"):
        diode_frames(str(tmp_path), BOTH)


@pytest.mark.parametrize(
    "stem",
    [
        "photo",
        "0022_00193_indoors_010_000",
        "00022_193_indoors_010_000",
        "00022_00193_indoor_010_000",
        "00022_00193_outdoors_010_000",
        "00022_00193_indoors_10_000",
        "00022_00193_indoors_010_000_copy",
        "00022_00193_indoors_010",
    ],
)
def test_a_bad_name_has_a_problem(tmp_path, stem):
    put(tmp_path / "train" / FOLDER, stem)
    (triplet,) = diode_frames(str(tmp_path), BOTH)
    assert triplet.sample_id == stem
    assert stem in triplet.problem
    assert triplet.reason == "bad_name"
    assert len(triplet.members) == 3


def test_one_id_in_two_folders_is_two_triplets(tmp_path):
    put(tmp_path / "train" / FOLDER, STEM)
    put(tmp_path / "train" / "outdoor/scene_00022/scan_00193", STEM)
    found = diode_frames(str(tmp_path), BOTH)
    assert [t.sample_id for t in found] == [STEM, STEM]
    assert [bool(t.problem) for t in found] == [False, True]


def test_other_files_are_ignored(tmp_path):
    put(tmp_path / "train" / FOLDER, STEM)
    for name in ("camera.json", "README.md", f"{STEM}.jpg", "cover.JPG", f"{STEM}_depth.npz", "Thumbs.db"):
        (tmp_path / "train" / FOLDER / name).write_bytes(b"x")
    (triplet,) = diode_frames(str(tmp_path), BOTH)
    assert triplet.members["rgb"].endswith(f"/{STEM}.png")


@pytest.mark.parametrize(
    "hidden",
    [f"{FOLDER}/._{STEM}", f"{FOLDER}/.ipynb_checkpoints/{STEM}-checkpoint", f".Trash-1000/files/{FOLDER}/{STEM}"],
)
def test_hidden_files_are_ignored(tmp_path, hidden):
    put(tmp_path / "train" / FOLDER, STEM)
    put((tmp_path / "train" / hidden).parent, hidden.rpartition("/")[2])
    (triplet,) = diode_frames(str(tmp_path), BOTH)
    assert (triplet.sample_id, triplet.problem) == (STEM, "")


def test_a_tree_in_a_hidden_folder_is_a_tree(tmp_path):
    put(tmp_path / ".cache/diode/train" / FOLDER, STEM)
    assert [t.sample_id for t in diode_frames(f"{tmp_path}/.cache/diode", BOTH)] == [STEM]


@pytest.mark.parametrize("ending", [".PNG", ".jpg", ".jpeg", ".JPG", ".webp", ".TIF", ".tiff"])
def test_other_endings_of_an_image(tmp_path, ending):
    put(tmp_path / "train" / FOLDER, STEM, "depth", "mask")
    (tmp_path / "train" / FOLDER / f"{STEM}{ending}").write_bytes(b"x")
    (triplet,) = diode_frames(str(tmp_path), BOTH)
    assert triplet.sample_id == STEM
    assert {member: Path(path).name for member, path in triplet.members.items()} == {
        "rgb": f"{STEM}{ending}",
        "depth": f"{STEM}_depth.npy",
        "mask": f"{STEM}_depth_mask.npy",
    }


def test_a_member_that_leaves_its_folder_is_not_hidden():
    (triplet,) = group_triplets("val", [SourceFile("../..", f"{STEM}.png", "x", problem="it leaves the archive")])
    assert triplet.reason == "unsafe_member"


def test_sorted_by_split_and_id(tmp_path):
    ids = [f"00022_00193_indoors_{a}_{b}" for a in ("010", "000", "020") for b in ("030", "000")]
    for split in ("val", "train"):
        for stem in ids:
            put(tmp_path / split / FOLDER, stem.replace("00193", "00001") if split == "train" else stem)
    found = diode_frames(str(tmp_path), BOTH)
    assert [t.split for t in found] == ["train"] * 6 + ["val"] * 6
    assert [t.sample_id for t in found[6:]] == sorted(ids)


def test_other_splits_are_not_listed(tmp_path):
    put(tmp_path / "train" / FOLDER, STEM)
    put(tmp_path / "val" / FOLDER, STEM)
    assert [t.split for t in diode_frames(str(tmp_path), ("val",))] == ["val"]
    assert [t.split for t in diode_frames(str(tmp_path), BOTH)] == ["train", "val"]


@pytest.mark.parametrize("splits", [("train",), BOTH])
def test_a_source_that_is_a_split_itself(tmp_path, splits):
    put(tmp_path / "train" / FOLDER, STEM)
    (triplet,) = diode_frames(f"{tmp_path}/train/", splits)
    assert (triplet.split, triplet.sample_id, triplet.problem) == ("train", STEM, "")


def test_a_split_folder_has_no_other_split(tmp_path):
    put(tmp_path / "train" / FOLDER, STEM)
    with pytest.raises(SourceError, match="no sample of val"):
        diode_frames(str(tmp_path / "train"), ("val",))


@pytest.mark.parametrize("content", ["nothing", "empty splits", "only other files"])
def test_a_source_without_samples_fails(tmp_path, content):
    if content != "nothing":
        (tmp_path / "train" / FOLDER).mkdir(parents=True)
    if content == "only other files":
        (tmp_path / "train" / FOLDER / "notes.txt").write_text("x")
    with pytest.raises(SourceError, match=r"no sample of train or val.*--splits"):
        diode_frames(str(tmp_path), BOTH)


def test_a_missing_source_fails(tmp_path):
    with pytest.raises(SourceError, match=r"no source at .*gone.*--source"):
        diode_frames(str(tmp_path / "gone"), BOTH)


def test_a_file_is_not_a_source(tmp_path):
    (tmp_path / "train.tar.gz").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"train\.tar\.gz is not a folder\. Pass --source"):
        diode_frames(str(tmp_path / "train.tar.gz"), BOTH)


def test_samples_in_a_linked_folder_are_found(tmp_path):
    put(tmp_path / "tree/train" / FOLDER, STEM)
    put(tmp_path / "disk2/scene_00023/scan_00001", "00023_00001_indoors_000_000")
    (tmp_path / "tree/train/indoors/scene_00023").symlink_to(tmp_path / "disk2/scene_00023")
    assert len(diode_frames(str(tmp_path / "tree"), BOTH)) == 2


def test_a_folder_is_not_a_member(tmp_path):
    put(tmp_path / "train" / FOLDER, STEM)
    (tmp_path / "train" / FOLDER / "00022_00193_indoors_020_000.png").mkdir()
    assert all(Path(path).is_file() for t in diode_frames(str(tmp_path), BOTH) for path in t.members.values())


def test_a_split_folder_as_the_working_directory(tmp_path, monkeypatch):
    put(tmp_path / "train" / FOLDER, STEM)
    monkeypatch.chdir(tmp_path / "train")
    assert len(diode_frames(".", BOTH)) == 1


def test_a_split_folder_that_is_a_link(tmp_path):
    put(tmp_path / "disk2/diode_val" / FOLDER, STEM)
    (tmp_path / "val").symlink_to(tmp_path / "disk2/diode_val")
    assert len(diode_frames(str(tmp_path / "val"), BOTH)) == 1


def test_a_link_to_a_parent_folder_does_not_loop(tmp_path):
    put(tmp_path / "train" / FOLDER, STEM)
    (tmp_path / "train/indoors/again").symlink_to(tmp_path / "train")
    (tmp_path / "train/indoors/scene_00022/self").symlink_to(tmp_path / "train/indoors/scene_00022")
    assert [t.sample_id for t in diode_frames(str(tmp_path), BOTH)] == [STEM]


def test_a_broken_link_counts_as_a_file(tmp_path):
    put(tmp_path / "train" / FOLDER, STEM, "depth", "mask")
    (tmp_path / "train" / FOLDER / f"{STEM}.png").symlink_to(tmp_path / "gone")
    (triplet,) = diode_frames(str(tmp_path), BOTH)
    assert set(triplet.members) == {"rgb", "depth", "mask"}


def test_undecodable_names_are_escaped_and_their_files_read(tmp_path):
    put(tmp_path / "train" / FOLDER, "photo-\udcff")
    put(tmp_path / "train/folder-\udcfe", STEM)
    found = diode_frames(str(tmp_path), BOTH)
    assert [t.sample_id for t in found] == [STEM, "photo-\\xff"]
    assert [t.reason for t in found] == ["bad_name", "bad_name"]
    for triplet in found:
        triplet.problem.encode()
        assert all(Path(path).read_bytes() == b"x" for path in triplet.members.values())


# --- files to triplets, wherever they are ---

STEMS = (STEM, "00022_00193_indoors_020_000", "photo", "00001_00001_outdoor_000_000")
FOLDERS = (FOLDER, "outdoor/scene_00001/scan_00001", ".")
source_files = st.builds(
    lambda folder, stem, end, problem, n: SourceFile(folder, stem + end, f"path {n}", problem),
    st.sampled_from(FOLDERS),
    st.sampled_from(STEMS),
    st.sampled_from([*MEMBER_SUFFIXES.values(), ".txt", ".npy", "_depth.png.bak"]),
    st.sampled_from(["", "", "", "it is a link"]),
    st.integers(0, 10**6),
)


@given(files=st.lists(source_files, max_size=40, unique_by=lambda file: file.place), data=st.data())
def test_every_member_is_in_one_triplet_in_any_order(files, data):
    found = group_triplets("train", files)
    members = [file for file in files if file.name.endswith(tuple(MEMBER_SUFFIXES.values()))]
    assert sorted(path for t in found for path in t.members.values()) == sorted(file.place for file in members)
    by_place = {file.place: file for file in members}
    for triplet in found:
        own = {member: by_place[path] for member, path in triplet.members.items()}
        assert {file.name for file in own.values()} == {triplet.sample_id + MEMBER_SUFFIXES[m] for m in own}
        assert len({file.parent for file in own.values()}) == 1
        assert bool(triplet.problem) == bool(triplet.reason)
        assert (triplet.reason == "unsafe_member") == any(file.problem for file in own.values())
    keys = sorted((t.sample_id, sorted(t.members), t.reason == "bad_name") for t in found)
    again = group_triplets("train", data.draw(st.permutations(files)))
    if not any(file.problem for file in files):  # Which of two copies a bad one meets depends on their order.
        assert sorted((t.sample_id, sorted(t.members), t.reason == "bad_name") for t in again) == keys


def test_a_repeated_file_begins_another_triplet():
    files = [SourceFile(FOLDER, STEM + end, f"{i}{end}") for i in range(3) for end in (".png", "_depth.npy")]
    found = group_triplets("val", files)
    assert [t.members for t in found] == [{"rgb": f"{i}.png", "depth": f"{i}_depth.npy"} for i in range(3)]


def test_an_unsafe_member_takes_precedence_over_a_bad_name():
    (triplet,) = group_triplets("val", [SourceFile(".", "photo.png", "x", problem="it is a link")])
    assert (triplet.reason, triplet.problem) == ("unsafe_member", "it is a link")
