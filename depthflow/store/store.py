"""Opens a finished store: its manifest, fingerprint and index. A folder without a manifest is not a store."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from depthflow.datasets.camera import focal_px_of_fov, relative_focal
from depthflow.errors import StoreError
from depthflow.storage.files import StoreFiles, open_files
from depthflow.store.manifest import parse_manifest
from depthflow.store.schema import KINDS, REJECT_SCHEMA, VIEW_NUMBERS, index_schema, with_dataset

MANIFEST = "manifest.json"
INDEX = "index.parquet"
REJECTS = "rejects.parquet"
ACCOUNTING = "accounting.parquet"
INDEX_KEYS = ("sample_id", "split", "scene_type", "dataset", "shard", "row")
"""Columns of the index that no sample lacks and every reader needs."""

WRITE_AGAIN = f"Or delete {MANIFEST} and run the same preprocess.py command again."


@dataclass(frozen=True)
class SampleStore:
    """A finished store, opened for reading.

    Another process gets the manifest as it was read here, so that it notices if the store was replaced meanwhile.

    Args:
        files: Files of the store.
        manifest: Content of manifest.json.
    """

    files: StoreFiles
    manifest: Mapping[str, Any]

    def __reduce__(self) -> tuple[type, tuple[StoreFiles, Mapping[str, Any]]]:
        return type(self), (self.files, self.manifest)  # Without the tables that were read.

    @property
    def height(self) -> int:
        """Stored height in pixels."""
        return self.manifest["config"]["height"]

    @property
    def width(self) -> int:
        """Stored width in pixels."""
        return self.manifest["config"]["width"]

    @property
    def kind(self) -> str:
        """What its samples have: a name in `KINDS`."""
        return self.manifest["config"].get("kind", "depth")

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the further views of each sample, which are planes, too."""
        return KINDS[self.kind]

    @property
    def fingerprint(self) -> str:
        """Hash of the configuration and of the decoded content."""
        return self.manifest["fingerprint"]

    @cached_property
    def index(self) -> pa.Table:
        """All samples without their planes, as `index_schema`, checked against the fingerprint.

        Raises:
            StoreError: if index.parquet or rejects.parquet is damaged, or either is not what the manifest is about.
        """
        index, rejects = with_dataset(self.read_table(INDEX)), self.rejects
        for path, table, schema in ((INDEX, index, index_schema(self.kind)), (REJECTS, rejects, REJECT_SCHEMA)):
            if not table.schema.equals(schema):
                raise self._disagreement(path, f"its columns are {', '.join(table.column_names)}")
        cameras = ("fx_px", *(f"{view}_camera" for view in self.views)) if self.views else ()
        missing = [name for name in (*INDEX_KEYS, *cameras) if index[name].null_count]
        if missing:
            raise self._disagreement(INDEX, f"values are missing in {', '.join(missing)}")
        for name, count in ((f"{view}_{name}", n) for view in self.views for name, n in VIEW_NUMBERS.items()):
            if pc.any(pc.not_equal(pc.list_value_length(index[name]), count)).as_py():
                raise self._disagreement(INDEX, f"not every {name} has {count} numbers")
        found = fingerprint(self.manifest["config"], index, rejects)
        if found != self.fingerprint:
            raise self._disagreement(INDEX, f"its samples and the rejects have the fingerprint {found}")
        if differing := {k: v for k, v in totals(index, rejects).items() if self.manifest[k] != v}:
            raise self._disagreement(INDEX, f"the tables say {differing}")
        return index

    @cached_property
    def rejects(self) -> pa.Table:
        """All rejects, as `REJECT_SCHEMA`."""
        return self.read_table(REJECTS)

    def read_table(self, path: str) -> pa.Table:
        """Reads one of the store's own tables.

        Raises:
            StoreError: if it is damaged, or its checksum is not the manifest's.
        """
        try:
            content = self.files.read(path)
            checksum = xxhash.xxh3_128_hexdigest(content)
            if checksum != self.manifest.get("tables", {}).get(path, checksum):  # Older stores state none.
                raise self._disagreement(path, f"its xxh3-128 is {checksum}")
            return pq.read_table(pa.BufferReader(content))
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{self.files.root}/{path} cannot be read: {error}. Restore it. {WRITE_AGAIN}") from None

    def _disagreement(self, path: str, what: str) -> StoreError:
        return StoreError(
            f"{self.files.root}/{path} does not belong to {MANIFEST}, whose fingerprint is {self.fingerprint}: {what}. "
            f"Restore it. {WRITE_AGAIN}"
        )

    @property
    def splits(self) -> list[str]:
        """The splits that have samples, sorted."""
        return sorted(self.index["split"].unique().to_pylist())

    def split_index(self, split: str) -> pa.Table:
        """Returns the index rows of one split, by shard and row.

        Raises:
            StoreError: if the store has no sample of the split.
        """
        rows = self.select(split=split)
        if rows.num_rows == 0:
            raise StoreError(
                f"The store {self.files.root} has no {split} split; it holds {' and '.join(self.splits)}. Write one "
                "with preprocess.py --splits train val, or derive both splits from one with --resplit "
                f"{self.splits[0]}."
            )
        return rows

    def select(
        self,
        *,
        split: str | None = None,
        scene_type: str | None = None,
        scene: str | None = None,
        scan: str | None = None,
    ) -> pa.Table:
        """Returns the index rows that match all values given, by shard and row; possibly none.

        Args:
            split, scene_type: Their names.
            scene: Such as scene_00022.
            scan: Such as scan_00193. In some data sets it is only unique within its scene.
        """
        wanted = {"split": split, "scene_type": scene_type, "scene": scene, "scan": scan}
        rows = self.index
        for name, value in wanted.items():
            if value is not None:
                rows = rows.filter(pc.field(name) == value)
        return rows.sort_by([("shard", "ascending"), ("row", "ascending")])

    def has_depth(self, split: str) -> bool:
        """Returns whether any sample of a split has a valid depth, which all have in a store of kind depth."""
        return pc.max(self.split_index(split)["valid_fraction"]).as_py() > 0

    def require_depth(self, split: str) -> None:
        """Raises StoreError if no sample of a split has a valid depth."""
        if not self.has_depth(split):
            raise StoreError(
                f"No sample of the {split} split of {self.files.root} has depth, a store of kind {self.kind}. Write a "
                "store from frames that have depth files."
            )

    def mean_log_depth(self, split: str) -> float:
        """Returns the mean natural log of metres over all valid pixels of a split, which the mean baseline predicts.

        Raises:
            StoreError: if there is no such pixel.
        """
        self.require_depth(split)
        rows = self.split_index(split)
        rows = rows.filter(pc.greater(rows["valid_fraction"], 0))
        weights = rows["valid_fraction"].to_numpy()
        return float((rows["log_depth_mean"].to_numpy() * weights).sum() / weights.sum())

    def relative_focals(self, rows: pa.Table, *, assume_fov_deg: float | None = None) -> np.ndarray:
        """Returns the focal length relative to the image size of some index rows.

        Args:
            assume_fov_deg: Horizontal field of view of the samples whose camera is unknown.

        Returns:
            (n,) float64; NaN where the camera is unknown and nothing is assumed.
        """
        fx_px, fy_px, height, width = (
            rows[name].to_numpy().astype(np.float64) for name in ("fx_px", "fy_px", "source_height", "source_width")
        )
        focals = relative_focal(fx_px=fx_px, fy_px=fy_px, height=self.height, width=self.width)
        if assume_fov_deg is None:
            return focals
        assumed_px = focal_px_of_fov(assume_fov_deg, width)
        assumed = relative_focal(fx_px=assumed_px, fy_px=assumed_px, height=height, width=width)
        return np.where(np.isnan(focals), assumed, focals)


def open_store(root: str) -> SampleStore:
    """Opens a finished store.

    Raises:
        StoreError: if the folder is missing, unfinished, damaged or of another format.
    """
    files = open_files(root)
    if not files.exists(MANIFEST):
        raise StoreError(
            f"{root or files.root} is not a sample store: it has no {MANIFEST}, which is written last. "
            "Write one with preprocess.py, or run the same preprocess.py command again to finish it."
        )
    try:
        return SampleStore(files, parse_manifest(files.read(MANIFEST).to_pybytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{root}/{MANIFEST} cannot be read: {error}. Restore it, or write the store again with preprocess.py."
        ) from None


def fingerprint(config: Mapping[str, Any], index: pa.Table, rejects: pa.Table) -> str:
    """Returns the xxh3-128 of configuration and decoded content, independent of versions, paths and file bytes.

    Args:
        config: The part of the configuration that the content depends on.
        index: Has at least split, sample_id and content_xxh3.
        rejects: Has at least split, sample_id and reason.
    """
    content = {
        "config": dict(config),
        "samples": sorted(_tuples(index, ("split", "sample_id", "content_xxh3"))),
        "rejects": sorted(_tuples(rejects, ("split", "sample_id", "reason"))),
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def totals(index: pa.Table, rejects: pa.Table) -> dict[str, Any]:
    """Returns the manifest's samples, rejects, counts (per split and scene type) and rejects_by_reason."""
    places = zip(index["split"].to_pylist(), index["scene_type"].to_pylist(), strict=True)
    counts: dict[str, dict[str, int]] = {}
    for (split, scene_type), count in sorted(Counter(places).items()):
        counts.setdefault(split, {})[scene_type] = count
    return {
        "samples": index.num_rows,
        "rejects": rejects.num_rows,
        "counts": counts,
        "rejects_by_reason": dict(sorted(Counter(rejects["reason"].to_pylist()).items())),
    }


def _tuples(table: pa.Table, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))
