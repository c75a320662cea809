"""Cuts the part that a reader of one range needs out of a gzip index.

rapidgzip writes and reads the format of indexed_gzip: a header, a table of seek points, and windows. A window is the
32 KiB before a seek point, without which decompression cannot start there. The index of an archive of 81 GB has more
than 1 GB; a range of a few hundred MB needs a few MB of it.
Source: https://github.com/pauldmccarthy/indexed_gzip, indexed_gzip/zran_file_util.c.
"""

import io
import itertools
import struct
from typing import IO, NamedTuple

_HEADER = struct.Struct("<5sBBQQIII")
"""Magic, version, flags, compressed size, decompressed size, spacing, window size, number of points."""
_POINT = struct.Struct("<QQBB")
_MAGIC = b"GZIDX"


class _SeekPoint(NamedTuple):
    compressed_offset: int
    offset: int
    bits: int
    has_window: int


def slice_index(index: IO[bytes], *, begin: int, end: int) -> io.BytesIO:
    """Returns an index with only the first seek point and those that the range needs.

    Args:
        index: A complete index, seekable.
        begin, end: Range in bytes of the decompressed stream.

    Raises:
        ValueError: if the index has another format or is truncated.
    """
    index.seek(0)
    header = index.read(_HEADER.size).ljust(_HEADER.size, b"\0")
    magic, version, flags, *sizes, window_size, count = _HEADER.unpack(header)
    if (magic, version) != (_MAGIC, 1):
        raise ValueError(f"This is not a gzip index of version 1. Received: {magic!r}, version {version}")
    points = [_SeekPoint(*point) for point in _POINT.iter_unpack(_read(index, _POINT.size * count))]
    windows_start = index.tell()
    first = max((i for i, point in enumerate(points) if point.offset <= begin), default=0)
    last = min((i for i, point in enumerate(points) if point.offset >= end), default=count - 1)
    # Readers also need the stream's first point, which has no window because nothing precedes it.
    kept = [*points[: min(first, 1)], *points[first : last + 1]]
    windows_before = [0, *itertools.accumulate(point.has_window for point in points)]
    index.seek(windows_start + window_size * windows_before[first])
    windows = _read(index, window_size * (windows_before[last + 1] - windows_before[first]))
    header = _HEADER.pack(magic, version, flags, *sizes, window_size, len(kept))
    return io.BytesIO(header + b"".join(_POINT.pack(*point) for point in kept) + windows)


def _read(index: IO[bytes], size: int) -> bytes:
    content = index.read(size)
    if len(content) != size:
        raise ValueError(f"This gzip index is truncated. Received: {len(content)} of {size} bytes")
    return content
