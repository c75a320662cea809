"""Archives as they are, damaged, and as somebody may have made them: read where they lie, never unpacked."""

import gzip
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from depthflow.datasets.archive import (
    Contents,
    archive_identity,
    archive_listing,
    is_archive,
    open_archive,
    scan_archive,
)
from depthflow.datasets.archive_member import member_span
from depthflow.datasets.diode import MEMBER_SUFFIXES
from depthflow.errors import SourceError
from tests.archives import KINDS, pack, tar_of
from tests.stores import diode_frames, listed_frames

BOTH = ("train", "val")
STEM = "00022_00193_indoors_010_000"
FOLDER = "indoors/scene_00022/scan_00193"


def triplet_files(split="train", stem=STEM, folder=FOLDER, top=""):
    """Name to content of a triplet's three files."""
    return {f"{top}{split}/{folder}/{stem}{end}": f"{stem}{end}".encode() for end in MEMBER_SUFFIXES.values()}


def special(name, kind, target=""):
    """A member that is not a plain file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def scan(path, content, threads=2):
    """What `scan_archive` finds in these bytes; the index is beside them, at .gzidx."""
    path.write_bytes(content)
    return scan_archive(
        str(path), str(path.with_suffix(".gzidx")), threads=threads, progress=lambda name, position: None
    )


CAMERA_JSON = b'{"width": 8, "height": 6, "fx_px": 7, "fy_px": 7, "cx_px": 4, "cy_px": 3}'


def archive_frames(archive, contents, splits):
    return listed_frames(archive_listing(str(archive), contents), splits)


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "diode.tar.gz"


@pytest.fixture
def listed(archive):
    """Lists the triplets of a tar of these members."""

    def list_members(members, splits=BOTH, **kwargs) -> list:
        contents = scan(archive, gzip.compress(tar_of(members, **kwargs), 1))
        return archive_frames(archive, contents, splits)

    return list_members


def read_back(archive, triplet):
    """A triplet's members, each read by itself."""
    members = {}
    for name, (offset, size) in ((name, member_span(place)) for name, place in triplet.members.items()):
        with (
            archive.with_suffix(".gzidx").open("rb") as index,
            open_archive(str(archive), index, begin=offset, end=offset + size) as read,
        ):
            members[name] = read((offset, size))
    return members


def known(triplet):
    """All of a triplet but where its files lie."""
    return {**vars(triplet), "members": sorted(triplet.members)}


# --- what it holds ---


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree with whole triplets, some that lack files, misnamed and misplaced ones, and other files."""
    root = tmp_path_factory.mktemp("tree")
    files = {"train/README.md": b"text", "camera.json": CAMERA_JSON, "train/indoors/notes_depth.npy.txt": b"x"}
    for scene in range(1, 4):
        for view in range(3):
            folder = f"indoors/scene_{scene:05d}/scan_00001"
            files |= triplet_files("train", f"{scene:05d}_00001_indoors_{view:03d}_000", folder)
            files |= triplet_files("val", f"{scene + 10:05d}_00001_outdoor_{view:03d}_000", "outdoor" + folder[7:])
    files |= triplet_files(stem="00022_00193_indoors_020_000", folder="indoors/scene_00021/scan_00193")
    files |= {f"train/{FOLDER}/00022_00193_indoors_030_000.png": b"alone", f"val/{FOLDER}/photo_depth_mask.npy": b"x"}
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def images_first(names):
    return sorted(names, key=lambda name: (not name.endswith(".png"), name))


def shuffled(names):
    return random.Random(0).sample(sorted(names), len(names))


@pytest.mark.parametrize("order", [sorted, images_first, shuffled, lambda names: sorted(names)[::-1]])
@pytest.mark.parametrize("top", ["", "./", "diode/", "./data/diode-1.0/"])
@pytest.mark.parametrize("splits", [BOTH, ("val",)])
def test_an_archive_lists_what_its_tree_does(archive, listed, tree, order, top, splits):
    names = order([str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()])
    found = listed([(top + name, (tree / name).read_bytes()) for name in names], splits)
    wanted = diode_frames(str(tree), splits)
    assert list(map(known, found)) == list(map(known, wanted))
    for got, there in zip(found, wanted, strict=True):
        with open(there.members["rgb" if "rgb" in there.members else "mask"], "rb") as file:  # noqa: PTH123
            first = file.read()
        assert first in read_back(archive, got).values()
        assert got.members.keys() == there.members.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_archive_lists_what_its_tree_does(tmp_path, tree, kind):
    archive, index = pack(tmp_path / f"diode{kind}", tree, shuffled_files), tmp_path / "index"
    contents = scan_archive(archive, str(index), threads=1, progress=lambda name, position: None)
    index.touch()
    assert contents.camera == CAMERA_JSON
    found, wanted = archive_frames(archive, contents, BOTH), diode_frames(str(tree), BOTH)
    assert [(known(frame), frame.camera) for frame in found] == [(known(frame), frame.camera) for frame in wanted]
    for got, there in zip(found, wanted, strict=True):
        for name, place in got.members.items():
            span = member_span(place)
            with index.open("rb") as file, open_archive(archive, file, begin=span[0], end=sum(span)) as read:
                assert read(span) == Path(there.members[name]).read_bytes()


def shuffled_files(files):
    return random.Random(0).sample(files, len(files))


def test_folders_are_not_members(listed):
    folders = [special(name, tarfile.DIRTYPE) for name in ("train", f"train/{FOLDER}", f"train/{FOLDER}/x.png")]
    (found,) = listed([*folders, *triplet_files().items()])
    assert (found.sample_id, found.problem) == (STEM, "")


@pytest.mark.parametrize(
    "members", [{}, {"README.md": b"x"}, {"test/indoors/x.png": b"x"}, {f"trains/{FOLDER}/{STEM}.png": b""}]
)
def test_an_archive_without_train_and_val_is_rejected(listed, members):
    with pytest.raises(SourceError, match=r"diode\.tar\.gz holds no sample of train or val"):
        listed(members.items())


@pytest.mark.parametrize("end", ["", ".tar", ".tar.gz", ".tgz", ".zip"])
def test_the_ending_is_no_part_of_a_sources_name(end):
    listing = archive_listing(f"s3://bucket/my.target.v1{end}", Contents([], None, {}))
    assert listing.name == "my.target.v1"


def test_an_archive_without_the_split_is_rejected(listed):
    with pytest.raises(SourceError, match="no sample of val"):
        listed(triplet_files("train").items(), ("val",))


def test_a_repeated_member_begins_another_triplet(archive, listed):
    members = triplet_files()
    again = {name: content + b" again" for name, content in members.items() if name.endswith(".npy")}
    first, second = listed([*members.items(), *again.items()])
    assert (first.sample_id, second.sample_id) == (STEM, STEM)
    assert sorted(read_back(archive, first).values()) == sorted(members.values())
    assert sorted(read_back(archive, second).values()) == sorted(again.values())
    assert second.members.keys() == {"depth", "mask"}


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names(archive, listed, format):
    top = "/".join(["a-folder-with-a-name-of-some-length"] * 8) + "/"
    (found,) = listed(triplet_files(top=top).items(), format=format)
    assert (found.sample_id, found.problem) == (STEM, "")
    assert sorted(read_back(archive, found).values()) == sorted(triplet_files().values())


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_in_other_scripts_and_undecodable_names(archive, listed, format):
    found = listed(
        [
            *triplet_files(top="Tiefe-é-深度/").items(),
            (f"train/{FOLDER}/photo-\udcff.png", b"x"),
            (f"train/folder-\udcfe/{STEM}.png", b"x"),
            special(f"train/{FOLDER}/link.png", tarfile.SYMTYPE, "target-\udcfd"),
        ],
        format=format,
    )
    by_id = {(t.sample_id, t.reason) for t in found}
    assert by_id == {(STEM, ""), ("photo-\\xff", "bad_name"), (STEM, "bad_name"), ("link", "unsafe_member")}
    for text in (text for t in found for text in (t.sample_id, t.problem)):
        text.encode()  # It can be stored.


def test_progress_reports_every_name_and_position(archive):
    archive.write_bytes(gzip.compress(tar_of([special("train", tarfile.DIRTYPE), *triplet_files().items()])))
    seen = []
    index = str(archive.with_suffix(".gzidx"))
    scan_archive(str(archive), index, threads=1, progress=lambda name, position: seen.append((name, position)))
    names, positions = zip(*seen, strict=True)
    assert list(names) == ["train", *triplet_files()]
    assert list(positions) == sorted(positions)
    assert 0 < positions[-1] <= archive.stat().st_size


# --- camera.json ---


@pytest.mark.parametrize(
    ("cameras", "wanted"),
    [
        ({}, None),
        ({"camera.json": b"1"}, b"1"),
        ({"./camera.json": b"1"}, b"1"),
        ({"diode/camera.json": b"1"}, b"1"),
        ({"val/camera.json": b"1"}, b"1"),
        ({"camera.json": b"1", "val/camera.json": b"2"}, b"1"),
        ({"train/indoors/camera.json": b"3", "train/camera.json": b"2", "camera.json": b"1"}, b"1"),
        ({"my-camera.json": b"1", "camera.json.bak": b"1"}, None),
    ],
)
def test_the_least_nested_camera_counts(archive, cameras, wanted):
    assert scan(archive, gzip.compress(tar_of([*triplet_files().items(), *cameras.items()]))).camera == wanted


def test_a_camera_that_is_a_link_is_not_read(archive):
    link = special("camera.json", tarfile.SYMTYPE, "/etc/hostname")
    assert scan(archive, gzip.compress(tar_of([link, *triplet_files().items()]))).camera is None


# --- what must not be read ---

IMAGE = f"train/{FOLDER}/{STEM}.png"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (special(IMAGE, tarfile.SYMTYPE, "/etc/passwd"), "is a link to /etc/passwd"),
        (special(IMAGE, tarfile.LNKTYPE, f"train/{FOLDER}/{STEM}_depth.npy"), "is a link to train/"),
        (special(IMAGE, tarfile.FIFOTYPE), "is not a plain file"),
        (special(IMAGE, tarfile.CHRTYPE), "is not a plain file"),
        (special(IMAGE, tarfile.BLKTYPE), "is not a plain file"),
        ((f"/{IMAGE}", b"x"), f"the member's name /{IMAGE} leaves the archive"),
        ((f"../{IMAGE}", b"x"), "leaves the archive"),
        ((f"train/../{IMAGE}", b"x"), "leaves the archive"),
        (special(f"/{IMAGE}", tarfile.SYMTYPE, "x"), "leaves the archive"),
    ],
)
def test_an_unsafe_member_has_a_problem(listed, entry, message):
    others = [(name, content) for name, content in triplet_files().items() if name != IMAGE]
    found = listed([*others, entry, *triplet_files(stem="00022_00193_indoors_020_000").items()])
    (unsafe,) = (t for t in found if t.problem and STEM in t.sample_id)
    assert unsafe.reason == "unsafe_member"
    assert message in unsafe.problem
    assert [t.reason for t in found if t.sample_id.endswith("020_000")] == [""]


def test_a_large_file_is_unsafe(listed, monkeypatch):
    monkeypatch.setattr("depthflow.storage.foreign_file.MAX_FILE_BYTES", 1000)
    names = [f"val/{FOLDER}/{STEM}{end}" for end in MEMBER_SUFFIXES.values()]
    [triplet] = listed([(names[0], bytes(1000)), (names[1], bytes(1001)), (names[2], b"mask")])
    assert triplet.reason == "unsafe_member"
    assert triplet.problem == f"{names[1]} has 1001 bytes, more than 1000"


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE])
def test_a_huge_header_is_rejected_before_it_is_read(archive, kind):
    """A name of 4 GB took 12.6 GB of memory."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, 2**32
    block = header.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(SourceError, match="the header of a member has 4294967296 bytes, more than 1048576"):
        scan(archive, gzip.compress(block + bytes(3 * 2**20), 1))


def test_a_flood_of_members_is_rejected(archive, monkeypatch):
    monkeypatch.setattr("depthflow.datasets.archive._MAX_MEMBERS", 5)
    files = [(f"val/{FOLDER}/{number}.png", b"") for number in range(6)]
    assert len(scan(archive, gzip.compress(tar_of(files[:5]))).members) == 5
    with pytest.raises(SourceError, match="it has more than 5 members"):
        scan(archive, gzip.compress(tar_of(files)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_named_like_an_archive_is_a_tree(tmp_path, kind):
    (tmp_path / f"val{kind}").mkdir()
    assert not is_archive(str(tmp_path / f"val{kind}"))
    assert is_archive(str(tmp_path / "train.tar.gz")) and is_archive("s3://bucket/val.tar.gz")


def test_a_sparse_file_is_unsafe(archive, tmp_path):
    image = tmp_path / "tree" / IMAGE
    image.parent.mkdir(parents=True)
    with image.open("wb") as file:
        file.seek(2**20)
        file.write(b"end")
    subprocess.run(["tar", "-czSf", str(archive), "-C", str(tmp_path / "tree"), "train"], check=True)
    contents = scan_archive(
        str(archive), str(archive.with_suffix(".gzidx")), threads=1, progress=lambda name, position: None
    )
    (triplet,) = archive_frames(archive, contents, BOTH)
    assert (triplet.reason, triplet.sample_id) == ("unsafe_member", STEM)
    assert "not a plain file" in triplet.problem


# --- damage: never a shorter listing ---


def refused(archive, content, threads=2):
    with pytest.raises(SourceError, match=r"diode\.tar\.gz cannot be read to its end.*download\.py"):
        scan(archive, content, threads)


def incompressible(members=6, size=300_000):
    generator = np.random.default_rng(0)
    return [(f"train/{FOLDER}/{i}.png", generator.bytes(size)) for i in range(members)]


@pytest.fixture(scope="module")
def whole():
    """An archive of incompressible members: gzip stores them as they are, so that only its checksum sees damage."""
    return gzip.compress(tar_of(incompressible()), 1)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"\x1f", b"text", bytes(1000), b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_not_gzip_is_rejected(archive, content):
    refused(archive, content)


def test_an_uncompressed_tar_is_rejected(archive):
    refused(archive, tar_of(triplet_files().items()))


@pytest.mark.parametrize("content", [b"", b"text", b"x" * 512, os.urandom(10_000)])
def test_a_gzip_that_is_not_a_tar_is_rejected(archive, content):
    refused(archive, gzip.compress(content))


def test_an_empty_archive_lists_nothing(archive):
    assert scan(archive, gzip.compress(tar_of([]))) == Contents([], None, {})


def test_a_truncated_archive_is_rejected(archive, whole):
    lengths = {1, 2, 9, 10, 11, 18, 600, *range(len(whole) - 9, len(whole))}
    for length in sorted(lengths | set(random.Random(0).sample(range(len(whole)), 30))):
        refused(archive, whole[:length])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_flipped_bit_is_rejected(archive, whole, threads):
    # Bytes 4 to 9 hold time and system, and the last four the size modulo 2**32: no decompressor needs them.
    places = [0, 1, 2, 3, *range(10, 30), *range(len(whole) - 8, len(whole) - 4)]
    for place in places + random.Random(1).sample(range(30, len(whole) - 8), 30):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        if place == 3 and not damaged[3] & 0b11110:  # Of the flags, the one for text means nothing.
            continue
        refused(archive, bytes(damaged), threads)


@pytest.mark.parametrize("members", [0, 1, 3, 6])
@pytest.mark.parametrize("blocks", [0, 1, 5])
def test_a_truncated_tar_in_an_intact_gzip_is_rejected(archive, members, blocks):
    """As tar leaves it in a pipe to gzip when it is killed; with no block more, it stops between two members."""
    each = 512 + -(-300_000 // 512) * 512
    tar = tar_of(incompressible())[: each * members + 512 * blocks]
    refused(archive, gzip.compress(tar if members < 6 else tar[: each * 6], 1))


@pytest.mark.parametrize("place", [0, 100, 124, 150, 156])
@pytest.mark.parametrize("member", [0, 2, 5])
def test_a_damaged_header_in_an_intact_gzip_is_rejected(archive, place, member):
    tar = bytearray(tar_of(incompressible()))
    each = 512 + -(-300_000 // 512) * 512
    tar[member * each + place] ^= 1
    refused(archive, gzip.compress(bytes(tar), 1))


def test_a_header_of_zeros_in_an_intact_gzip_is_rejected(archive):
    tar = bytearray(tar_of(incompressible()))
    each = 512 + -(-300_000 // 512) * 512
    tar[2 * each : 2 * each + 512] = bytes(512)
    refused(archive, gzip.compress(bytes(tar), 1))


@pytest.mark.parametrize("zeros", [0, 512, 3 * 2**20])
@pytest.mark.parametrize("junk", [b"junk", tar_of(triplet_files("val").items())])
def test_data_after_the_end_of_the_tar_is_rejected(archive, zeros, junk):
    refused(archive, gzip.compress(tar_of(triplet_files().items()) + bytes(zeros) + junk, 1))


@pytest.mark.parametrize("zeros", [0, 512, 10_240, 3 * 2**20])
def test_zeros_after_the_end_are_padding(archive, zeros):
    assert len(scan(archive, gzip.compress(tar_of(triplet_files().items()) + bytes(zeros), 1)).members) == 3


@pytest.mark.parametrize("junk", [b"j", b"junk", b"\x1f\x8b", bytes(1), bytes(512), b"junk" * 1000])
def test_junk_after_the_gzip_hides_nothing(archive, whole, junk):
    """Whether it is passed over depends on its first bytes; the gzip before it is whole."""
    try:
        listed = len(scan(archive, whole + junk).members)
    except SourceError:
        return
    assert listed == 6


def test_an_archive_that_cannot_be_opened_is_rejected(archive):
    archive.mkdir()
    with pytest.raises(SourceError, match="cannot be read"):
        scan_archive(str(archive), str(archive.with_suffix(".gzidx")), threads=1, progress=lambda name, position: None)


# --- other compressors' streams ---


def concatenated(tar):
    """As pigz -i and others leave it: many gzip streams in a row."""
    return b"".join(gzip.compress(tar[i : i + 70_000], 1) for i in range(0, len(tar), 70_000))


def bgzf(tar):
    """As bgzip leaves it: blocks of at most 64 KiB that say how long they are, and an empty one."""
    return b"".join(map(_bgzf_block, [*(tar[i : i + 60_000] for i in range(0, len(tar), 60_000)), b""]))


def _bgzf_block(content):
    compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
    deflated = compressor.compress(content) + compressor.flush()
    size = (len(deflated) + 25).to_bytes(2, "little")
    trailer = zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
    return b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + size + deflated + trailer


def flushed(tar):
    """As rsyncable gzip leaves it: one stream, flushed now and then."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31)
    pieces = [
        compressor.compress(tar[i : i + 50_000]) + compressor.flush(zlib.Z_FULL_FLUSH)
        for i in range(0, len(tar), 50_000)
    ]
    return b"".join(pieces) + compressor.flush()


@pytest.mark.parametrize("compress", [concatenated, bgzf, flushed])
def test_archives_of_other_compressors_are_read_and_checked(archive, compress):
    members = incompressible()
    content = compress(tar_of(members))
    contents = scan(archive, content)
    assert [m.name for m in contents.members] == [name for name, _ in members]
    for (_, wanted), member in zip(members, contents.members, strict=True):
        span = (member.offset, member.size)
        with (
            archive.with_suffix(".gzidx").open("rb") as index,
            open_archive(str(archive), index, begin=span[0], end=sum(span)) as read,
        ):
            assert read(span) == wanted
    for place in random.Random(3).sample(range(40, len(content) - 40), 10):
        refused(archive, content[:place])
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        # A stream's own header has bytes that mean nothing.
        if content[max(0, place - 18) : place + 1].find(b"\x1f\x8b\x08") < 0:
            refused(archive, bytes(damaged))


# --- reading what has changed since ---


@pytest.mark.parametrize("change", ["cut short", "gone", "another", "damaged"])
def test_an_archive_that_changed_after_listing_is_rejected(archive, change):
    content = gzip.compress(tar_of([(IMAGE, phrases(1_000_000))]), 1)
    (member,) = scan(archive, content).members
    match change:
        case "cut short":
            archive.write_bytes(content[: len(content) // 2])
        case "gone":
            archive.unlink()
        case "another":
            archive.write_bytes(b"text" * (len(content) // 4) + b"text"[: len(content) % 4])
        case "damaged":
            archive.write_bytes(content[: len(content) // 2] + bytes(1000) + content[len(content) // 2 + 1000 :])
    with (
        archive.with_suffix(".gzidx").open("rb") as index,
        pytest.raises(SourceError, match=r"diode\.tar\.gz can no longer be read.*again"),
        open_archive(str(archive), index, begin=member.offset, end=member.offset + member.size) as read,
    ):
        read((member.offset, member.size))


def phrases(size):
    """Random bytes that repeat, so that gzip refers back to what came before."""
    generator = np.random.default_rng(0)
    words = generator.integers(0, 256, (500, 12), dtype=np.uint8)
    return words[generator.integers(0, 500, size // 12)].tobytes()


# --- the index cannot be written ---

SCAN_WITH_LITTLE_SPACE = """
import sys
from depthflow.datasets.archive import scan_archive
from depthflow.errors import SourceError
try:
    scan_archive(sys.argv[1], sys.argv[2], threads=2, progress=lambda name, position: None)
except SourceError as error:
    print(error)
"""


def limit_file_size():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def test_an_index_that_cannot_be_written_raises(archive, whole):
    archive.write_bytes(whole)
    command = [sys.executable, "-c", SCAN_WITH_LITTLE_SPACE, str(archive), str(archive.with_suffix(".gzidx"))]
    done = subprocess.run(command, preexec_fn=limit_file_size, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "index cannot be written to" in done.stdout
    assert "File too large. Free space there, or set TMPDIR" in done.stdout


# --- which state of which archive ---


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("train.tar.gz", True),
        ("/data/v1.0/val.tgz", True),
        ("s3://bucket/train.tar.gz", True),
        ("diode", False),
        ("train.tar", True),
        ("gs://bucket/train.zip", True),
        ("train.gz", False),
        ("train.tar.gz/", False),
        ("train.tar.gz.part", False),
    ],
)
def test_archives_are_recognized_by_suffix(source, wanted):
    assert is_archive(source) == wanted


def test_an_identity_depends_on_path_size_and_time(archive, tmp_path, monkeypatch):
    archive.write_bytes(b"content")
    os.utime(archive, ns=(0, 10**18))
    before = archive_identity(str(archive))
    assert archive_identity(str(archive)) == before
    monkeypatch.chdir(tmp_path)
    assert archive_identity(archive.name) == before

    others = []
    os.utime(archive, ns=(0, 10**18 + 1))
    others.append(archive_identity(str(archive)))
    archive.write_bytes(b"more content")
    os.utime(archive, ns=(0, 10**18))
    others.append(archive_identity(str(archive)))
    other = archive.with_name("other.tar.gz")
    other.write_bytes(b"content")
    os.utime(other, ns=(0, 10**18))
    others.append(archive_identity(str(other)))
    assert len({before, *others}) == 4


def test_a_missing_archive_has_no_identity(archive):
    with pytest.raises(SourceError, match=r"no archive at .*diode\.tar\.gz.*download\.py"):
        archive_identity(str(archive))
