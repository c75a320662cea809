"""A part of a gzip index serves its range as the whole one does."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import rapidgzip
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.datasets.gzip_index import slice_index

HEADER = struct.Struct("<5sBBQQIII")
SIZE = 18_000_000
"""Some seek points: rapidgzip sets one about every 4 MiB of compressed bytes."""


def phrases(generator, size):
    """Random bytes that repeat, so that decompression cannot start in the middle without what came before."""
    words = generator.integers(0, 256, (4000, 16), dtype=np.uint8)
    return words[generator.integers(0, len(words), size // 16)].tobytes()


def streams(content):
    """Several gzip streams in a row, in which some seek points need nothing that came before."""
    return b"".join(gzip.compress(content[i : i + 2_500_000], 1) for i in range(0, len(content), 2_500_000))


class Case:
    """Content, compressed to a file, and its index."""

    def __init__(self, root, name, content, compressed):
        self.content, self.path = content, str(root / name)
        Path(self.path).write_bytes(compressed)
        with rapidgzip.open(self.path, parallelization=2) as stream:
            while stream.read(2**22):
                pass
            stream.export_index(f"{self.path}.gzidx")
        self.index = Path(f"{self.path}.gzidx").read_bytes()

    def read(self, index, begin, end):
        """A range, by such an index."""
        with rapidgzip.open(self.path, parallelization=1) as stream:
            stream.import_index(index)
            stream.seek(begin)
            return stream.read(end - begin)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    root = tmp_path_factory.mktemp("gzip")
    generator = np.random.default_rng(0)
    repeating = phrases(generator, SIZE)
    incompressible = generator.bytes(SIZE)
    mixed = phrases(generator, SIZE // 2) + generator.bytes(SIZE // 4) + phrases(generator, SIZE // 4)
    return {
        "repeating": Case(root, "repeating", repeating, gzip.compress(repeating, 1)),
        "incompressible": Case(root, "incompressible", incompressible, gzip.compress(incompressible, 1)),
        "mixed": Case(root, "mixed", mixed, gzip.compress(mixed, 1)),
        "streams": Case(root, "streams", mixed, streams(mixed)),
        "tiny": Case(root, "tiny", b"tiny", gzip.compress(b"tiny")),
    }


def points_of(index):
    """(offset, has_window) of each seek point."""
    count = HEADER.unpack(index[: HEADER.size])[-1]
    table = struct.iter_unpack("<QQBB", index[HEADER.size : HEADER.size + 18 * count])
    return [(offset, has_window) for _, offset, _, has_window in table]


def test_the_cases_have_points_with_and_without_windows(cases):
    for name in ("repeating", "incompressible", "mixed", "streams"):
        assert len(points_of(cases[name].index)) >= 4, name
    assert sum(has_window for _, has_window in points_of(cases["repeating"].index)) >= 3
    kinds = {has_window for _, has_window in points_of(cases["mixed"].index)[1:]}
    assert kinds == {0, 1}


@settings(max_examples=40)
@given(data=st.data(), name=st.sampled_from(["repeating", "incompressible", "mixed", "streams", "tiny"]))
def test_a_range_is_read_with_its_part_of_the_index(cases, data, name):
    case = cases[name]
    edges = [offset + shift for offset, _ in points_of(case.index) for shift in (-1, 0, 1)]
    places = st.one_of(st.integers(0, len(case.content)), st.sampled_from(edges)).map(
        lambda place: min(max(place, 0), len(case.content))
    )
    begin, end = sorted((data.draw(places), data.draw(places)))
    part = slice_index(io.BytesIO(case.index), begin=begin, end=end)
    # Its two ends and a place within, not all that lies between: that would take long.
    for a in (begin, max(begin, end - 500_000), (begin + end) // 2):
        b = min(end, a + 500_000)
        assert case.read(part, a, b) == case.content[a:b]
        part.seek(0)


def test_many_members_are_read_in_order_with_one_part(cases):
    case = cases["repeating"]
    begin, end = 5_000_000, 14_000_000
    with rapidgzip.open(case.path, parallelization=1) as stream:
        stream.import_index(slice_index(io.BytesIO(case.index), begin=begin, end=end))
        for a in [*range(begin, end - 1000, 700_000), begin, end - 1000, begin + 1]:  # And back.
            stream.seek(a)
            assert stream.read(1000) == case.content[a : a + 1000]


def test_a_part_holds_only_the_points_of_its_range(cases):
    case = cases["repeating"]
    whole = points_of(case.index)
    (low, _), (high, _) = whole[2], whole[3]
    part = slice_index(io.BytesIO(case.index), begin=low, end=high).getvalue()
    assert points_of(part) == [whole[0], whole[2], whole[3]]
    assert HEADER.unpack(part[: HEADER.size])[:-1] == HEADER.unpack(case.index[: HEADER.size])[:-1]
    assert len(part) == HEADER.size + 3 * 18 + 2 * 32768
    assert len(part) < len(case.index)


def test_the_whole_range_takes_the_whole_index(cases):
    for case in cases.values():
        part = slice_index(io.BytesIO(case.index), begin=0, end=len(case.content))
        assert part.getvalue() == case.index


@pytest.mark.parametrize("content", [b"", b"GZIDX", bytes(100), b"GZIDX\x02" + bytes(100), b"text" * 100])
def test_a_file_that_is_not_an_index_is_rejected(content):
    with pytest.raises(ValueError, match="not a gzip index"):
        slice_index(io.BytesIO(content), begin=0, end=1)


def test_a_truncated_index_is_rejected(cases):
    index = cases["repeating"].index
    table_end = HEADER.size + 18 * len(points_of(index))
    for length in (HEADER.size, HEADER.size + 5, HEADER.size + 18, table_end, table_end + 5, len(index) - 1):
        with pytest.raises(ValueError, match="truncated"):
            slice_index(io.BytesIO(index[:length]), begin=0, end=SIZE)
