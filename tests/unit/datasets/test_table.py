"""A user's own frame table: what is read of it, what stands for what it leaves out, and how mistakes are told."""

import io
import os
import runpy
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depthflow.command import call_command, run_command
from depthflow.datasets.archive import archive_listing, scan_archive
from depthflow.datasets.camera import Camera, Intrinsics
from depthflow.datasets.frame_table import frames_of
from depthflow.datasets.frames import DepthEncoding
from depthflow.datasets.layouts import find_frames, recognised
from depthflow.datasets.listing import list_tree
from depthflow.errors import SourceError
from depthflow.store.write.config import PreprocessConfig
from depthflow.store.write.sample import SampleLayout, make_sample
from depthflow.store.write.sources import read_member
from tests.commands import ROOT
from tests.view_trees import write_pairs, write_table, write_video

BOTH = ("train", "val")
LAYOUT = SampleLayout(height=3, width=4, edge_relative_jump=0.1, edge_radius_px=0)
DEPTH_MM = np.array([[0, 1000, 1500, 2000], [500, 750, 65535, 3000], [4000, 5000, 6000, 7000]], np.uint16)


def put_frame(folder, name):
    """An image and its depth in millimetres, 3 x 4."""
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"{name}.png"), np.full((3, 4, 3), 90, np.uint8))
    cv2.imwrite(str(folder / f"{name}_mm.png"), DEPTH_MM)


@pytest.fixture
def folder(tmp_path):
    """Two frames in each of two folders."""
    for scan in ("kitchen", "hall"):
        for number in (1, 2):
            put_frame(tmp_path / scan, number)
    return tmp_path


def write_csv(folder, *lines, name="frames.csv"):
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def table_frames(location):
    return frames_of(find_frames(list_tree(str(location)), "table", BOTH))


def test_image_and_depth_are_enough(folder):
    write_csv(folder, "image,depth", "kitchen/1.png,kitchen/1_mm.png", "./hall/2.png,hall/2_mm.png")
    assert recognised(list_tree(str(folder))) == "table"
    first, second = table_frames(folder)
    assert (first.sample_id, first.scene, first.scan) == ("own/kitchen/1", "own/kitchen", "kitchen")
    assert (first.dataset, first.split, first.scene_type) == ("own", "train", "indoors")
    assert first.members == {"rgb": f"{folder}/kitchen/1.png", "depth": f"{folder}/kitchen/1_mm.png"}
    assert (first.encoding, first.camera, first.pose, first.time_s) == (DepthEncoding(), None, None, None)
    assert second.sample_id == "own/hall/2"


def test_a_pixel_at_known_metres(folder):
    csv = write_csv(
        folder,
        "depth,depth_units_per_m,image,depth_invalid,fx_px,width,height",
        "kitchen/1_mm.png,1000,kitchen/1.png,0 65535,2,4,3",
        name="mine.csv",
    )
    (frame,) = table_frames(csv)
    assert frame.camera == Camera(width=4, height=3, fx_px=2, fy_px=2, cx_px=2, cy_px=1.5)
    sample = make_sample(frame, {name: read_member(place) for name, place in frame.members.items()}, LAYOUT)
    valid = (DEPTH_MM > 0) & (DEPTH_MM < 65535)
    np.testing.assert_array_equal(sample.planes.valid_mask, valid)
    np.testing.assert_allclose(np.exp(sample.planes.log_depth)[valid], DEPTH_MM[valid] / 1000, rtol=1e-6)


def test_every_column(folder):
    pose = " ".join(str(n) for n in np.eye(4).ravel())
    put_frame(folder / "x", "mask")
    columns = {
        "dataset": "mine",
        "split": "test",
        "scene_type": "outdoor",
        "scene": "street",
        "scan": "monday",
        "sample_id": "a",
        "time_s": "1.5",
        "image": "hall/1.png",
        "depth": "hall/1_mm.png",
        "mask": "x/mask.png",
        "confidence": "x/mask_mm.png",
        "depth_units_per_m": "256",
        "depth_invalid": "0;7",
        "depth_kind": "ray",
        "depth_packing": "sun_rgbd",
        "min_confidence": "2",
        "fx_px": "10",
        "fy_px": "11",
        "cx_px": "12",
        "cy_px": "13",
        "width": "40.0",
        "height": "30",
        "depth_fx_px": "5",
        "depth_width": "20",
        "depth_height": "15",
        "pose": pose,
    }
    write_csv(folder, ",".join(columns), ",".join(columns.values()))
    (frame,) = table_frames(folder)
    got = (frame.dataset, frame.split, frame.scene_type, frame.scene, frame.scan, frame.sample_id, frame.time_s)
    assert got == ("mine", "val", "outdoor", "mine/street", "monday", "a", 1.5)
    assert {name: Path(place).name for name, place in frame.members.items()} == {
        "rgb": "1.png",
        "depth": "1_mm.png",
        "mask": "mask.png",
        "confidence": "mask_mm.png",
    }
    assert frame.encoding == DepthEncoding(
        units_per_m=256, invalid=(0, 7), kind="ray", packing="sun_rgbd", min_confidence=2
    )
    assert frame.camera == Camera(width=40, height=30, fx_px=10, fy_px=11, cx_px=12, cy_px=13)
    assert frame.depth_camera == Camera(width=20, height=15, fx_px=5, fy_px=5, cx_px=10, cy_px=7.5)
    assert frame.pose == tuple(np.eye(4).ravel())


def test_a_camera_without_resolution_is_that_of_the_image(folder):
    write_csv(folder, "image,depth,fx_px,cx_px,cy_px", "hall/1.png,hall/1_mm.png,500,320,240")
    (frame,) = table_frames(folder)
    assert frame.camera == Intrinsics(fx_px=500, fy_px=500, cx_px=320, cy_px=240)


def test_three_mistakes_are_told_by_row_and_column(folder):
    write_csv(
        folder,
        "image,depth,depth_units_per_m,scnee",
        "kitchen/1.png,kitchen/1_mm.png,1000,a",
        "kitchen/2.png,kitchen/3_mm.png,1000,a",
        "hall/1.png,hall/1_mm.png,mm,a",
    )
    with pytest.raises(SourceError) as info:
        table_frames(folder)
    lines = str(info.value).splitlines()
    assert lines == [
        f"The frame table frames.csv of {folder} has mistakes:",
        "  column scnee: it is unknown; did you mean scene?",
        "  row 2, column depth: there is no file kitchen/3_mm.png",
        "  row 3, column depth_units_per_m: mm is not a number",
    ]


def test_missing_files_alone_are_rejects(folder):
    write_csv(
        folder, "image,depth,mask", "hall/1.png,hall/9.png,", ",hall/2_mm.png,", "hall/2.png,hall/2_mm.png,no.png"
    )
    found = table_frames(folder)
    assert {frame.reason for frame in found} == {"missing_member"}
    assert [frame.problem for frame in found] == [
        "row 1, column depth: there is no file hall/9.png",
        "row 2, column image: it names no file",
        "row 3, column mask: there is no file no.png",
    ]


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("depth_units_per_m", "0", "row 1, column depth_units_per_m: 0.0 is not a positive number"),
        ("depth_units_per_m", "-1000", "is not a positive number"),
        ("width", "640.5", "row 1, column width: 640.5 is not a positive whole number"),
        ("time_s", "noon", "row 1, column time_s: noon is not a number"),
        ("time_s", "1e999", "row 1, column time_s: inf is not a finite number"),
        ("split", "training", "row 1, column split: training is none of train, val"),
        ("scene_type", "garden", "garden is none of indoors, outdoor"),
        ("depth_kind", "z", "z is none of planar, ray"),
        ("depth_invalid", "none", "row 1, column depth_invalid: none is not numbers separated by spaces"),
        ("pose", "1 0 0", "row 1, column pose: it needs 16 finite numbers"),
        ("pose", " ".join(["1e999"] * 16), "row 1, column pose: it needs 16 finite numbers"),
        ("width", "1e30", "row 1, column width: 1e+30 is not a positive whole number"),
        ("depth_units_per_m", "1e-300", "1e-300 is not a positive number between 1e-09 and 1e+09"),
        ("fx_px", "500", "row 1, column width: a camera needs fx_px, and width and height or cx_px and cy_px"),
    ],
)
def test_a_wrong_value_is_told(folder, column, value, told):
    write_csv(folder, f"image,depth,{column}", f"hall/1.png,hall/1_mm.png,{value}")
    with pytest.raises(SourceError) as info:
        table_frames(folder)
    assert told in str(info.value)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["image", "hall/1.png"], "column depth: it is missing"),
        (["image,depth,depth", "hall/1.png,a,b"], "column depth: there are several of this name"),
        (["image,depth", "hall/1.png"], "Row #2: Expected 2 columns, got 1"),
        ([""], "cannot be read"),
        (["image,depth"], r"The frame table frames\.csv of .* has no row"),
    ],
)
def test_a_wrong_table_is_told(folder, lines, told):
    write_csv(folder, *lines)
    with pytest.raises(SourceError, match=told):
        table_frames(folder)


def test_many_mistakes_are_counted(folder):
    write_csv(folder, "image,depth,time_s", *["hall/1.png,hall/1_mm.png,x"] * 50)
    with pytest.raises(SourceError, match=r"and 30 more$"):
        table_frames(folder)


def test_a_parquet_of_pandas_types(folder):
    table = pa.table(
        {
            "image": pa.array(["hall/1.png", "hall/2.png"]).dictionary_encode(),
            "depth": ["hall/1_mm.png", "hall/2_mm.png"],
            "depth_units_per_m": pa.array([1000, 1000], pa.int32()),
            "depth_invalid": [0, 65535],
            "time_s": [0.5, float("nan")],
            "pose": [[float(n) for n in range(16)], None],
            "mask": pa.nulls(2),
        }
    )
    pq.write_table(table, folder / "frames.parquet")
    first, second = table_frames(folder)
    assert (first.encoding.units_per_m, first.encoding.invalid) == (1000, (0,))
    assert (first.time_s, second.time_s) == (0.5, None)
    assert (first.pose, second.pose) == (tuple(range(16)), None)
    assert set(first.members) == {"rgb", "depth"}


def test_a_parquet_with_text_for_numbers(folder):
    table = pa.table({"image": ["hall/1.png"], "depth": ["hall/1_mm.png"], "width": [b"640"], "pose": [{"x": 1}]})
    pq.write_table(table, folder / "frames.parquet")
    with pytest.raises(SourceError, match="column pose: it must hold lists of numbers"):
        table_frames(folder)


def test_places_in_hdf5_files_count_as_there(folder):
    (folder / "all.h5").write_bytes(b"x")
    write_csv(folder, "image,depth", "all.h5#images[0],all.h5#depths[0].T", "none.h5#images[0],all.h5#depths[1]")
    first, second = table_frames(folder)
    assert first.members == {"rgb": f"{folder}/all.h5#images[0]", "depth": f"{folder}/all.h5#depths[0].T"}
    assert second.reason == "missing_member"


def test_two_tables_are_not_recognised(folder):
    write_csv(folder, "image,depth", "hall/1.png,hall/1_mm.png")
    pq.write_table(pa.table({"image": ["a"], "depth": ["b"]}), folder / "frames.parquet")
    with pytest.raises(SourceError, match=r"must have one of frames\.csv and frames\.parquet"):
        table_frames(folder)


def test_a_table_in_an_archive(folder):
    csv = write_csv(
        folder, "image,depth,depth_units_per_m", "kitchen/1.png,kitchen/1_mm.png,1000", "no.png,hall/1_mm.png,1"
    )
    archive = folder / "own.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in [csv, *sorted(folder.rglob("*.png"))]:
            tar.add(path, arcname=str(path.relative_to(folder)))
    contents = scan_archive(str(archive), str(folder / "index"), threads=1, progress=lambda name, done: None)
    listing = archive_listing(str(archive), contents)
    assert recognised(listing) == "table"
    first, second = frames_of(find_frames(listing, "table", BOTH))
    assert first.members["rgb"].startswith("kitchen/1.png@")
    assert (first.reason, second.reason) == ("", "missing_member")


def test_a_dry_run_writes_a_table_that_is_read_again(folder, capsys):
    write_csv(
        folder,
        "image,depth,depth_units_per_m,time_s",
        *(f"{scan}/{n}.png,{scan}/{n}_mm.png,1000,{n}" for scan in ("kitchen", "hall") for n in (1, 2)),
        "hall/3.png,hall/3_mm.png,1000,3",
    )
    line = ["--source", str(folder), "--out", str(folder / "out"), "--height", "3", "--width", "4", "--dry-run"]
    result = call_command(ROOT / "pipelines/preprocess.py", [*line, "--resplit", "train"])
    told = capsys.readouterr().err
    assert (result["samples"], result["rejects_by_reason"]) == (4, {"missing_member": 1})
    assert result["counts"] == {"train": {"indoors": 2}, "val": {"indoors": 2}}
    assert "layout table, 5 frames" in told
    assert told.count("layout") == 1
    assert "depth in 1/1000 m along the optical axis" in told
    assert "refused: own/hall/3: missing_member: row 5, column image: there is no file hall/3.png" in told
    assert "read: own/hall/1: median depth 3 m" in told
    assert result["frames"] == f"{folder}/out/frames.parquet"
    again = table_frames(result["frames"])
    assert sorted(frame.sample_id for frame in again) == sorted(frame.sample_id for frame in table_frames(folder))
    assert {frame.split for frame in again} == {"train", "val"}
    assert {frame.scene for frame in again} == {"own/kitchen", "own/hall"}
    assert [*Path(folder, "out").iterdir()] == [folder / "out/frames.parquet"]


def test_a_wrong_scale_is_warned_about_before_anything_is_made(folder, capsys):
    write_csv(folder, "image,depth,depth_units_per_m", "hall/1.png,hall/1_mm.png,1.001")
    line = ["--source", str(folder), "--out", str(folder / "out"), "--dry-run"]
    call_command(ROOT / "pipelines/preprocess.py", line)
    assert "looks like millimetres" in capsys.readouterr().err


def test_bytes_that_are_no_parquet(folder):
    (folder / "frames.parquet").write_bytes(io.BytesIO(b"PAR1 not").getvalue())
    with pytest.raises(SourceError, match=r"The frame table frames\.parquet of .* cannot be read"):
        table_frames(folder)


def test_a_missing_column_is_told_once(folder):
    write_csv(folder, "image", *["hall/1.png"] * 30)
    with pytest.raises(SourceError) as info:
        table_frames(folder)
    assert str(info.value).splitlines()[1:] == ["  column depth: it is missing"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n"])
def test_a_csv_of_any_spreadsheet(folder, end, separator, start):
    rows = [["image", " depth", '"scene"', "width", "fx_px"], ["hall/1.png", " hall/1_mm.png ", "007", "", "NaN"]]
    text = start + "".join(f"{separator.join(row)}\n" for row in rows)
    (folder / "frames.csv").write_bytes(text.replace("\n", end).encode())
    (frame,) = table_frames(folder)
    assert (frame.scene, frame.members["depth"]) == ("own/007", f"{folder}/hall/1_mm.png")


def test_a_cell_may_be_larger_than_a_block_of_the_reader(folder):
    write_csv(folder, "image,depth,scene", "hall/1.png,hall/1_mm.png," + "a" * 3_000_000)
    (frame,) = table_frames(folder)
    assert len(frame.scene) == len("own/") + 3_000_000


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("column", ["scene", "é"])
def test_a_csv_of_another_encoding_is_told_what_to_do(folder, encoding, column):
    (folder / "frames.csv").write_bytes(f"image,depth,{column}\nhall/1.png,hall/1_mm.png,é\n".encode(encoding))
    with pytest.raises(SourceError, match=r"Save it as CSV in UTF-8\.$"):
        table_frames(folder)


def test_a_parquet_with_numbers_that_lists_and_cameras_cannot_hold(folder):
    table = pa.table(
        {
            "image": ["hall/1.png", "hall/2.png"],
            "depth": ["hall/1_mm.png", "hall/2_mm.png"],
            "depth_invalid": [[float("nan"), 7.0], [None]],
            "pose": [[float("nan")] * 16, [None] * 16],
        }
    )
    pq.write_table(table, folder / "frames.parquet")
    with pytest.raises(SourceError) as info:
        table_frames(folder)
    assert str(info.value).splitlines()[1:] == [f"  row {n}, column pose: it needs 16 finite numbers" for n in (1, 2)]
    pq.write_table(table.drop_columns("pose"), folder / "frames.parquet")
    first, second = table_frames(folder)
    assert (first.encoding.invalid, second.encoding.invalid) == ((7.0,), ())


def test_a_parquet_with_a_column_twice_is_told(folder):
    table = pa.Table.from_arrays([pa.array(["hall/1.png"])] * 3, names=["image", "depth", "depth"])
    pq.write_table(table, folder / "frames.parquet")
    with pytest.raises(SourceError, match="column depth: there are several of this name"):
        table_frames(folder)


def test_what_is_no_file_is_missing(folder):
    (folder / "hall/folder.png").mkdir()
    (folder / "hall/broken.png").symlink_to("nowhere")
    os.mkfifo(folder / "hall/fifo.png")
    (folder / "hall/link.png").symlink_to("1.png")
    write_csv(folder, "image,depth", *(f"hall/{n}.png,hall/1_mm.png" for n in ("folder", "broken", "fifo", "link")))
    assert [frame.reason for frame in table_frames(folder)] == ["missing_member"] * 3 + [""]


def test_only_places_that_are_read_count_as_inside_a_file(folder):
    (folder / "all.h5").write_bytes(b"x")
    inside = ["all.h5#group/depth[3].T", "ALL.h5#a", "all.h5#depths[0", "all.h5#depths[-1]", "hall/1.png#depths"]
    write_csv(folder, "image,depth", *(f"hall/1.png,{place}" for place in inside))
    assert [frame.reason for frame in table_frames(folder)] == ["", *["missing_member"] * 4]


def test_mistakes_are_lines_on_stderr_whatever_the_names_hold(folder, capsys):
    write_csv(folder, "image,depth,time_s", 'hall/1.png,hall/1_mm.png,"\x1b[31ma\nb"', '"x\ny.png",hall/1_mm.png,1')
    script = runpy.run_path(str(ROOT / "pipelines/preprocess.py"), run_name="preprocess")
    assert run_command(script["main"], "", ["--source", str(folder), "--out", str(folder / "out"), "--dry-run"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: The frame table frames.csv of {folder} has mistakes:",
        r"  row 1, column time_s: \x1b[31ma\nb is not a number",
        r"  row 2, column image: there is no file x\ny.png",
    ]


def test_two_tables_in_a_folder_are_told_without_a_layout(folder):
    write_csv(folder, "image,depth", "hall/1.png,hall/1_mm.png")
    pq.write_table(pa.table({"image": ["a"], "depth": ["b"]}), folder / "frames.parquet")
    assert recognised(list_tree(str(folder))) == "table"


def test_a_dry_run_tells_what_it_refuses_when_it_reads(folder, capsys):
    write_csv(folder, "image,depth,fx_px,cx_px,cy_px", "hall/1.png,hall/1_mm.png,2,2,1.5")
    line = ["--source", str(folder), "--out", str(folder / "out"), "--dry-run"]
    assert call_command(ROOT / "pipelines/preprocess.py", line)["status"] == "rejects"
    told = capsys.readouterr().err
    assert "depth in m along the optical axis, invalid 0; camera of each image's size with fx 2, fy 2" in told
    assert "depth_units_per_m" in told


def test_a_dry_run_lists_faults_rather_than_what_the_flags_leave_out(folder, capsys):
    for number in range(40):
        put_frame(folder / "hall", number)
    rows = [f"hall/{n}.png,hall/{n}_mm.png,1000,{n}" for n in range(60)]
    write_csv(folder, "image,depth,depth_units_per_m,time_s", *rows)
    line = ["--source", str(folder), "--out", str(folder / "out"), "--dry-run", "--resplit", "time", "--gap-s", "15"]
    result = call_command(ROOT / "pipelines/preprocess.py", line)
    told = capsys.readouterr().err
    assert result["rejects_by_reason"]["missing_member"] == 20
    assert told.count("missing_member") == 20
    assert told.count("split_gap") == 1


def test_a_folder_of_no_layout_is_told_all_of_them(folder, capsys):
    line = ["--source", str(folder), "--out", str(folder / "out"), "--dry-run"]
    with pytest.raises(SourceError, match=r"fit no layout of diode, table, tum, .*your own table"):
        call_command(ROOT / "pipelines/preprocess.py", line)


def test_one_folder_is_one_scan_however_it_is_written(folder):
    put_frame(folder, "top")
    rows = [f"{start}top.png,hall/1_mm.png" for start in ("", "./", ".//./")]
    write_csv(folder, "image,depth", *rows, "./hall/1.png,hall/1_mm.png", "hall/2.png,hall/1_mm.png")
    assert [frame.scene for frame in table_frames(folder)] == ["own/own"] * 3 + ["own/hall"] * 2


def test_a_store_is_not_written_into_its_source(tmp_path):
    with pytest.raises(ValueError, match="--out must be no --source"):
        PreprocessConfig(source=(str(tmp_path),), out=f"{tmp_path}/")


def test_a_source_whose_path_no_store_can_name_is_refused(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/latin\xe9")
    with pytest.raises(ValueError, match=r"--source must be valid UTF-8: rename it\. Received: .*latin\\xe9"):
        PreprocessConfig(source=(path,), out="out")


# --- further views ---

PAIR = ("rgb", "right")
TRIPLE = ("rgb", "previous", "next")
POSE = " ".join(str(n) for n in np.eye(4).ravel())


def needing(location, *needed):
    return frames_of(find_frames(list_tree(str(location)), "table", BOTH, needed=needed))


def test_columns_of_a_pair(folder):
    columns = "image,right_image,baseline_m,right_cx_px,fx_px,width,height"
    write_csv(folder, columns, "hall/1.png,hall/2.png,0.54,321.5,500,640,480")
    (frame,) = needing(folder, *PAIR)
    assert frame.members == {"rgb": f"{folder}/hall/1.png", "right": f"{folder}/hall/2.png"}
    assert (frame.baseline_m, frame.right_cx_px, frame.reason) == (0.54, 321.5, "")


def test_columns_of_a_triple(folder):
    columns = "image,previous_image,next_image,pose,previous_pose,next_pose,next_camera"
    places = "kitchen/2.png,./kitchen/1.png,hall/1.png"
    write_csv(folder, columns, f"{places},{POSE},{POSE},{POSE},1 2 3 4", "kitchen/1.png,,,,,,")
    first, second = needing(folder, *TRIPLE)
    assert {name: Path(place).parent.name for name, place in first.members.items()} == {
        "rgb": "kitchen",
        "previous": "kitchen",
        "next": "hall",
    }
    assert first.pose == first.previous_pose == first.next_pose == tuple(np.eye(4).ravel())
    assert (first.previous_camera, first.next_camera) == (None, (1, 2, 3, 4))
    assert (second.members, second.reason) == ({"rgb": f"{folder}/kitchen/1.png"}, "")


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("baseline_m", "0", "0.0 is not a positive number between 1e-09 and 1e+09"),
        ("baseline_m", "wide", "wide is not a number"),
        ("right_cx_px", "inf", "inf is not a number"),
        ("previous_pose", "1 0 0", "it needs 16 finite numbers"),
        ("next_pose", "a b", "a b is not numbers separated by spaces"),
        ("next_camera", "1 2 3 4 5", "it needs 4 finite numbers"),
    ],
)
def test_a_wrong_value_of_a_view_is_told(folder, column, value, told):
    write_csv(folder, f"image,depth,{column}", "hall/1.png,hall/1_mm.png,", f"hall/1.png,hall/1_mm.png,{value}")
    with pytest.raises(SourceError) as info:
        table_frames(folder)
    assert str(info.value).splitlines()[1:] == [f"  row 2, column {column}: {told}"]


def test_a_missing_view_is_a_reject_where_it_is_needed(folder):
    write_csv(folder, "image,depth,right_image,next_image", "hall/1.png,hall/1_mm.png,hall/3.png,hall/4.png")
    for needed, problem in (
        (("rgb", "depth"), ""),
        (PAIR, "row 1, column right_image: there is no file hall/3.png"),
        (TRIPLE, "row 1, column next_image: there is no file hall/4.png"),
    ):
        (frame,) = needing(folder, *needed)
        assert (frame.problem, frame.reason) == (problem, "missing_member" if problem else "")


def test_depth_is_optional_where_it_is_not_needed(folder):
    """A depth is one only with the mask that its row names."""
    rows = ["hall/1_mm.png,", ",", "hall/9_mm.png,", "hall/1_mm.png,hall/9.png", "hall/1_mm.png,hall/1.png"]
    write_csv(folder, "image,depth,mask", *(f"hall/1.png,{row}" for row in rows))
    assert [[*frame.members] for frame in needing(folder, *PAIR)] == [
        ["rgb", "depth"],
        ["rgb"],
        ["rgb"],
        ["rgb"],
        ["rgb", "depth", "mask"],
    ]
    assert {frame.reason for frame in needing(folder, *PAIR)} == {""}
    assert [frame.reason for frame in table_frames(folder)] == ["", *["missing_member"] * 3, ""]


def test_a_table_of_a_dry_run_names_the_neighbours(tmp_path):
    write_video(tmp_path / "video", 5, with_depth=False)
    line = ["--source", str(tmp_path / "video"), "--out", str(tmp_path / "out"), "--dry-run", "--kind", "video"]
    result = call_command(ROOT / "pipelines/preprocess.py", line)
    assert (result["status"], result["samples"], result["rejects_by_reason"]) == ("ok", 3, {"no_neighbour": 2})
    found = needing(tmp_path / "out/frames.parquet", *TRIPLE)
    assert [frame.reason for frame in found] == ["no_neighbour", "", "", "", "no_neighbour"]
    assert [Path(frame.members["next"]).name for frame in found[1:4]] == ["2.png", "3.png", "4.png"]
    assert found[1].next_pose == found[2].pose


def test_a_dry_run_tells_how_many_views_it_understood(tmp_path, capsys):
    def told(kind):
        line = ["--source", str(tmp_path), "--out", str(tmp_path / "out"), "--dry-run", "--kind", kind]
        call_command(ROOT / "pipelines/preprocess.py", line)
        return capsys.readouterr().err

    write_video(tmp_path, 5, scans=("a", "b"), with_depth=False)
    of_video = told("video")
    assert "depth in no file; camera such as 32 x 24 with fx 32, fy 32" in of_video
    assert "triples of a frame, the one before and the one after: 6, poses of 6" in of_video
    assert "left out: 4 frames: no_neighbour" in of_video
    assert of_video.count("no depth") == 3
    rows = write_pairs(tmp_path, 4)
    del rows[1]["baseline_m"], rows[2]["right_image"], rows[3]["depth"]
    write_table(tmp_path, rows)
    of_pairs = told("stereo")
    assert "pairs: 3, baseline of 2" in of_pairs
    assert "invalid 0, in no file of 1" in of_pairs
    assert "refused: own/train/pair2/left: no_partner: it has no right image" in of_pairs
    assert "pairs" not in told("depth")
