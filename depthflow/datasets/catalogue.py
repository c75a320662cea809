"""Compares the samples found with DIODE's catalogue: pure functions of names, before any file is opened.

catalog.csv lists the samples per scan of DIODE's official devkit (MIT): counts, not ids. It is complete for train
(8,574 indoors and 16,884 outdoor). For val it lists 612 samples, but the published archive has 771. So val is compared
with the archive's counts per scene type, never per scan.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, NamedTuple

from depthflow.datasets.frames import SCENE_TYPES, SPLITS

FIRST_SCENE = "scene_00000"
"""Where any counting begins, so the names of its scans do not tell DIODE from other data."""
VAL_SAMPLES = {"indoors": 325, "outdoor": 446}
"""Numbers of samples in the published val archive."""
SCANS_SHOWN = 3
"""Number of scans per scene type that a message names; `Accounting.missing` has them all."""


class Place(NamedTuple):
    """A scan, or a whole scene, scene type or split if the narrower fields are empty.

    Attributes:
        split, scene_type, scene, scan: See `frames.Frame`.
    """

    split: str
    scene_type: str = ""
    scene: str = ""
    scan: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


@dataclass(frozen=True, kw_only=True)
class Count:
    """Numbers of samples at one place.

    Attributes:
        place: The place.
        listed: Samples that the catalogue lists there; only a hint for val. 0 if nothing found is DIODE's.
        found: Number of distinct ids.
        doubled: Ids seen more than once.
        expected: Samples that must be there; None for a scan or scene of val, for which the catalogue is incomplete,
            and for everything if nothing found is DIODE's.
        missing, extra: Samples fewer and more than expected; None if `expected` is. Summed over scans in train, so
            one scan's extra samples never hide another's missing ones.
    """

    place: Place
    listed: int
    found: int
    doubled: tuple[str, ...]
    expected: int | None = None
    missing: int | None = None
    extra: int | None = None

    def figures(self) -> dict[str, int | None]:
        """Returns the numbers by name; `doubled` is the number of such ids."""
        names = ("expected", "found", "missing", "extra")
        return {**{name: getattr(self, name) for name in names}, "doubled": len(self.doubled)}


@dataclass(frozen=True, kw_only=True)
class Accounting:
    """Expected and found samples of some splits.

    Attributes:
        splits: The splits.
        scans: Every scan that was found or, if any of it is DIODE's, that the catalogue lists, sorted by place.
    """

    splits: tuple[str, ...]
    scans: tuple[Count, ...]

    @property
    def is_diode(self) -> bool:
        """Whether it was compared with the catalogue. Of other data nothing is expected."""
        return any(count.listed for count in self.scans)

    @property
    def scenes(self) -> tuple[Count, ...]:
        """Totals per scene."""
        places = sorted({count.place[:3] for count in self.scans})
        return tuple(_sum(Place(*place), self.scans) for place in places)

    @property
    def scene_types(self) -> tuple[Count, ...]:
        """Totals per split and scene type, empty ones included."""
        named = {count.place[:2] for count in self.scans}
        places = sorted(named | {(split, scene_type) for split in self.splits for scene_type in SCENE_TYPES})
        return tuple(_count_scene_type(Place(*place), self.scans, judged=self.is_diode) for place in places)

    @property
    def missing(self) -> tuple[Count, ...]:
        """Scans of train and scene types of val with fewer samples than expected."""
        return tuple(count for count in self._judged() if count.missing)

    @property
    def extra(self) -> tuple[Count, ...]:
        """Scans of train and scene types of val with more samples than expected."""
        return tuple(count for count in self._judged() if count.extra)

    @property
    def doubled(self) -> tuple[str, ...]:
        """Ids seen more than once in one split."""
        return tuple(sample_id for count in self.scans for sample_id in count.doubled)

    @property
    def is_complete(self) -> bool:
        """Whether this is DIODE and no sample is missing; extra and doubled ones are allowed."""
        return self.is_diode and not self.missing

    def summary(self) -> dict[str, dict[str, int | None]]:
        """Returns the numbers of expected, found, missing, extra and doubled samples per split."""
        return {split: _sum(Place(split), self.scene_types).figures() for split in self.splits}

    def rows(self) -> list[dict[str, Any]]:
        """Returns one table row per scan; `doubled` is the list of ids."""
        return [
            {**c.place._asdict(), "listed": c.listed, **c.figures(), "doubled": list(c.doubled)} for c in self.scans
        ]

    def describe_gap(self) -> str:
        """Returns one line per split and scene type for an error message, naming the first scans with a gap."""
        lines, missing = [], [count for count in self.missing if count.place.scan]
        for total in self.scene_types:
            line = f"{total.place}: {total.found} of {total.expected} samples, {total.missing} missing"
            line += f", {total.extra} more than expected" if total.extra else ""
            short = [c for c in missing if c.place[:2] == total.place[:2]]
            shown = [f"{'/'.join(c.place[1:])}: {c.found} of {c.expected}" for c in short[:SCANS_SHOWN]]
            shown += [f"and {len(short) - SCANS_SHOWN} more"] if len(short) > SCANS_SHOWN else []
            lines.append(f"{line} ({', '.join(shown)})" if shown else line)
        return "\n".join(lines)

    def _judged(self) -> list[Count]:
        """Returns the counts that have an expectation; each sample is in one of them."""
        val = [count for count in self.scene_types if count.place.split == "val"]
        return [count for count in self.scans if count.place.split != "val"] + val


def expected_counts() -> dict[Place, int]:
    """Returns the packaged catalogue: samples per scan."""
    text = resources.files("depthflow.datasets").joinpath("catalog.csv").read_text(encoding="ascii")
    return {
        Place(row["split"], row["scene_type"], row["scene"], row["scan"]): int(row["samples"])
        for row in csv.DictReader(text.splitlines())
    }


def is_diode(found: Iterable[tuple[str, str, str, str, str]], *, catalogue: Mapping[Place, int]) -> bool:
    """Whether at least half of the scans are DIODE's, by name; in scene_00000, by name and number of samples.

    Args:
        found, catalogue: See `account`.
    """
    scans = Counter(Place(*place) for *place, _ in set(found))
    matching = [place for place, count in scans.items() if place.scene != FIRST_SCENE or count == catalogue.get(place)]
    return 2 * len(catalogue.keys() & matching) >= len(scans)


def account(
    found: Iterable[tuple[str, str, str, str, str]], *, splits: Sequence[str], catalogue: Mapping[Place, int]
) -> Accounting:
    """Compares what was found with the catalogue.

    Args:
        found: (split, scene_type, scene, scan, sample_id) of each sample with a DIODE name, repeated ones as often as
            they were found. The split is the source's own, before any resplit. Other splits are not counted.
        splits: Splits to count.
        catalogue: Samples per scan; see `expected_counts`. Empty if nothing is to be judged: see `is_diode`.

    Raises:
        ValueError: if a split is not DIODE's, or if a sample has no scene type, scene or scan.
    """
    if not set(splits) <= set(SPLITS):
        raise ValueError(f"The splits of DIODE are {' and '.join(SPLITS)}. Received: {splits!r}.")
    times_seen: dict[Place, Counter[str]] = defaultdict(Counter)
    for *place, sample_id in found:
        if not all(place):
            raise ValueError(f"Only samples with a DIODE name can be counted. Received: {(*place, sample_id)}.")
        times_seen[Place(*place)][sample_id] += 1
    places = sorted(place for place in catalogue.keys() | times_seen.keys() if place.split in splits)
    counts = [_count_scan(place, catalogue.get(place, 0), times_seen.get(place, {})) for place in places]
    scans = [_judge(c, c.listed) if catalogue and c.place.split != "val" else c for c in counts]
    return Accounting(splits=tuple(splits), scans=tuple(scans))


def _count_scan(place: Place, listed: int, times_seen: Mapping[str, int]) -> Count:
    doubled = tuple(sorted(sample_id for sample_id, times in times_seen.items() if times > 1))
    return Count(place=place, listed=listed, found=len(times_seen), doubled=doubled)


def _count_scene_type(place: Place, scans: Iterable[Count], *, judged: bool) -> Count:
    total = _sum(place, scans)
    if not judged:
        return replace(total, expected=None, missing=None, extra=None)
    return _judge(total, VAL_SAMPLES.get(place.scene_type, 0)) if place.split == "val" else total


def _judge(count: Count, expected: int) -> Count:
    return replace(
        count, expected=expected, missing=max(expected - count.found, 0), extra=max(count.found - expected, 0)
    )


def _sum(place: Place, counts: Iterable[Count]) -> Count:
    """Returns the totals of the counts within a place; a total is None if one of its parts is."""
    depth = sum(map(bool, place))
    inside = [count for count in counts if count.place[:depth] == place[:depth]]

    def total(name: str) -> int | None:
        values = [getattr(count, name) for count in inside]
        return None if None in values else sum(values)

    return Count(
        place=place,
        listed=sum(count.listed for count in inside),
        found=sum(count.found for count in inside),
        doubled=tuple(sample_id for count in inside for sample_id in count.doubled),
        expected=total("expected"),
        missing=total("missing"),
        extra=total("extra"),
    )
