"""The part of a gzip index that a reader of one range needs.

The format is indexed_gzip's, which rapidgzip writes and reads: a header, a table of seek points, and for each point
that has one the 32 KiB before it, without which decompression cannot start there. The index of an archive of 81 GB
takes more than 1 GB; what a range of some hundred MB needs of it, a few MB.
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
    """The index of the decompressed bytes from `begin` to `end` alone.

    Args:
        index: a whole index, seekable.
        begin, end: in bytes of the decompressed stream.

    Returns:
        An index with the first point of all and those that the range needs.

    Raises:
        ValueError: if it is no index of this format, or was cut short.
    """
    index.seek(0)
    header = index.read(_HEADER.size).ljust(_HEADER.size, b"\0")
    magic, version, flags, *sizes, window_size, count = _HEADER.unpack(header)
    if (magic, version) != (_MAGIC, 1):
        raise ValueError(f"This is no gzip index of version 1. Received: {magic!r}, version {version}")
    points = [_SeekPoint(*point) for point in _POINT.iter_unpack(_read(index, _POINT.size * count))]
    windows_start = index.tell()
    first = max((i for i, point in enumerate(points) if point.offset <= begin), default=0)
    last = min((i for i, point in enumerate(points) if point.offset >= end), default=count - 1)
    # Readers want the stream's first point, too; it has no window, since nothing comes before it.
    kept = [*points[: min(first, 1)], *points[first : last + 1]]
    windows_before = [0, *itertools.accumulate(point.has_window for point in points)]
    index.seek(windows_start + window_size * windows_before[first])
    windows = _read(index, window_size * (windows_before[last + 1] - windows_before[first]))
    header = _HEADER.pack(magic, version, flags, *sizes, window_size, len(kept))
    return io.BytesIO(header + b"".join(_POINT.pack(*point) for point in kept) + windows)


def _read(index: IO[bytes], size: int) -> bytes:
    content = index.read(size)
    if len(content) != size:
        raise ValueError(f"This gzip index was cut short: it has {len(content)} of {size} bytes")
    return content
