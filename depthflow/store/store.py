"""Opens a finished store: its manifest, fingerprint and index. A folder without a manifest is not a store."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from depthflow.errors import StoreError
from depthflow.storage.files import StoreFiles, open_files

MANIFEST = "manifest.json"
INDEX = "index.parquet"
REJECTS = "rejects.parquet"
ACCOUNTING = "accounting.parquet"
FORMAT = "depthflow-samples-1"


@dataclass(frozen=True)
class SampleStore:
    """A finished store, opened for reading.

    Args:
        files: Files of the store.
        manifest: Content of manifest.json.
    """

    files: StoreFiles
    manifest: Mapping[str, Any]

    @property
    def height(self) -> int:
        """Stored height in pixels."""
        return self.manifest["config"]["height"]

    @property
    def width(self) -> int:
        """Stored width in pixels."""
        return self.manifest["config"]["width"]

    @property
    def fingerprint(self) -> str:
        """Hash of the configuration and of the decoded content."""
        return self.manifest["fingerprint"]

    @cached_property
    def index(self) -> pa.Table:
        """All samples without their planes, as `INDEX_SCHEMA`."""
        try:
            return pq.read_table(pa.BufferReader(self.files.read(INDEX)))
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{self.files.root}/{INDEX} cannot be read: {error}. Delete {MANIFEST} and run the same preprocess.py "
                "command again."
            ) from None

    def split_index(self, split: str) -> pa.Table:
        """Returns the index rows of one split, by shard and row.

        Raises:
            StoreError: if the store has no sample of the split.
        """
        rows = self.select(split=split)
        if rows.num_rows == 0:
            held = sorted(set(self.index["split"].to_pylist()))
            raise StoreError(
                f"The store {self.files.root} has no {split} split; it holds {' and '.join(held)}. Write one with "
                f"preprocess.py --splits train val, or derive both splits from one with --resplit {held[0]}."
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

    def mean_log_depth(self, split: str) -> float:
        """Returns the mean natural log of metres over all valid pixels of a split, which the mean baseline predicts."""
        rows = self.split_index(split)
        weights = rows["valid_fraction"].to_numpy()
        return float((rows["log_depth_mean"].to_numpy() * weights).sum() / weights.sum())


def open_store(root: str) -> SampleStore:
    """Opens a finished store.

    Raises:
        StoreError: if the folder is missing, unfinished, or of another format.
    """
    files = open_files(root)
    if not files.exists(MANIFEST):
        raise StoreError(
            f"{root or files.root} is not a sample store: it has no {MANIFEST}, which is written last. "
            "Write one with preprocess.py, or run the same preprocess.py command again to finish it."
        )
    try:
        manifest = json.loads(files.read(MANIFEST).to_pybytes())
        if not isinstance(manifest, dict):
            raise ValueError(f"it holds {manifest!r}")
    except ValueError as error:
        raise StoreError(
            f"{root}/{MANIFEST} cannot be read: {error}. Write the store again with preprocess.py."
        ) from None
    if manifest.get("format") != FORMAT:
        raise StoreError(
            f"{root} has format {manifest.get('format')}, this version reads {FORMAT}. Write it again with "
            "preprocess.py."
        )
    return SampleStore(files, manifest)


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


def _tuples(table: pa.Table, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))
