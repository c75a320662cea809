"""Official lists: what a line names, which name wins, and what is wrong with a list."""

from collections import Counter

import numpy as np
import pytest
from scipy.io import savemat

from depthflow.datasets.frames import Frame, frame_id
from depthflow.errors import SourceError, StoreError
from depthflow.store.write.plan import PlannedSample, planned_samples
from depthflow.store.write.preprocess import _require_same_shards, content_config, plan_shards
from depthflow.store.write.sources import read_tree
from depthflow.store.write.split_files import read_split_files, split_by_files
from tests.plans import packed

DRIVE, FRAME = "2011_09_26_drive_0001_sync", "0000000007"


def planned(dataset, scene, scan, name, image, *, split="train", reason=""):
    parts = (scan, name) if dataset in ("kitti", "nyu_mat") else (scene, scan, name)
    frame = Frame(
        sample_id=frame_id(dataset, *parts),
        split=split,
        scene_type="indoors",
        scene=f"{dataset}/{scene}",
        scan=scan,
        members={"rgb": image, "depth": f"{image}.depth"},
        dataset=dataset,
        reason=reason,
    )
    return PlannedSample(frame=frame, source="/data")


SAMPLES = [
    *(
        planned("scannet", "scene0001", f"scene0001_0{k}", f"{n}", f"/data/scans/scene0001_0{k}/color/{n}.jpg")
        for k in range(2)
        for n in range(3)
    ),
    *(
        planned("seven_scenes", "my chess", f"seq-0{k}", f"frame-00{n}", f"chess/seq-0{k}/frame-00{n}.color.png@{n}+9")
        for k in (1, 2)
        for n in range(2)
    ),
    *(
        planned("kitti", DRIVE, f"{DRIVE}/{camera}", FRAME, f"s3://k/raw/2011_09_26/{DRIVE}/{camera}/data/{FRAME}.png")
        for camera in ("image_02", "image_03")
    ),
    *(
        planned("nyu_mat", "kitchen", f"kitchen_{n:04d}", f"{n:04d}", f"/data/nyu.mat#images[{n - 1}].T")
        for n in (1, 12)
    ),
]
SCANNET = {s.frame.sample_id for s in SAMPLES if s.frame.dataset == "scannet"}
CHESS = {s.frame.sample_id for s in SAMPLES if s.frame.dataset == "seven_scenes"}


@pytest.fixture
def divide(tmp_path):
    """Divides by the content of files."""

    def divide(samples=SAMPLES, splits=("train", "val"), **lists):
        files = []
        for split, content in lists.items():
            path = tmp_path / f"{split}.txt"
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            files.append(f"{split}={path}")
        rows = split_by_files(packed(samples), read_split_files(files), splits)
        return [sample.frame for sample in planned_samples(rows)]

    return divide


def in_val(frames):
    assert Counter(f.sample_id for f in frames) == Counter(s.frame.sample_id for s in SAMPLES)
    return {f.sample_id for f in frames if f.split == "val" and not f.reason}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("scene0001", SCANNET),
        ("scannet/scene0001", SCANNET),
        ("scene0001_01", {f"scannet/scene0001/scene0001_01/{n}" for n in range(3)}),
        ("scannet/scene0001_01", {f"scannet/scene0001/scene0001_01/{n}" for n in range(3)}),
        ("scene0001/scene0001_01", {f"scannet/scene0001/scene0001_01/{n}" for n in range(3)}),
        ("scannet/scene0001/scene0001_01/2", {"scannet/scene0001/scene0001_01/2"}),
        ("scene0001/scene0001_01/2", {"scannet/scene0001/scene0001_01/2"}),
        ("scene0001_01/color/2.jpg", {"scannet/scene0001/scene0001_01/2"}),
        ("./scans/scene0001_01/color/2.jpg", {"scannet/scene0001/scene0001_01/2"}),
        ("/data/scans/scene0001_01/color/2.jpg other.png 518.8", {"scannet/scene0001/scene0001_01/2"}),
        ("my chess", CHESS),
        ("seven_scenes/my chess", CHESS),
        ("sequence2", {f"seven_scenes/my chess/seq-02/frame-00{n}" for n in range(2)}),
        ("my chess/seq-02/", {f"seven_scenes/my chess/seq-02/frame-00{n}" for n in range(2)}),
        ("chess/seq-02/frame-001.color.png", {"seven_scenes/my chess/seq-02/frame-001"}),
        (
            f"2011_09_26/{DRIVE}/image_03/data/{FRAME}.png {DRIVE}/proj_depth/groundtruth/image_03/{FRAME}.png 721.5",
            {f"kitti/{DRIVE}/image_03/{FRAME}"},
        ),
        (DRIVE, {f"kitti/{DRIVE}/image_0{k}/{FRAME}" for k in (2, 3)}),
        ("12", {"nyu_mat/kitchen_0012/0012"}),
        ("0012", {"nyu_mat/kitchen_0012/0012"}),
    ],
)
def test_what_a_line_names(divide, line, named):
    assert in_val(divide(val=line)) == named
    others = {s.frame.sample_id for s in SAMPLES} - named
    assert in_val(divide(train=f"\r\n# a comment\r\n\r\n  {line}  \r\n")) == others


def test_the_most_specific_name_wins(divide):
    frames = divide(train="scene0001\nscene0001/scene0001_01/2", test="scene0001_01\nkitti/" + DRIVE)
    assert in_val(frames) == {
        *(f"scannet/scene0001/scene0001_01/{n}" for n in range(2)),
        *(f"kitti/{DRIVE}/image_0{k}/{FRAME}" for k in (2, 3)),
    }


def test_a_name_of_a_scan_is_not_taken_for_a_scenes(divide):
    samples = [*SAMPLES, planned("tum", "seq-02", "a", "0", "0.png")]
    assert {f.scan for f in divide(samples, val="seq-02") if f.split == "val"} == {"seq-02"}


def test_with_both_lists_the_others_are_rejects(divide):
    samples = [*SAMPLES, planned("scannet", "scene0002", "scene0002_00", "0", "0.jpg", split="val", reason="r")]
    frames = divide(samples, train="my chess", val="scene0001_00")
    assert Counter((f.dataset, f.reason, f.split) for f in frames) == {
        ("seven_scenes", "", "train"): 4,
        ("scannet", "", "val"): 3,
        ("scannet", "not_listed", "train"): 3,
        ("scannet", "r", "val"): 1,
        ("kitti", "not_listed", "train"): 2,
        ("nyu_mat", "not_listed", "train"): 2,
    }
    assert {f.problem for f in frames if f.reason == "not_listed"} == {
        "no file of --split-file names it, its scan or its scene"
    }


def test_several_files_of_a_split(divide):
    assert in_val(divide(val="scene0001_00", test="my chess/seq-01")) == {
        *(f"scannet/scene0001/scene0001_00/{n}" for n in range(3)),
        *(f"seven_scenes/my chess/seq-01/frame-00{n}" for n in range(2)),
    }


def test_a_line_that_names_nothing_is_counted(divide, capsys):
    divide(val="scene0001\nscene0707\nscene0708 x y")
    told = capsys.readouterr().err
    assert told.startswith("2 of 3 lines of --split-file name nothing in the sources, such as 'scene0707' of ")
    divide(val="scene0001")
    assert capsys.readouterr().err == ""


def test_a_copy_of_a_frame_is_of_the_same_split(divide):
    copy = planned("scannet", "scene0001", "scene0001_00", "0", "/copy/scene0001_00/color/0.jpg", reason="duplicate")
    frames = divide([*SAMPLES, copy], val="scene0001_00/color/0.jpg\nscene0001_01")
    assert Counter(f.reason for f in frames if f.split == "val") == {"": 4, "duplicate": 1}


EVERYTHING = "\n".join(["scene0001", "my chess", DRIVE, "kitchen"])
FAULTS = {
    "no line matches": ({"val": "scene0707\nscene0708"}, r"No line .* 2 lines, such as 'scene0707' of .*val\.txt"),
    "nothing but comments": ({"val": "# none\n\n"}, r"No line .* 0 lines\. Pass lists"),
    "a frame in both": ({"train": "12", "val": "kitchen_0012/0012"}, r"names 12 and kitchen_0012/0012 for train and"),
    "a scene in both": ({"train": "scene0001", "val": "scannet/scene0001"}, r"leaves 6 frames in both, such as scan"),
    "all in train": ({"train": EVERYTHING}, r"leaves val empty.*train\.txt"),
    "not UTF-8": ({"val": b"\xff\xfe\x00"}, r"val\.txt cannot be read: .*utf-8.*Fix --split-file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_list_fails(divide, fault):
    lists, message = FAULTS[fault]
    with pytest.raises(SourceError, match=message):
        divide(**lists)


@pytest.mark.parametrize("line", [f"{FRAME}.png", "sequence1", "2.jpg", "7"])
def test_a_name_of_several_things_fails(divide, line):
    """Or a number of one scan would take the same number of every other."""
    samples = [*SAMPLES, planned("seven_scenes", "office", "seq-01", "frame-000", "office/seq-01/frame-000.color.png")]
    with pytest.raises(SourceError, match=r"--split-file names .*, which may be .+ or .+\. Write which, in full\."):
        divide(samples, val=line)


def test_a_split_that_is_not_stored_may_stay_empty(divide):
    assert len(divide(val=EVERYTHING, splits=("val",))) == len(SAMPLES)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"The split file /nowhere/val\.txt cannot be read: No such file"):
        read_split_files(["val=/nowhere/val.txt"])


def test_the_official_list_of_nyu(tmp_path, divide):
    path = tmp_path / "splits.mat"
    savemat(path, {"trainNdxs": np.array([[1]], np.uint16), "testNdxs": np.array([[12], [1449]], np.uint16)})
    train, val = read_split_files([f"train={path}", f"test={path}"])
    assert (train.split, train.lines) == ("train", ["1"])
    assert (val.split, val.lines) == ("val", ["12", "1449"])
    savemat(path, {"trainNdxs": [1]})
    content = path.read_bytes()
    for damaged in (content, content[:150], b"no mat"):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match=r"splits\.mat cannot be read: it is no splits\.mat .* with testNdxs"):
            read_split_files([f"val={path}"])


@pytest.fixture
def tree(tmp_path, write):
    write.tree(tmp_path / "tree", {"train": {"00001_00001_indoors": 5, "00001_00002_indoors": 4}})
    write.tree(tmp_path / "tree", {"val": {"00002_00003_indoors": 3}})
    return tmp_path / "tree"


def test_a_store_of_lists(tmp_path, tree, write):
    """Real frames: what is in neither list is a reject, and a list that changed is refused."""
    (tmp_path / "a").write_text("scene_00001\n")
    (tmp_path / "b").write_text("train/indoors/scene_00001/scan_00002/00001_00002_indoors_001_000.png\n")
    flags = {"split_file": (f"train={tmp_path / 'a'}", f"val={tmp_path / 'b'}")}
    store = write.store(tmp_path / "store", tree, **flags)
    assert store.manifest["counts"] == {"train": {"indoors": 8}, "val": {"indoors": 1}}
    assert store.manifest["rejects_by_reason"] == {"not_listed": 3}
    assert store.split_index("val")["sample_id"].to_pylist() == ["00001_00002_indoors_001_000"]
    assert store.manifest["config"]["resplit"] == "file"
    assert not {"split_file", "gap_s", "val_fraction"} & store.manifest["config"].keys()


def test_changed_lists_are_another_plan(tmp_path, tree, write):
    """The same lists in other words are not."""
    (tmp_path / "b").write_text("scan_00002")
    flags = {"split_file": (f"val={tmp_path / 'b'}",)}
    store = write.store(tmp_path / "store", tree, **flags)
    config = write.config(tmp_path / "store", tree, **flags)
    (tmp_path / "b").write_text("# by scan\nscene_00001/scan_00002")
    _require_same_shards(store.files, plan_shards(config, [read_tree(str(tree), config.source_splits)]))
    (tmp_path / "b").write_text("scan_00001")
    with pytest.raises(StoreError, match="begun with another configuration"):
        _require_same_shards(store.files, plan_shards(config, [read_tree(str(tree), config.source_splits)]))


def test_a_store_of_blocks_of_time(tmp_path, tree, write):
    """DIODE states no time. At 30 Hz, 0.05 s are more than one frame; 12 = 8 - 2 + 2 of val, and a short scan."""
    store = write.store(tmp_path / "store", tree, resplit="time", gap_s=0.05, val_fraction=0.25)
    assert store.manifest["counts"] == {"train": {"indoors": 6}, "val": {"indoors": 3}}
    assert store.manifest["rejects_by_reason"] == {"split_gap": 3}
    assert (store.manifest["config"]["resplit"], store.manifest["config"]["gap_s"]) == ("time", 0.05)


def test_settings_of_other_stores_are_as_before(tmp_path, tree, write):
    plain = content_config(write.config(tmp_path, tree))
    assert plain == content_config(write.config(tmp_path, tree, gap_s=7.0, val_fraction=0.5))
    assert plain.keys() == {
        "height", "width", "splits", "resplit", "seed", "shard_mib", "edge_relative_jump", "edge_radius_px"
    }  # fmt: skip
    assert content_config(write.config(tmp_path, tree, resplit="val")).keys() == {*plain, "val_fraction"}
    assert content_config(write.config(tmp_path, tree, resplit="time")).keys() == {*plain, "val_fraction", "gap_s"}
