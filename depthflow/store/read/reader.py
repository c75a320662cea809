"""Reading a split: rows of planes as arrays, and a worker's part of a pass in the store's order."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from depthflow.errors import StoreError
from depthflow.store.read.epoch import worker_part
from depthflow.store.read.geometry import Geometry, geometry_of
from depthflow.store.read.row_groups import RowGroups
from depthflow.store.read.shard_file import RowGroup
from depthflow.store.schema import plane_dtypes, plane_shape
from depthflow.store.store import SampleStore

DEPTH_PLANES = ("rgb", "log_depth", "valid_mask")
"""What training and figures need."""

CACHE_BYTES = 2 * 2**30


@dataclass(frozen=True, kw_only=True)
class SampleBatch:
    """Some samples of a split. An array may be a view of what the reader holds: read-only, and not always aligned.

    Attributes:
        sample_ids: n ids.
        scene_types: n of indoors, outdoor.
        datasets: n names of data sets.
        focal: (n,) float64, focal length relative to the image size (`depthflow.datasets.camera`); NaN where
            the camera is unknown.
        planes: the planes that the reader was asked for, by name; those of all samples are attributes, too.
        view_names: names of the further views of the scene that the store's samples have, in the store's order.
        geometry: cameras and poses of these; None where there are none.
    """

    sample_ids: tuple[str, ...]
    scene_types: tuple[str, ...]
    datasets: tuple[str, ...]
    focal: np.ndarray
    planes: Mapping[str, np.ndarray]
    view_names: tuple[str, ...] = ()
    geometry: Geometry | None = None

    @property
    def rgb(self) -> np.ndarray:
        """(n, H, W, 3) uint8."""
        return self._plane("rgb")

    @property
    def log_depth(self) -> np.ndarray:
        """(n, H, W) float32, natural log of metres; 0 where invalid."""
        return self._plane("log_depth")

    @property
    def valid_mask(self) -> np.ndarray:
        """(n, H, W) bool."""
        return self._plane("valid_mask")

    @property
    def edge_mask(self) -> np.ndarray:
        """(n, H, W) bool."""
        return self._plane("edge_mask")

    @property
    def views(self) -> np.ndarray:
        """(n, V, H, W, 3) uint8, a copy of the planes of all V views, in the order of `view_names`."""
        if not self.view_names:
            raise AttributeError("The samples of a store of kind depth have no further views.")
        return np.stack([self._plane(name) for name in self.view_names], axis=1)

    def _plane(self, name: str) -> np.ndarray:
        if name not in self.planes:
            raise AttributeError(f"{name} was not read: SplitReader(planes=...) asked for {' '.join(self.planes)}.")
        return self.planes[name]


class SplitReader:
    """Random access to the samples of one split, by row group.

    Decoded row groups stay in memory as long as there is room for them; one that finds none stays until the next batch,
    since a batch of a pass takes its rows from nearly the same groups as the one before it. Were the oldest given up
    for the newest, a pass over a split larger than the cache would displace what the next pass needs. What is mapped
    from a disk is kept by the system.

    Args:
        store: a finished store.
        split: one that it has.
        planes: what to read of it; the names of the store's views are planes, too.
        cache_bytes: memory for decoded row groups that stay.
        cache_dir: folder on this node's own disk that the shards are copied to first; None reads them where they are.
        assume_fov_deg: horizontal field of view of samples whose camera is unknown.

    Raises:
        StoreError: if the split is not there, the store has no such plane, or a shard has vanished.
    """

    def __init__(
        self,
        store: SampleStore,
        split: str,
        *,
        planes: Sequence[str] = DEPTH_PLANES,
        cache_bytes: int = CACHE_BYTES,
        cache_dir: str | None = None,
        assume_fov_deg: float | None = None,
    ) -> None:
        dtypes = plane_dtypes(store.kind)
        if unknown := [name for name in planes if name not in dtypes]:
            raise StoreError(
                f"{store.files.root} is a store of kind {store.kind}, whose planes are {', '.join(dtypes)}. Received: "
                f"{', '.join(unknown)}. Write another store with preprocess.py --kind."
            )
        index = store.split_index(split)
        self.sample_ids: list[str] = index["sample_id"].to_pylist()
        self.datasets: list[str] = index["dataset"].to_pylist()
        self._scene_types: list[str] = index["scene_type"].to_pylist()
        self._focal = store.relative_focals(index, assume_fov_deg=assume_fov_deg)
        self._view_names, self._geometry = store.views, geometry_of(index, store.views)
        self._row_groups = RowGroups(store, split, planes=planes, cache_dir=cache_dir)
        self.group_sizes = self._row_groups.sizes
        self.image_size = store.height, store.width
        self._starts = np.concatenate([[0], np.cumsum(self.group_sizes)]).astype(np.int64)
        self._no_rows = {
            name: np.empty((0, *plane_shape(name, height=store.height, width=store.width)), dtypes[name])
            for name in planes
        }
        self._room_bytes = cache_bytes
        self._kept: dict[int, RowGroup] = {}
        self._in_use: dict[int, Future[RowGroup]] = {}

    def __len__(self) -> int:
        return len(self.sample_ids)

    def read(self, rows: Sequence[int] | np.ndarray, *, upcoming: Sequence[int] | np.ndarray = ()) -> SampleBatch:
        """The samples of some rows, in the order asked for.

        Neighbouring rows of one row group are views of it, without a copy; others are gathered by one copy a sample.

        Args:
            rows: n row numbers, counted through the split's row groups.
            upcoming: Row numbers of the next reads, as far as they are known; their row groups are read meanwhile.
        """
        rows = np.asarray(rows, dtype=np.int64)
        runs = self._runs(rows)
        groups = self._groups({group for group, _ in runs}, upcoming=set(self._group_of(np.asarray(upcoming)).tolist()))
        planes = {
            name: _joined([groups[group].planes[name][run] for group, run in runs]) if runs else no_rows
            for name, no_rows in self._no_rows.items()
        }
        return SampleBatch(
            sample_ids=tuple(self.sample_ids[row] for row in rows),
            scene_types=tuple(self._scene_types[row] for row in rows),
            datasets=tuple(self.datasets[row] for row in rows),
            focal=self._focal[rows],
            planes=planes,
            view_names=self._view_names,
            geometry=self._geometry.take(rows) if self._geometry else None,
        )

    def _group_of(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, rows, side="right") - 1

    def _runs(self, rows: np.ndarray) -> list[tuple[int, slice]]:
        """Rows as slices of row groups: (group, its rows)."""
        if len(rows) == 0:
            return []
        groups = self._group_of(rows)
        firsts = np.flatnonzero((np.diff(rows, prepend=-2) != 1) | (np.diff(groups, prepend=-1) != 0))
        lengths = np.diff(firsts, append=len(rows))
        offsets = (rows - self._starts[groups])[firsts]
        return [
            (group, slice(offset, offset + length))
            for group, offset, length in zip(groups[firsts].tolist(), offsets.tolist(), lengths.tolist(), strict=True)
        ]

    def _groups(self, wanted: set[int], *, upcoming: set[int]) -> dict[int, RowGroup]:
        """Some row groups, read only if they are neither kept nor of the last batch."""
        for number in (*sorted(wanted), *sorted(upcoming)):
            if number not in self._kept and number not in self._in_use:
                self._in_use[number] = self._row_groups.begin(number)
        groups = {number: self._kept.get(number) or self._in_use[number].result() for number in wanted}
        for number in wanted - self._kept.keys():
            group = groups[number]
            if not group.is_mapped and group.nbytes <= self._room_bytes:
                self._kept[number] = group
                self._room_bytes -= group.nbytes
        needed = (wanted | upcoming) - self._kept.keys()
        self._in_use = {number: reading for number, reading in self._in_use.items() if number in needed}
        return groups


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """The parts, one after the other; a single one as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def worker_pass(reader: SplitReader, *, max_batch_size: int, rank: int, num_workers: int) -> Iterator[SampleBatch]:
    """One worker's part of a split in the store's order, to its last sample, in batches of at most `max_batch_size`."""
    part = np.arange(len(reader))[worker_part(len(reader), rank=rank, num_workers=num_workers)]
    for start in range(0, len(part), max_batch_size):
        rows, after = part[start:][:max_batch_size], part[start + max_batch_size :][:max_batch_size]
        yield reader.read(rows, upcoming=after)
