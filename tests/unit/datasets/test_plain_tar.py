"""Plain tars: what differs from compressed ones, whose rules hold for both."""

import gzip
import io
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from depthflow.datasets.archive import Contents, open_archive, scan_archive
from depthflow.errors import SourceError
from tests.archives import KINDS, pack, tar_of

MEMBERS = [(f"train/{number}.png", random.Random(number).randbytes(3000)) for number in range(6)]
EACH = 512 + 3072
"""Bytes of a member and its header."""


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "frames.tar"


def scan(archive, content, progress=lambda name, position: None):
    archive.write_bytes(content)
    return scan_archive(str(archive), str(archive.with_suffix(".gzidx")), threads=1, progress=progress)


def read(archive, member):
    span = (member.offset, member.size)
    with open_archive(str(archive), io.BytesIO(), begin=span[0], end=sum(span)) as read_span:
        return read_span(span)


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_read_back_without_an_index(archive, format):
    members = [*MEMBERS, ("train/empty.png", b""), *([("train/" + "é" * 200, b"long")] if format else [])]
    found = scan(archive, tar_of(members, format)).members
    assert [(member.name, read(archive, member)) for member in found] == members
    assert not archive.with_suffix(".gzidx").exists()


def test_an_empty_tar_lists_nothing(archive):
    assert scan(archive, tar_of([])) == Contents([], None, {})


def test_progress_goes_through_the_file(archive):
    seen = []
    scan(archive, tar_of(MEMBERS), lambda name, position: seen.append((name, position)))
    assert seen == [(name, 512 + EACH * number) for number, (name, _) in enumerate(MEMBERS)]


def refused(archive, content, message="download"):
    with pytest.raises(SourceError, match=rf"frames\.tar cannot be read to its end: .*{message}"):
        scan(archive, content)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"x" * 512, gzip.compress(tar_of(MEMBERS)), b"PK\x03\x04" + bytes(1000)]
)
def test_a_file_that_is_not_a_tar_is_rejected(archive, content):
    refused(archive, content)


def test_a_truncated_tar_is_rejected(archive):
    content = tar_of(MEMBERS)
    for length in [*range(0, EACH * 6 + 1, 512), *random.Random(0).sample(range(EACH * 6), 50)]:
        refused(archive, content[:length])


@pytest.mark.parametrize("place", [0, 100, 124, 150, 156])
@pytest.mark.parametrize("member", [0, 2, 5])
def test_a_damaged_header_is_rejected(archive, place, member):
    content = bytearray(tar_of(MEMBERS))
    content[member * EACH + place] ^= 1
    refused(archive, bytes(content))


def test_data_after_the_end_is_rejected(archive):
    refused(archive, tar_of(MEMBERS) + tar_of(MEMBERS), "is not a member")


def test_a_huge_header_is_rejected_before_it_is_read(archive):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**32
    refused(archive, header.tobuf(tarfile.GNU_FORMAT) + bytes(10_240), "has 4294967296 bytes, more than 1048576")


@pytest.mark.timeout(60)  # A size below 0 once led back to the same member, for ever.
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [-1, -512, -513, -1024, 2**63 - 100, 2**70, 2**87])
@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_a_size_that_no_file_has_is_rejected(tmp_path, kind, size, ending):
    header = bytearray(tar_of(MEMBERS[:1])[:512])
    header[124:136] = bytes([0xFF if size < 0 else 0x80]) + (size % 2**88).to_bytes(11, "big")
    header[148:157] = b"        " + kind
    header[148:156] = b"%06o\0 " % sum(header)
    content = tar_of(MEMBERS)[:EACH] + bytes(header) + bytes(10_240)
    archive = tmp_path / f"frames{ending}"
    archive.write_bytes(gzip.compress(content) if ending == ".tar.gz" else content)
    with pytest.raises(SourceError, match="cannot be read to its end"):
        scan_archive(str(archive), str(tmp_path / "index"), threads=1, progress=lambda name, position: None)


@pytest.mark.parametrize("change", ["cut short", "gone", "another", "text"])
def test_a_tar_that_changed_after_listing_is_rejected(archive, change):
    content = tar_of(MEMBERS)
    member = scan(archive, content).members[3]
    match change:
        case "cut short":
            archive.write_bytes(content[: member.offset + 1000])
        case "gone":
            archive.unlink()
        case "another":
            archive.write_bytes(tar_of([("train/0.png", bytes(7)), *MEMBERS]))
        case "text":
            archive.write_bytes(b"text" * len(content))
    with pytest.raises(SourceError, match=r"frames\.tar can no longer be read.*again"):
        read(archive, member)


@pytest.mark.parametrize("kind", KINDS)
def test_many_read_one_archive_at_once(tmp_path, kind):
    for name, content in MEMBERS:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(content)
    archive, index = pack(tmp_path / f"frames{kind}", tmp_path / "tree"), tmp_path / "index"
    index.touch()
    spans = [m[1:3] for m in scan_archive(archive, str(index), threads=1, progress=lambda name, done: None).members]

    def read_all(_):
        with index.open("rb") as handle, ExitStack() as stack:
            begin, end = spans[0][0], sum(spans[-1])
            return [stack.enter_context(open_archive(archive, handle, begin=begin, end=end))(span) for span in spans]

    with ThreadPoolExecutor(4) as pool:
        assert all(found == [content for _, content in MEMBERS] for found in pool.map(read_all, range(8)))
