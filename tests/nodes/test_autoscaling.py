"""cluster.yaml's node types, labels and limits under Ray's own autoscaler.

Ray's fake provider replaces AWS: each node that the autoscaler requests is a raylet on this machine with the resources
and labels of its node type. depthflow's own plans place the work.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from ray.autoscaler._private.util import prepare_config
from ray.util import get_node_ip_address

from depthflow.placement import LIMITS_VARIABLE, ROLE_LABEL
from tests.ray_nodes import free_port

ROOT = Path(__file__).resolve().parents[2]
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
STORE_BYTES = 80 * 2**20
DRIVER_TIMEOUT_S = 780
ATTEMPTS = 3
OWN_PORTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")

DRIVER = """
import json, os, subprocess, sys, time
from collections import Counter
from pathlib import Path
import ray
from depthflow.errors import PlacementError
from depthflow.placement import ROLE_LABEL, cluster_capacity, plan_data, plan_training
from ray.util.placement_group import placement_group, remove_placement_group

TIMEOUT_S = 240
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)

def roles():
    return dict(Counter(node["Labels"].get(ROLE_LABEL) for node in ray.nodes() if node["Alive"]))

def wait_for(expected):
    deadline = time.monotonic() + TIMEOUT_S
    while roles() != expected:
        assert time.monotonic() < deadline, f"{roles()}, not {expected}"
        time.sleep(0.2)
    return roles()

def run_task(release=None):
    while release and not Path(release).exists():
        time.sleep(0.2)
    return ray.get_runtime_context().get_node_labels()[ROLE_LABEL], roles()

seen = {"at first": roles()}

data = plan_data(**cluster_capacity())
task = ray.remote(num_cpus=data.most_cpus, label_selector=dict(data.label_selector))(run_task)
seen["a data task ran on, beside"] = ray.get(task.remote(), timeout=TIMEOUT_S)

release = Path("release").absolute()
held = [task.remote(str(release)) for _ in range(3)]
wait_for({"head": 1, "data": 2})
time.sleep(5.0)  # Five rounds of the autoscaler, in which it could add more.
seen["while three data tasks want a node each"] = roles()
release.touch()
seen["the three ran on"] = sorted({role for role, _ in ray.get(held, timeout=TIMEOUT_S)})

plan = plan_training(num_workers=8, **cluster_capacity())
seen["training"] = [plan.num_workers, plan.use_gpu, dict(plan.label_selector)]
workers = placement_group(
    [{"CPU": plan.cpus_per_worker, "GPU": 1}] * plan.num_workers,
    bundle_label_selector=[dict(plan.label_selector)] * plan.num_workers,
)
assert workers.wait(TIMEOUT_S)
seen["while eight workers have a GPU each"] = wait_for({"head": 1, "train": 2})
try:
    plan_training(num_workers=1000, **cluster_capacity())
except PlacementError as error:
    seen["too many workers"] = str(error)
remove_placement_group(workers)
wait_for({"head": 1})

ask = [sys.executable, sys.argv[2]]
subprocess.run([*ask, "--data", "1", "--train", "1"], env={**os.environ, "RAY_ADDRESS": sys.argv[1]}, check=True)
seen["when nodes are requested ahead"] = wait_for({"head": 1, "data": 1, "train": 1})
subprocess.run(ask, env={**os.environ, "RAY_ADDRESS": sys.argv[1]}, check=True)

seen["when there is nothing to do"] = wait_for({"head": 1})
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A folder whose path is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="df", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def config(scratch) -> dict[str, Any]:
    """cluster.yaml with the fake provider instead of AWS, small object stores and a short idle timeout."""
    launched = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    node_types = {
        FAKE_HEAD_NODE_TYPE if name == launched["head_node_type"] else name: {
            **{key: node_type[key] for key in ("labels", "min_workers", "max_workers") if key in node_type},
            "resources": {**node_type["resources"], "object_store_memory": STORE_BYTES},
            "node_config": {},
        }
        for name, node_type in launched["available_node_types"].items()
    }
    node_types["data"]["max_workers"] = 2  # Instead of 16, which do not fit on this machine.
    return {
        **launched,
        **{key: [] for key in launched if key.endswith("_commands")},
        "docker": {},
        "file_mounts": {},
        "idle_timeout_minutes": 0.1,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": node_types,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
    }


@pytest.fixture(scope="module")
def environment(scratch, config) -> dict[str, str]:
    """Environment of all processes of this Ray, which identifies them; it has its own token."""
    token = scratch / "auth_token"
    token.write_text("a-token-of-this-test-alone")
    limits = scratch / "cluster.yaml"
    limits.write_text(yaml.safe_dump(config))
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        LIMITS_VARIABLE: str(limits),
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.fixture(scope="module")
def address(scratch, config, environment) -> Iterator[str]:
    """Address of a head without CPUs, with an autoscaler; all its processes are killed at the end."""
    try:
        address = next(filter(None, (start_head(scratch, config, environment) for _ in range(ATTEMPTS))), None)
        assert address, (scratch / "head.log").read_text()
        yield address
    finally:
        kill_all(scratch)


def start_head(scratch: Path, config: dict[str, Any], environment: dict[str, str]) -> str | None:
    """Returns its address, or None if it did not start within the 30 s that Ray gives a node."""
    port = free_port()
    config["provider"]["gcs_address"] = f"{get_node_ip_address()}:{port}"
    Path(environment[LIMITS_VARIABLE]).write_text(yaml.safe_dump(config))
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
        *(f"--port={port}", f"--temp-dir={scratch}", f"--autoscaling-config={environment[LIMITS_VARIABLE]}"),
        *("--num-cpus=0", "--num-gpus=0", f"--labels={ROLE_LABEL}=head", "--include-dashboard=false"),
        f"--object-store-memory={STORE_BYTES}",
        *(f"--{name}={free_port()}" for name in OWN_PORTS),
    ]
    log = scratch / "head.log"
    with log.open("w") as output:
        head = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text():
        if head.poll() is not None or time.monotonic() > deadline:
            kill_all(scratch)
            return None
        time.sleep(0.2)
    return config["provider"]["gcs_address"]


def kill_all(scratch: Path) -> None:
    """Kills every process of this Ray, including those that start meanwhile."""
    deadline = time.monotonic() + 60
    while found := processes_of(scratch):
        assert time.monotonic() < deadline, found
        for process in found:
            process.kill()
        psutil.wait_procs(found, timeout=5)


def processes_of(scratch: Path) -> list[psutil.Process]:
    """Returns the processes whose command or environment names the folder, and their children."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if any(str(scratch) in text for text in [*process.cmdline(), *process.environ().values()]):
                found.update({one.pid: one for one in [process, *process.children(recursive=True)]})
        except psutil.Error:
            continue
    return [process for pid, process in found.items() if pid != os.getpid() and is_running(process)]


def is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.fixture(scope="module")
def seen(scratch, environment, address) -> dict[str, Any]:
    """The nodes that a driver with data tasks and training saw."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, address, str(ROOT / "deploy" / "nodes.py")],
        env=environment,
        cwd=scratch,
        capture_output=True,
        text=True,
        timeout=DRIVER_TIMEOUT_S,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{autoscaler_log(scratch)}"
    return json.loads(done.stdout.splitlines()[-1])


def autoscaler_log(scratch: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in scratch.glob("session_2*/logs/monitor.*"))


def test_only_the_head_runs_at_first(seen):
    assert seen["at first"] == {"head": 1}


def test_a_data_task_starts_a_data_node(seen):
    assert seen["a data task ran on, beside"] == ["data", {"head": 1, "data": 1}]


def test_nodes_stay_within_the_limit_and_tasks_wait(seen):
    assert seen["while three data tasks want a node each"] == {"head": 1, "data": 2}
    assert seen["the three ran on"] == ["data"]


def test_training_starts_train_nodes_and_idle_data_nodes_stop(seen):
    assert seen["training"] == [8, True, {ROLE_LABEL: "train"}]
    assert seen["while eight workers have a GPU each"] == {"head": 1, "train": 2}


def test_too_many_workers_fail_at_once(seen):
    assert "1000 workers" in seen["too many workers"]


def test_nodes_can_be_requested_ahead_of_a_job(seen):
    assert seen["when nodes are requested ahead"] == {"head": 1, "data": 1, "train": 1}


def test_idle_nodes_stop(seen):
    assert seen["when there is nothing to do"] == {"head": 1}
