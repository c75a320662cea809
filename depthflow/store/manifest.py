"""What manifest.json may say: its JSON Schema, and the check of a manifest that was read."""

import json
from typing import Any

import jsonschema

from depthflow.store.schema import KINDS

FORMAT = "depthflow-samples-1"

XXH3 = {"type": "string", "pattern": r"^[0-9a-f]{32}\Z"}
COUNT = {"type": "integer", "minimum": 0}
COUNTS = {"type": "object", "additionalProperties": COUNT}
TEXTS = {"type": "array", "items": {"type": "string"}}

MANIFEST_SCHEMA = {
    "type": "object",
    "required": [
        "fingerprint",
        "config",
        "sources",
        "archives",
        "samples",
        "rejects",
        "counts",
        "rejects_by_reason",
        "accounting",
        "shards",
        "versions",
        "written",
    ],
    "properties": {
        "fingerprint": XXH3,
        "config": {
            "type": "object",
            "required": ["height", "width", "resplit"],
            "properties": {
                "height": {"type": "integer", "minimum": 1},
                "width": {"type": "integer", "minimum": 1},
                "resplit": {"type": ["string", "null"]},
                "kind": {"enum": [*KINDS]},
            },
        },
        "sources": TEXTS,
        "archives": TEXTS,
        "samples": COUNT,
        "rejects": COUNT,
        "counts": {"type": "object", "additionalProperties": COUNTS},
        "rejects_by_reason": COUNTS,
        "accounting": {"type": "object"},
        "tables": {"type": "object", "additionalProperties": XXH3},
        "shards": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "rows", "bytes", "xxh3_128"],
                "properties": {
                    "path": {"type": "string", "pattern": r"^split=[^/]+/part-[0-9]+\.parquet\Z"},
                    "rows": COUNT,
                    "bytes": COUNT,
                    "xxh3_128": XXH3,
                },
            },
        },
        "versions": {"type": "object", "additionalProperties": {"type": "string"}},
        "written": {"type": "string"},
    },
}
"""JSON Schema of a manifest. Checksums and paths become names of files, so nothing else may stand in their place."""


def parse_manifest(content: bytes) -> dict[str, Any]:
    """Returns the content of a manifest.json.

    Raises:
        ValueError: if it is damaged or of another format, in one line.
    """
    manifest = json.loads(content)
    if isinstance(manifest, dict) and manifest.get("format") != FORMAT:
        raise ValueError(f"it has format {manifest.get('format')!r}, and this version reads {FORMAT}")
    try:
        jsonschema.validate(manifest, MANIFEST_SCHEMA)
    except jsonschema.ValidationError as error:
        raise ValueError(f"{error.json_path} is wrong: {error.message[:200]}") from None
    paths = [shard["path"] for shard in manifest["shards"]]
    if len(set(paths)) < len(paths):
        raise ValueError("it lists a shard twice")
    return manifest
