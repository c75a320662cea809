"""Protocols: found by name, and which store each allows."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depthflow.config import EvaluateConfig, PromoteConfig
from depthflow.errors import ProtocolError, StoreError
from depthflow.evaluation.protocols import PROTOCOLS, check_store, find_protocol
from depthflow.samples.schema import INDEX_SCHEMA
from depthflow.samples.store import FORMAT, open_store


def write_store(root, sizes: list[tuple[int, int]], *, stored: tuple[int, int]):
    """A store without planes: validation samples whose sources had these sizes."""
    rows = [
        {
            "sample_id": f"id{k}",
            "split": "val",
            "shard": "split=val/part-00000.parquet",
            "row": k,
            "source_height": height,
            "source_width": width,
        }
        for k, (height, width) in enumerate(sizes)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), root / "index.parquet")
    config = {"height": stored[0], "width": stored[1]}
    manifest = {"format": FORMAT, "config": config, "fingerprint": "f", "shards": []}
    (root / "manifest.json").write_text(json.dumps(manifest))
    return open_store(str(root))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_is_found_by_its_name(name):
    assert find_protocol(name).name == name
    assert find_protocol(name).description


def test_the_commands_default_exists():
    for config in (EvaluateConfig(model="m", samples="s"), PromoteConfig(samples="s")):
        assert find_protocol(config.protocol) is PROTOCOLS["devkit"]


@pytest.mark.parametrize("name", ["kitti", "", "DEVKIT"])
def test_an_unknown_name_is_told_the_known_ones(name):
    with pytest.raises(ProtocolError) as caught:
        find_protocol(name)
    message = str(caught.value)
    assert message.startswith(f"There is no protocol {name}. Pass --protocol one of: ")
    assert all(known in message for known in PROTOCOLS)


def test_devkit_takes_a_store_at_the_sources_resolution(tmp_path):
    check_store(PROTOCOLS["devkit"], write_store(tmp_path, [(768, 1024)] * 3, stored=(768, 1024)), "val")


@pytest.mark.parametrize(
    ("sizes", "stored"),
    [
        ([(768, 1024)], (256, 256)),
        ([(768, 1024)], (1024, 768)),
        ([(768, 1024), (256, 256)], (256, 256)),
        ([(192, 256), (192, 257)], (192, 256)),
    ],
)
def test_devkit_refuses_a_store_that_was_resized(tmp_path, sizes, stored):
    height, width = max(sizes)
    with pytest.raises(ProtocolError) as caught:
        check_store(PROTOCOLS["devkit"], write_store(tmp_path, sizes, stored=stored), "val")
    message = str(caught.value)
    assert f"the source's resolution ({height} x {width})" in message
    assert f"was resized to {stored[0]} x {stored[1]}" in message
    assert f"preprocess.py --splits val --height {height} --width {width}" in message


def test_a_missing_split_is_refused(tmp_path):
    with pytest.raises(StoreError, match="has no train split; it holds val"):
        check_store(PROTOCOLS["devkit"], write_store(tmp_path, [(4, 4)], stored=(4, 4)), "train")
