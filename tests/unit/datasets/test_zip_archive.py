"""Zips as they are, damaged, and as somebody may have made them: read where they lie, never unpacked."""

import contextlib
import io
import os
import random
import stat
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from depthflow.datasets.archive import Contents, archive_listing, open_archive, scan_archive
from depthflow.errors import SourceError
from tests.archives import zip_of

NAME = "train/a.png"


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "frames.zip"


@pytest.fixture
def scan(archive):
    """Lists a zip of these bytes."""

    def scan_bytes(content):
        archive.write_bytes(content)
        return scan_archive(str(archive), "", threads=1, progress=lambda name, position: None)

    return scan_bytes


@pytest.fixture
def read(archive):
    """Reads a member by itself."""

    def read_member(member):
        span = (member.offset, member.size)
        with open_archive(str(archive), io.BytesIO(), begin=span[0], end=sum(span)) as read_span:
            return read_span(span)

    return read_member


def info(name=NAME, mode=0, compression=zipfile.ZIP_DEFLATED):
    """A header of a member."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr, entry.compress_type = mode << 16, compression
    return entry


def in_both_headers(content, changes, number=0):
    """The zip with fields of a member's local and central header overwritten.

    Args:
        changes: Field to value: flags, method, crc, compressed or size.
    """
    fields = {"flags": (6, "<H"), "method": (8, "<H"), "crc": (14, "<L"), "compressed": (18, "<L"), "size": (22, "<L")}
    changed, local, central = bytearray(content), -1, -1
    for _ in range(number + 1):
        local, central = content.index(b"PK\3\4", local + 1), content.index(b"PK\1\2", central + 1)
    for field, value in changes.items():
        place, format = fields[field]
        struct.pack_into(format, changed, local + place, value)
        struct.pack_into(format, changed, central + place + 2, value)
    return bytes(changed)


# --- what it holds ---


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_back(scan, read, compression):
    members = {NAME: b"image" * 100, "train/b.png": b"", "val/c.png": random.Random(0).randbytes(5000)}
    found = scan(zip_of([("train/", b""), *members.items()], compression)).members
    assert {member.name: (read(member), member.problem) for member in found} == {
        name: (content, "") for name, content in members.items()
    }


def test_a_span_is_the_headers_offset_and_the_compressed_size(scan):
    content = zip_of([(NAME, bytes(1000)), ("train/b.png", b"b")])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        wanted = [(entry.header_offset, entry.compress_size) for entry in archive.infolist()]
    assert [(member.offset, member.size) for member in scan(content).members] == wanted


def test_members_come_in_the_order_of_their_offsets(scan):
    content = bytearray(zip_of([("train/a.png", b"1"), ("train/b.png", b"2")]))
    first, second = content.index(b"PK\1\2"), content.rindex(b"PK\1\2")
    end = content.index(b"PK\5\6")
    content[first:end] = content[second:end] + content[first:second]
    assert [member.name for member in scan(bytes(content)).members] == ["train/a.png", "train/b.png"]


def test_a_repeated_member_is_another(scan, read):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = scan(zip_of([(NAME, b"first"), (NAME, b"second")])).members
    assert [(member.name, read(member)) for member in found] == [(NAME, b"first"), (NAME, b"second")]


def test_texts_and_the_least_nested_camera(scan, archive):
    camera = b'{"width": 8, "height": 6, "fx_px": 7, "fy_px": 7, "cx_px": 4, "cy_px": 3}'
    contents = scan(
        zip_of([("a/b/camera.json", b"no"), ("a/camera.json", camera), ("a/pose.txt", b"1 2"), (NAME, b"")])
    )
    assert (contents.camera, list(contents.texts.values())) == (camera, [b"no", camera, b"1 2"])
    listing = archive_listing(str(archive), contents)
    assert (listing.name, listing.camera.width) == ("frames", 8)
    (pose,) = (file for file in listing.files if file.name == "pose.txt")
    assert listing.text(pose) == "1 2"


def test_names_that_are_not_utf8_are_escaped(scan):
    content = zip_of([("Tiefe-é.png", b"marked"), ("b-12.png", b""), ("c-3.png", b"")])
    content = content.replace(b"b-12", b"b-\xc3\xa9").replace(b"c-3", b"c-\xff")  # UTF-8 without its mark, and neither.
    assert [member.name for member in scan(content).members] == ["Tiefe-é.png", "b-é.png", "c-\\xff.png"]


def test_zip64(scan, read, monkeypatch):
    members = [(f"{number}.png", bytes([number]) * 1000) for number in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 100)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in members:
                with archive.open(name, "w", force_zip64=True) as member:
                    member.write(content)
    assert b"PK\6\6" in stream.getvalue()  # The end record of zip64.
    assert [(member.name, read(member)) for member in scan(stream.getvalue()).members] == members


def test_an_empty_zip_lists_nothing(scan):
    assert scan(zip_of([])) == Contents([], None, {})


def test_a_zip_behind_other_bytes_is_read(scan, read):
    (member,) = scan(b"a program that unpacks it" + zip_of([(NAME, b"image")])).members
    assert (member.offset, read(member)) == (25, b"image")


# --- what must not be read ---


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (info(mode=stat.S_IFREG | 0o644), ""),
        (info(mode=0o644), ""),
        (info(mode=stat.S_IFLNK | 0o777), f"{NAME} is a link"),
        (info(mode=stat.S_IFIFO), f"{NAME} is not a plain file"),
        (info(mode=stat.S_IFCHR), f"{NAME} is not a plain file"),
        (info(compression=zipfile.ZIP_BZIP2), f"{NAME} is compressed by method 12; store or deflate it"),
        (info(compression=zipfile.ZIP_LZMA), f"{NAME} is compressed by method 14; store or deflate it"),
        (info(f"/{NAME}"), f"the member's name /{NAME} leaves the archive"),
        (info(f"train/../../{NAME}"), f"the member's name train/../../{NAME} leaves the archive"),
    ],
)
def test_an_unsafe_member_has_a_problem(scan, entry, problem):
    assert [member.problem for member in scan(zip_of([(entry, b"/etc/passwd"), ("b.png", b"")])).members] == [
        problem,
        "",
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"flags": 1}, f"{NAME} is encrypted"),
        ({"flags": 0x41}, f"{NAME} is encrypted"),
        ({"method": 93}, f"{NAME} is compressed by method 93; store or deflate it"),
        ({"size": 2**30 + 1}, f"{NAME} has {2**30 + 1} bytes, more than {2**30}"),
    ],
)
def test_a_header_of_what_is_not_read(scan, changes, problem):
    (member,) = scan(in_both_headers(zip_of([(NAME, b"image")]), changes)).members
    assert member.problem == problem


def test_a_text_with_a_problem_or_too_many_bytes_is_not_read(scan, monkeypatch):
    monkeypatch.setattr("depthflow.datasets.archive._MAX_TEXT_BYTES", 1000)
    link = info("link.txt", mode=stat.S_IFLNK)
    assert scan(zip_of([("long.txt", bytes(1001)), (link, b"/etc/passwd"), ("b.txt", bytes(1000))])).texts == {
        2: bytes(1000)
    }


def test_texts_of_many_bytes_in_total_are_rejected(scan, monkeypatch):
    monkeypatch.setattr("depthflow.datasets.archive._MAX_TEXTS_BYTES", 1000)
    texts = [(f"{number}.txt", bytes(500)) for number in range(3)]
    assert len(scan(zip_of(texts[:2])).texts) == 2
    with pytest.raises(SourceError, match="its text files have more than 1000 bytes"):
        scan(zip_of(texts))


def test_a_flood_of_members_is_rejected(scan, monkeypatch):
    monkeypatch.setattr("depthflow.datasets.archive._MAX_MEMBERS", 2)
    with pytest.raises(SourceError, match="it has more than 2 members"):
        scan(zip_of((f"{number}.png", b"") for number in range(3)))


def test_a_large_directory_is_rejected_before_it_is_read(scan, monkeypatch):
    monkeypatch.setattr("depthflow.datasets.zip_archive._MAX_DIRECTORY_BYTES", 2**17)
    members = [(f"{number:0100d}.png", b"") for number in range(1000)]
    with pytest.raises(SourceError, match=r"its directory has 1\d\d000 bytes, more than 131072"):
        scan(zip_of(members))
    assert len(scan(zip_of(members[:500])).members) == 500


def test_members_that_overlap_are_rejected(scan):
    """As in a decompression bomb, in which a few bytes belong to thousands of members."""
    content = bytearray(zip_of([(NAME, bytes(1000)), ("train/b.png", bytes(1000))]))
    struct.pack_into("<L", content, content.rindex(b"PK\1\2") + 42, 0)
    with pytest.raises(SourceError, match="overlaps what follows"):
        scan(bytes(content))


@pytest.mark.parametrize("size", [10**4, 2**32 - 2])
def test_a_member_beyond_the_end_is_rejected(scan, size):
    with pytest.raises(SourceError, match=r"train/a\.png overlaps what follows"):
        scan(in_both_headers(zip_of([(NAME, b"x")]), {"compressed": size}))


# --- lies about sizes ---


def test_a_bomb_is_decompressed_to_its_stated_size_alone(scan, read):
    """64 MiB of zeros that are said to be ten bytes: no more is decompressed, and the checksum tells."""
    (member,) = scan(in_both_headers(zip_of([(NAME, bytes(2**26))]), {"size": 10})).members
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="Bad CRC-32"):
            read(member)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [5, 11, 2**20, 2**30])
def test_a_member_of_another_size_than_stated_is_an_error(scan, read, size, compression):
    (member,) = scan(in_both_headers(zip_of([(NAME, b"ten bytes.")], compression), {"size": size})).members
    with pytest.raises(SourceError, match=r"frames\.zip can no longer be read: (Bad CRC-32|10 of \d+ bytes)"):
        read(member)


# --- damage: a SourceError, never a traceback ---


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"text", bytes(1000), b"PK\x03\x04" + bytes(100), b"PK\5\6" + bytes(17)]
)
def test_a_file_that_is_no_zip_is_rejected(scan, content):
    with pytest.raises(SourceError, match=r"frames\.zip cannot be read to its end.*not a zip"):
        scan(content)


@pytest.fixture(scope="module")
def whole():
    generator = np.random.default_rng(0)
    return zip_of([(f"train/{number}.png", generator.bytes(300) + bytes(300)) for number in range(6)])


def test_a_truncated_zip_is_rejected(scan, whole):
    for length in range(0, len(whole), 7):
        with pytest.raises(SourceError, match="cannot be read to its end"):
            scan(whole[:length])


def test_damage_is_an_error_or_a_problem_or_harmless(scan, read, whole):
    """Each member that can be read has its own content: there is a checksum. Names and times have none."""
    wanted = [read(member) for member in scan(whole).members]
    draw = random.Random(0)
    for place in draw.sample(range(len(whole)), 300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        try:
            members = scan(bytes(damaged)).members
        except SourceError:
            continue
        for member in members:
            with contextlib.suppress(SourceError):
                assert member.problem or read(member) in wanted


@pytest.mark.parametrize("value", [0, 0x7F, 0xFF])
def test_directories_of_any_content(scan, read, whole, value):
    start = whole.index(b"PK\1\2")
    for place in range(start, len(whole), 2):
        for length in (1, 4, 8):
            damaged = bytearray(whole)
            damaged[place : place + length] = bytes([value]) * min(length, len(whole) - place)
            with contextlib.suppress(SourceError):
                for member in scan(bytes(damaged)).members:
                    if not member.problem:
                        read(member)


@pytest.mark.parametrize("change", ["cut short", "gone", "another", "damaged"])
def test_a_zip_that_changed_after_listing_is_rejected(scan, read, archive, change):
    content = zip_of([(NAME, os.urandom(10_000))])
    (member,) = scan(content).members
    match change:
        case "cut short":
            archive.write_bytes(content[:5000])
        case "gone":
            archive.unlink()
        case "another":
            archive.write_bytes(zip_of([(NAME, os.urandom(9_000))]))
        case "damaged":
            archive.write_bytes(content[:5000] + bytes(100) + content[5100:])
    with pytest.raises(SourceError, match=r"frames\.zip can no longer be read.*again"):
        read(member)
