"""Divides frames between train and val as files say: the official lists of a data set.

A line names a scene, a scan, a sample id or the path of an image, all also without what precedes them: the data set's
name, or the folders above. A frame belongs to the split of the most specific name that it has in a list.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

import io
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from depthflow.datasets.archive_member import PLACE
from depthflow.datasets.frames import SPLITS
from depthflow.errors import SourceError
from depthflow.observability.logs import tell
from depthflow.storage.foreign_file import read_foreign_file
from depthflow.store.write.config import SPLIT_OF
from depthflow.store.write.splits import divided, rejected, require_splits

_CODES = {"train": 1, "val": 2}
_BOTH = 3
_MAT_INDICES = {"train": "trainNdxs", "val": "testNdxs"}
"""Variables of NYU Depth v2's splits.mat: numbers of frames, from 1."""
_SEQUENCE = re.compile(r"sequence(\d{1,9})")
_MAX_DEPTH = 100
"""Longer paths match nothing, since a regular expression cannot count so far."""


class SplitList(NamedTuple):
    """A file that lists what belongs to a split.

    Attributes:
        split: train or val.
        path: Its path or URI.
        lines: What it names, without blank lines and comments.
    """

    split: str
    path: str
    lines: list[str]


class _Level(NamedTuple):
    """Where the frames' names of one kind occur in the lists.

    Attributes:
        entities: What each row's names of this kind stand for: its sample, scan or scene.
        hits: For each spelling, (n,) the number of the listed name that each row has, or -1.
    """

    entities: pa.ChunkedArray
    hits: list[np.ndarray]


def read_split_files(files: Sequence[str]) -> list[SplitList]:
    """Reads the files of --split-file.

    Args:
        files: SPLIT=FILE each.

    Raises:
        SourceError: if one cannot be read or is damaged.
    """
    lists = []
    for split, _, path in (file.partition("=") for file in files):
        split = SPLIT_OF[split]
        try:
            content = read_foreign_file(path)
            lines = _mat_lines(content, split) if path.lower().endswith(".mat") else _text_lines(content)
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise SourceError(f"The split file {path} cannot be read: {what}. Fix --split-file.") from None
        lists.append(SplitList(split, path, lines))
    return lists


def _text_lines(content: bytes) -> list[str]:
    lines = (line.strip() for line in content.decode("utf-8-sig").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _mat_lines(content: bytes, split: str) -> list[str]:
    """Returns the numbers of frames in NYU Depth v2's splits.mat."""
    from scipy.io import loadmat  # Takes a while to import.

    name = _MAT_INDICES[split]
    try:
        found = loadmat(io.BytesIO(content), variable_names=[name])
        return [str(int(number)) for number in found[name].ravel()]
    except Exception as error:  # A damaged file makes scipy raise anything.
        raise ValueError(f"it is no splits.mat of NYU Depth v2 with {name} ({type(error).__name__}: {error})") from None


def split_by_files(rows: pa.Table, lists: Sequence[SplitList], splits: Sequence[str]) -> pa.Table:
    """Divides frames as files say. Where only one split is listed, all others belong to the other split.

    Args:
        rows: `PLAN_SCHEMA`.
        splits: Splits to be stored, which must not stay empty.

    Returns:
        The rows sorted by split and sample id. With lists of both splits, what is in neither is a reject (not_listed).

    Raises:
        SourceError: if no line names a frame, a line names several things or a frame is in both splits, or a split
            would stay empty.
    """
    spellings = [[_spellings(line) for line in one.lines] for one in lists]
    names = list(dict.fromkeys(name for one in spellings for line in one for name in line))
    levels = list(_matches(rows, names))
    codes = _split_codes(lists, spellings, names, levels)
    decided = np.zeros(rows.num_rows, np.int8)
    for level in levels:
        _require_unique(level, codes, names)
        of_level = np.bitwise_or.reduce([codes[hits] for hits in level.hits])
        of_level[decided > 0] = 0
        _require_one_split(rows, level, of_level, codes, names)
        decided |= of_level
    listed = {one.split for one in lists}
    if len(listed) == len(SPLITS):
        rows = rejected(rows, decided == 0, "not_listed", "no file of --split-file names it, its scan or its scene")
    else:
        decided[decided == 0] = _CODES["val" if "train" in listed else "train"]
    chosen = rows["split"].to_numpy(zero_copy_only=False).copy()
    for split, code in _CODES.items():
        chosen[decided == code] = split
    rows = divided(rows, chosen)
    paths = ", ".join(one.path for one in lists)
    require_splits(
        rows, f"--split-file leaves {{}} empty. Add its list to {paths}, or leave it out of --splits.", splits
    )
    return rows


def _spellings(line: str) -> list[str]:
    """Returns the names that a line may mean, the first that occurs being what it means."""
    first = line.split()[0]
    found = [_trimmed(line), _trimmed(first)]
    if first.isascii() and first.isdecimal():
        found.append(f"#{first.lstrip('0') or '0'}")
    if sequence := _SEQUENCE.fullmatch(first):  # As 7-Scenes calls seq-01.
        found.append(f"seq-{int(sequence[1]):02d}")
    return [name for name in dict.fromkeys(found) if name]


def _trimmed(name: str) -> str:
    return name.removeprefix("./").strip("/")


def _matches(rows: pa.Table, names: list[str]) -> Iterator[_Level]:
    """Yields where the names occur, the most specific kind first; a name is of the first kind that it occurs as."""
    wanted = pa.array(names, pa.string())
    is_free = np.ones(len(names) + 1, bool)
    bare_scene = _without_dataset(rows, rows["scene"])
    scan = pc.binary_join_element_wise(rows["scene"], rows["scan"], "/")
    of_kinds = (
        (rows["sample_id"], [*_frame_names(rows), *_image_tails(rows, names)]),
        (
            scan,
            [
                rows["scan"],
                pc.binary_join_element_wise(rows["dataset"], rows["scan"], "/"),
                pc.binary_join_element_wise(bare_scene, rows["scan"], "/"),
                scan,
            ],
        ),
        (rows["scene"], [rows["scene"], bare_scene]),
    )
    for entities, keys in of_kinds:
        hits = []
        for key in keys:
            found = pc.index_in(key, wanted.cast(key.type), skip_nulls=True).fill_null(-1).to_numpy()
            hits.append(np.where(is_free[found], found, np.int64(-1)))
        for found in hits:
            is_free[found[found >= 0]] = False
        yield _Level(entities, hits)


def _frame_names(rows: pa.Table) -> list[pa.ChunkedArray]:
    """Returns the names of frames: the sample id, the same without the data set, and #NUMBER if it ends in one."""
    number = pc.struct_field(pc.extract_regex(rows["sample_id"], r"(?:^|/)0*(?P<number>\d+)$"), "number")
    return [
        rows["sample_id"],
        _without_dataset(rows, rows["sample_id"]),
        pc.binary_join_element_wise("#", number, ""),
    ]


def _image_tails(rows: pa.Table, names: list[str]) -> list[pa.ChunkedArray]:
    """Returns the ends of the images' paths that are as deep as one of the names that look like a file's."""
    depths = {name.count("/") for name in names if "." in name.rpartition("/")[2]}
    place = PLACE.pattern.removesuffix("$")
    tails = []
    for depth in sorted(depths & {*range(_MAX_DEPTH)}):
        pattern = rf"(?:^|/)(?P<tail>(?:[^/]*/){{{depth}}}[^/]*?)(?:{place})?$"
        tails.append(pc.struct_field(pc.extract_regex(rows["image"], pattern), "tail"))
    return tails


def _without_dataset(rows: pa.Table, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns names without the data set that they begin with."""
    for dataset in rows["dataset"].unique().to_pylist():
        prefix = f"{dataset}/"
        is_prefixed = pc.and_(pc.equal(rows["dataset"], dataset), pc.starts_with(column, prefix))
        column = pc.if_else(is_prefixed, pc.utf8_slice_codeunits(column, len(prefix)), column)
    return column


def _split_codes(
    lists: Sequence[SplitList], spellings: list[list[list[str]]], names: list[str], levels: Sequence[_Level]
) -> np.ndarray:
    """Returns the split of each name as a sum of codes, and a 0 for no name at the end; tells of lines without use."""
    is_there = np.zeros(len(names) + 1, bool)
    for level in levels:
        for hits in level.hits:
            is_there[hits] = True
    there = {name for name, found in zip(names, is_there, strict=False) if found}
    number = {name: n for n, name in enumerate(names)}
    codes = np.zeros(len(names) + 1, np.int8)
    unused = []
    for one, of_file in zip(lists, spellings, strict=True):
        for line, of_line in zip(one.lines, of_file, strict=True):
            name = next((name for name in of_line if name in there), None)
            if name is None:
                unused.append(f"{line!r} of {one.path}")
            else:
                codes[number[name]] |= _CODES[one.split]
    total = sum(len(one.lines) for one in lists)
    if len(unused) == total:
        example = f", such as {unused[0]}" if unused else ""
        raise SourceError(
            f"No line of --split-file names a scene, a scan, a sample id or an image of the sources: {total} lines"
            f"{example}. Pass lists that belong to the sources."
        )
    if unused:
        tell(f"{len(unused)} of {total} lines of --split-file name nothing in the sources, such as {unused[0]}.")
    return codes


def _require_unique(level: _Level, codes: np.ndarray, names: list[str]) -> None:
    """Raises SourceError if a listed name stands for several frames, scans or scenes."""
    encoded = level.entities.combine_chunks().dictionary_encode()
    entities, count = encoded.indices.to_numpy(), len(encoded.dictionary)
    pairs = np.unique(np.concatenate([(hits * count + entities)[codes[hits] > 0] for hits in level.hits]))
    repeated = np.flatnonzero(pairs[1:] // count == pairs[:-1] // count)
    if len(repeated):
        pair = pairs[repeated[0]], pairs[repeated[0] + 1]
        one, other = (encoded.dictionary[int(code % count)].as_py() for code in pair)
        name = names[int(pair[0] // count)].lstrip("#")
        raise SourceError(f"--split-file names {name}, which may be {one} or {other}. Write which, in full.")


def _require_one_split(
    rows: pa.Table, level: _Level, of_level: np.ndarray, codes: np.ndarray, names: list[str]
) -> None:
    """Raises SourceError if a row is in both splits."""
    twice = np.flatnonzero(of_level == _BOTH)
    if not len(twice):
        return
    row = int(twice[0])
    named = sorted({names[hits[row]].lstrip("#") for hits in level.hits if codes[hits[row]]})
    raise SourceError(
        f"--split-file names {' and '.join(named)} for train and for val, which leaves {len(twice)} frames in both, "
        f"such as {rows['sample_id'][row]}. Remove what is named from one list."
    )
