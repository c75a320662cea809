"""Two nodes that share only a network, each in its own network namespace with its own address."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from depthflow.command import last_json_line
from depthflow.synthetic.synthesize import synthesize
from tests.ray_nodes import RayNodes

ROOT = Path(__file__).resolve().parents[2]
ADDRESSES = {"head": "10.213.7.1", "data": "10.213.7.2"}
CLIENT = "10.213.7.3"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def namespaces() -> Iterator[dict[str, str]]:
    """One namespace per node, with its own loopback; a virtual switch connects them and this process."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    names = {node: f"depthflow-{os.getpid()}-{node}" for node in ADDRESSES}
    switch = f"df{os.getpid() % 10**7}"
    try:
        ip("link", "add", switch, "type", "bridge")
        ip("addr", "add", f"{CLIENT}/24", "dev", switch)
        ip("link", "set", switch, "up")
        for node, name in names.items():
            ip("netns", "add", name)
            cable = f"{switch}{node[0]}"
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", cable, "master", switch, "up")
            ip("-n", name, "addr", "add", f"{ADDRESSES[node]}/24", "dev", "eth0")
            for interface in ("eth0", "lo"):
                ip("-n", name, "link", "set", interface, "up")
        yield names
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr}")
    finally:
        for words in (*(("netns", "del", name) for name in names.values()), ("link", "del", switch)):
            subprocess.run(["ip", *words], capture_output=True)


@pytest.fixture(scope="module")
def nodes(namespaces) -> Iterator[RayNodes]:
    inside = {node: ("ip", "netns", "exec", name) for node, name in namespaces.items()}
    nodes = RayNodes({}, host=ADDRESSES["head"], prefix=inside)
    try:
        for name, address in ADDRESSES.items():
            nodes.start(name, num_cpus=2, role=name, address=address)
        yield nodes
    finally:
        nodes.stop()


def test_a_job_runs_on_another_machine(nodes, tmp_path):
    """The job is submitted from a third machine; its data tasks run on the data node, though the head has CPUs too."""
    synthesize(out=tmp_path / "tree", scans=2, samples_per_scan=8, height=64, width=64, seed=0, val_fraction=0.5)
    words = ("preprocess", "--source", tmp_path / "tree", "--out", tmp_path / "store", "--height", 64, "--width", 64)
    done = subprocess.run(
        [sys.executable, ROOT / "pipelines" / "submit.py", *map(str, words)],
        cwd=tmp_path,
        env=nodes.env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    result = last_json_line(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-5000:]}"
    assert result is not None and result["samples"] == 16
    addresses = {node["node_id"]: node["node_ip"] for node in nodes.state("nodes")}
    assert sorted(addresses.values()) == sorted(ADDRESSES.values())
    ran_on = {addresses[task["node_id"]] for task in nodes.state("tasks") if task["name"] == "Map(call)"}
    assert ran_on == {ADDRESSES["data"]}
