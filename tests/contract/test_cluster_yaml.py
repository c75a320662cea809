"""cluster.yaml against Ray's schema, Ray's launcher on a simulated AWS, the lock files and the code."""

import json
import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import boto3
import pytest
from moto import mock_aws
from moto.ec2.models.instance_types import INSTANCE_TYPES
from ray._private.authentication.authentication_token_setup import _get_default_token_path
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.aws.utils import resource_cache
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.common_pb2 import LabelSelectorOperator

from depthflow.placement import ROLE_LABEL, Role

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "cluster.yaml").read_text()
NODE_TYPES = ("head", "data", "train")
HEAD_IP = "172.31.5.9"
HEAD_NAME = "ip-172-31-5-9.ec2.internal"


@pytest.fixture(scope="module")
def prepared(launched) -> dict[str, Any]:
    """The configuration with the launcher's defaults filled in."""
    return prepare_config(launched)


def commands(config: dict[str, Any]) -> list[str]:
    """Returns every shell command that runs on a node."""
    of_types = [node_type.get("worker_setup_commands", []) for node_type in config["available_node_types"].values()]
    names = ("initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return [command for group in [*(config[f"{name}_commands"] for name in names), *of_types] for command in group]


def test_ray_accepts_the_configuration(prepared):
    validate_config(prepared)


def test_required_settings_come_first_and_have_comments(launched):
    before_metadata, _, after = TEXT.partition("metadata:\n")
    assert all(line.startswith("#") or not line for line in before_metadata.splitlines())
    top = after.partition("\n# ---")[0]
    assert list(launched["metadata"]) == ["region", "zone", "image_id", "bucket", "head_profile", "node_profile"]
    for number, name in enumerate(launched["metadata"], start=1):
        assert re.search(rf"^  # {number}\. [^\n]+\n(  #[^\n]+\n)*  {name}: &{name}\b", top, re.MULTILINE), name
        assert f"*{name}" in TEXT, f"{name} is set at the top but not used"
    assert TEXT.count("SET-THIS") == top.count("SET-THIS") == 2


def test_every_command_is_valid_shell(prepared):
    for command in commands(prepared):
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_image_and_packages_match_the_lock_files(launched, prepared, locked):
    pyproject = (ROOT / "pyproject.toml").read_text()
    python = re.findall(r'pythonVersion = "(\d)\.(\d+)"', pyproject)[0]
    image = f"rayproject/ray:{locked('ray')}-py{python[0]}{python[1]}"
    assert launched["docker"]["image"] == image
    assert launched["available_node_types"]["train"]["docker"] == {"worker_image": f"{image}-gpu"}
    for package in ("ray", "tensorflow", "keras", "mlflow", "numpy", "pyarrow", "boto3", "s3fs"):
        assert locked(package) == locked(package, "requirements-gpu.lock"), package
    by_type = {
        "head": prepared["head_setup_commands"],
        **{name: launched["available_node_types"][name]["worker_setup_commands"] for name in ("data", "train")},
    }
    for name, setup in by_type.items():
        lock = "requirements-gpu.lock" if name == "train" else "requirements.lock"
        assert sum(f"pip install --quiet --require-hashes -r ~/depthflow/{lock}" in command for command in setup) == 1
        assert any("libgl1" in command and "libglib2.0-0" in command for command in setup), name


def test_mounted_files_exist_and_are_used(launched):
    for remote, local in launched["file_mounts"].items():
        assert remote.startswith("/home/ray/"), "Ray copies files to absolute paths of the container"
        assert local == "~/.ray/auth_token" or (ROOT / local).is_file(), local
    scripts = "".join(path.read_text() for path in (ROOT / "deploy").glob("*.sh"))
    used = set(re.findall(r"~/depthflow/([\w.-]+)", TEXT + scripts))
    assert used == {Path(remote).name for remote in launched["file_mounts"] if "/depthflow/" in remote}


def test_every_node_has_the_token(launched, prepared):
    default = _get_default_token_path().relative_to(Path.home())
    assert launched["file_mounts"][f"/home/ray/{default}"] == f"~/{default}"
    assert "--env=RAY_AUTH_MODE=token" in launched["docker"]["run_options"]
    starts = [command for command in commands(prepared) if " start " in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token ~/venv/bin/ray start " in command for command in starts)
    for setup in (
        prepared["head_setup_commands"],
        *(launched["available_node_types"][name]["worker_setup_commands"] for name in ("data", "train")),
    ):
        assert f"test -r ~/{default}" in setup


def test_the_dashboard_is_only_reachable_on_the_head(prepared):
    start = next(command for command in prepared["head_start_ray_commands"] if "--head" in command)
    assert "--dashboard-host=127.0.0.1" in start
    assert "--num-cpus=0 --num-gpus=0" in start


def test_roles_and_limits_match_the_code(launched):
    types = launched["available_node_types"]
    assert set(types) == set(NODE_TYPES) == set(get_args(Role))
    assert {name: node_type["labels"] for name, node_type in types.items()} == {
        name: {ROLE_LABEL: name} for name in NODE_TYPES
    }
    assert f"--labels={ROLE_LABEL}=head" in TEXT
    limits = {name: (node_type.get("min_workers", 0), node_type["max_workers"]) for name, node_type in types.items()}
    assert limits == {"head": (0, 0), "data": (0, 16), "train": (0, 8)}
    assert launched["max_workers"] == sum(most for _, most in limits.values())
    spot = {name for name, node_type in types.items() if "InstanceMarketOptions" in node_type["node_config"]}
    assert spot == {"data"}


def test_resources_match_the_instance_types(launched):
    """moto ships EC2's list of instance types."""
    for name, node_type in launched["available_node_types"].items():
        instance = INSTANCE_TYPES[node_type["node_config"]["InstanceType"]]
        gpus = sum(gpu["Count"] for gpu in instance.get("GpuInfo", {}).get("Gpus", []))
        there = {"CPU": instance["VCpuInfo"]["DefaultVCpus"], "GPU": gpus}
        assert node_type["resources"] == ({"CPU": 0, "GPU": 0} if name == "head" else there), name


def demand(role: str, count: int, **needed: float) -> list[Any]:
    constraint = (ROLE_LABEL, LabelSelectorOperator.LABEL_OPERATOR_IN, [role])
    one = ResourceRequestUtil.make(needed, label_selectors=[[constraint]])
    return ResourceRequestUtil.group_by_count([one] * count)


@pytest.mark.parametrize(
    ("requests", "launches", "infeasible"),
    [
        (demand("data", 1, CPU=1), {"data": 1}, 0),
        (demand("data", 16 * 16, CPU=1), {"data": 16}, 0),
        (demand("data", 1000, CPU=1), {"data": 16}, 1000 - 16 * 16),
        (demand("train", 8, CPU=8, GPU=1), {"train": 2}, 0),
        (demand("train", 100, CPU=8, GPU=1), {"train": 8}, 100 - 32),
        (demand("head", 1, CPU=1), {}, 1),
        (demand("data", 1, CPU=1) + demand("train", 1, GPU=1), {"data": 1, "train": 1}, 0),
    ],
)
def test_the_autoscaler_adds_nodes_with_the_label_of_the_tasks(prepared, requests, launches, infeasible):
    """Calls Ray's node scheduler directly; tests/nodes/test_autoscaling.py starts nodes."""
    config = AutoscalingConfig(prepared, skip_content_hash=True)
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_worker_nodes(),
            resource_requests=requests,
        )
    )
    assert {launch.instance_type: launch.count for launch in reply.to_launch} == launches
    assert len(reply.infeasible_resource_requests) == infeasible


@pytest.fixture
def simulated_aws(monkeypatch, tmp_path):
    """An empty account; Ray stores its key pair in this test's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "simulated")
    with mock_aws():
        yield
    resource_cache.cache_clear()


def test_the_launcher_starts_every_node_type_and_only_opens_ssh(simulated_aws, prepared, launched):
    ec2 = boto3.client("ec2", region_name=launched["provider"]["region"])
    config = json.loads(json.dumps(prepared).replace("ami-SET-THIS", ec2.describe_images()["Images"][0]["ImageId"]))
    iam = boto3.client("iam")
    for profile in ("head_profile", "node_profile"):
        iam.create_instance_profile(InstanceProfileName=launched["metadata"][profile]["Name"])

    config = bootstrap_aws(config)
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, node_type in config["available_node_types"].items():
        provider.create_node(node_type["node_config"], {"ray-user-node-type": name}, 1)

    instances = [one for group in ec2.describe_instances()["Reservations"] for one in group["Instances"]]
    assert {one["InstanceType"]: one["IamInstanceProfile"]["Arn"].rpartition("/")[2] for one in instances} == {
        "m7i.xlarge": "depthflow-head",
        "m7i.4xlarge": "depthflow-node",
        "g6.12xlarge": "depthflow-node",
    }
    assert {one["Placement"]["AvailabilityZone"] for one in instances} == {launched["metadata"]["zone"]}
    groups = {group["GroupId"] for one in instances for group in one["SecurityGroups"]}
    rules = [
        rule
        for group in ec2.describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"]
        for rule in group["IpPermissions"]
    ]
    open_to_others = [rule for rule in rules if rule["IpRanges"] or rule["Ipv6Ranges"] or rule["PrefixListIds"]]
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in open_to_others] == [("tcp", 22, 22)]
    within = [rule for rule in rules if rule not in open_to_others]
    assert {pair["GroupId"] for rule in within for pair in rule["UserIdGroupPairs"]} == groups


def test_mlflow_has_its_database_on_disk_and_allows_its_host_names(launched):
    """tests/long/test_mlflow_on_head.py runs the script."""
    assert launched["head_start_ray_commands"][-1] == "bash ~/depthflow/mlflow_on_head.sh"
    script = (ROOT / "deploy" / "mlflow_on_head.sh").read_text().replace("\\\n", "")
    line = re.search(r"mlflow server (.*?) > ", script)[1]
    values = {"port": "5000", "database": "/home/ray/mlflow/mlflow.db", "ip": HEAD_IP}
    assert "port=${MLFLOW_PORT:-5000}\ndatabase=$HOME/mlflow/mlflow.db\n" in script
    line = line.replace("$(hostname -f)", HEAD_NAME)
    line = re.sub(r"\$(port|database|ip)\b", lambda found: values[found[1]], line)
    words = shlex.split(line)
    options = {flag: value for flag, value in pairwise(words) if flag.startswith("--")}
    assert options["--backend-store-uri"] == "sqlite:////home/ray/mlflow/mlflow.db"
    assert any(option.endswith(":/home/ray/mlflow") for option in launched["docker"]["head_run_options"])
    assert "--serve-artifacts" in words
    assert options["--artifacts-destination"] == "s3://$DEPTHFLOW_BUCKET/mlflow/artifacts"
    names = ("localhost", "127.0.0.1", HEAD_IP, HEAD_NAME)
    assert options["--allowed-hosts"].split(",") == [f"{name}:{options['--port']}" for name in names]


@pytest.mark.parametrize("script", sorted((ROOT / "deploy").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_valid_shell_and_use_existing_subcommands(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    flags = set(re.findall(r"mlflow_database\.py (\w+) ", script.read_text()))
    assert flags == {"restore", "keep"}


def test_aws_accepts_the_policies_and_nodes_may_only_use_buckets(simulated_aws):
    iam = boto3.client("iam")
    policies = {path.stem: path.read_text() for path in (ROOT / "deploy" / "aws").glob("*.json")}
    iam.create_role(RoleName="role", AssumeRolePolicyDocument=policies.pop("assume-role"))
    for name, policy in policies.items():
        iam.put_role_policy(RoleName="role", PolicyName=name, PolicyDocument=policy)
    actions = {
        name: {action for statement in json.loads(policy)["Statement"] for action in statement["Action"]}
        for name, policy in policies.items()
    }
    assert {action.partition(":")[0] for action in actions["node-policy"]} == {"s3"}
    assert "s3:*" not in actions["node-policy"]


def test_a_requested_bundle_takes_more_than_half_of_a_node(launched):
    script = (ROOT / "deploy" / "nodes.py").read_text()
    assert f'"{ROLE_LABEL}": role' in script
    requested = {name: int(cpus) for cpus, name in re.findall(r'\[\{"CPU": (\d+)[^}]*\}\] \* (\w+)', script)}
    assert set(requested) == {"data", "train"}
    for name, cpus in requested.items():
        assert cpus > launched["available_node_types"][name]["resources"]["CPU"] / 2, name
