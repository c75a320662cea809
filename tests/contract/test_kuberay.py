"""The Kubernetes manifests against cluster.yaml, pyproject.toml, the lock files and the commands' flags."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from depthflow.cluster.requirements import preflight_flags
from depthflow.command import parse_command
from depthflow.placement import LIMITS_VARIABLE, ROLE_LABEL

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kuberay"
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
JOBS = ("doctor", "preprocess", "preprocess-val", "train", "evaluate", "promote")
NAMESPACE = "depthflow"


@pytest.fixture(scope="module")
def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """Every manifest by kind and name."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(FOLDER.rglob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text()):
            key = (manifest["kind"], manifest["metadata"]["name"])
            assert key not in found, f"{key} twice"
            found[key] = manifest
    return found


@pytest.fixture(scope="module")
def cluster(manifests) -> dict[str, Any]:
    return manifests["RayCluster", "depthflow"]["spec"]


@pytest.fixture(scope="module")
def groups(cluster) -> dict[str, dict[str, Any]]:
    """The cluster's pod groups by name, including the head."""
    return {"head": cluster["headGroupSpec"], **{group["groupName"]: group for group in cluster["workerGroupSpecs"]}}


def pods(manifests) -> dict[str, dict[str, Any]]:
    """The spec of every pod, by kind and name."""
    cluster = manifests["RayCluster", "depthflow"]["spec"]
    found = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    found["head"] = cluster["headGroupSpec"]["template"]["spec"]
    found["mlflow"] = manifests["Deployment", "mlflow"]["spec"]["template"]["spec"]
    return found


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def test_all_resources_are_in_one_namespace(manifests):
    for (kind, name), manifest in manifests.items():
        assert manifest["metadata"].get("namespace", name) == NAMESPACE, (kind, name)


def test_required_settings_are_marked():
    text = "".join(path.read_text() for path in FOLDER.rglob("*.yaml"))
    assert set(re.findall(r"SET-[A-Z-]+", text)) == {"SET-REGISTRY", "SET-BUCKET", "SET-ROLE-ARN"}
    assert set(re.findall(r"s3://([\w.-]+)", text)) == {"SET-BUCKET", "diode-dataset"}


def test_images_have_this_version_and_only_training_uses_the_gpu_image(manifests):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, pod in pods(manifests).items():
        tag = f"{version}-gpu" if name == "train" else version
        assert {container["image"] for container in containers(pod)} == {f"SET-REGISTRY/depthflow:{tag}"}, name
    assert f"-t REGISTRY/depthflow:{version} ." in DOCKERFILE
    assert f"-t REGISTRY/depthflow:{version}-gpu --build-arg VARIANT=-gpu ." in DOCKERFILE


def test_the_image_installs_the_lock_files_on_the_launchers_image(cluster, launched, locked):
    assert cluster["rayVersion"] == locked("ray")
    assert f"FROM {launched['docker']['image']}${{VARIANT}}\n" in DOCKERFILE
    assert launched["available_node_types"]["train"]["docker"]["worker_image"] == f"{launched['docker']['image']}-gpu"
    assert "--require-hashes -r requirements${VARIANT}.lock" in DOCKERFILE
    assert "libgl1" in DOCKERFILE and "libglib2.0-0" in DOCKERFILE
    copied = re.findall(r"^COPY --chown=ray (.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    allowed = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text()
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"\n!{source}\n" in allowed, f"{source} is kept from the build by Dockerfile.dockerignore"


def test_every_node_and_submitter_has_the_token(manifests, cluster):
    """The operator sets it from one secret; no manifest contains its value."""
    assert cluster["authOptions"] == {"mode": "token", "secretName": "depthflow-token"}
    assert "Secret" not in {kind for kind, _ in manifests}
    assert f"secret generic {cluster['authOptions']['secretName']}" in (FOLDER / "access.yaml").read_text()
    for pod in pods(manifests).values():
        for container in containers(pod):
            assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & {one["name"] for one in container.get("env", [])}


def test_groups_match_the_launchers_node_types(groups, launched):
    types = launched["available_node_types"]
    assert set(groups) == set(types)
    for name, group in groups.items():
        assert group["labels"] == types[name]["labels"] == {ROLE_LABEL: name}
        if name != "head":
            limits = (group["minReplicas"], group["replicas"], group["maxReplicas"])
            assert limits == (types[name]["min_workers"], 0, types[name]["max_workers"]), name
        limit = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert int(limit.get("nvidia.com/gpu", 0)) == types[name]["resources"]["GPU"], name
        if name != "head":
            assert 0.9 * types[name]["resources"]["CPU"] < int(limit["cpu"]) < types[name]["resources"]["CPU"]
    assert groups["head"]["resources"] == {"CPU": "0", "GPU": "0"}


def test_the_autoscaler_supports_labels_and_the_code_knows_its_limits(manifests, cluster, groups):
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    given = yaml.safe_load(manifests["ConfigMap", "limits"]["data"]["limits.yaml"])
    limits = given["available_node_types"]
    limits["head"] = limits.pop(given["head_node_type"])
    assert given["head_node_type"] == "headgroup", (
        "KubeRay's name, by which the code knows that the file is of this Ray"
    )
    assert set(limits) == set(groups)
    assert given["max_workers"] == sum(limit["max_workers"] for limit in limits.values())
    for name, group in groups.items():
        limit = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        has = {"CPU": int(limit["cpu"]), "GPU": int(limit.get("nvidia.com/gpu", 0))}
        assert limits[name]["resources"] == ({"CPU": 0, "GPU": 0} if name == "head" else has), name
        assert limits[name]["labels"] == group["labels"]
        assert limits[name]["max_workers"] == group.get("maxReplicas", 0)
    head = groups["head"]["template"]["spec"]
    mount = head["containers"][0]["volumeMounts"][0]
    assert head["volumes"] == [{"name": mount["name"], "configMap": {"name": "limits"}}]
    assert head["containers"][0]["env"] == [{"name": LIMITS_VARIABLE, "value": f"{mount['mountPath']}/limits.yaml"}]


def test_pods_use_the_service_account(manifests):
    assert ("ServiceAccount", "depthflow") in manifests
    assert {pod["serviceAccountName"] for pod in pods(manifests).values()} == {"depthflow"}


def test_no_service_is_public(manifests, groups):
    assert groups["head"]["serviceType"] == "ClusterIP"
    assert {manifest["spec"]["type"] for (kind, _), manifest in manifests.items() if kind == "Service"} == {"ClusterIP"}
    assert "Ingress" not in {kind for kind, _ in manifests}


def test_mlflow_allows_the_host_name_that_jobs_use(manifests):
    pod = manifests["Deployment", "mlflow"]["spec"]["template"]["spec"]
    server = next(container for container in pod["containers"] if container["name"] == "server")
    words = [*server["command"], *server["args"]]
    allowed = next(word for word in words if word.startswith("--allowed-hosts=")).partition("=")[2].split(",")
    service = manifests["Service", "mlflow"]["spec"]
    port = service["ports"][0]["port"]
    assert words[words.index("--port") + 1] == str(port)
    for job in JOBS:
        uri = yaml.safe_load(manifests["RayJob", job]["spec"]["runtimeEnvYAML"])["env_vars"]["MLFLOW_TRACKING_URI"]
        assert uri == f"http://mlflow.{NAMESPACE}:{port}"
        assert uri.removeprefix("http://") in allowed
    assert f"localhost:{port}" in allowed, "by way of kubectl port-forward"
    assert all(host.endswith(f":{port}") and "*" not in host for host in allowed)
    assert "--backend-store-uri=sqlite:////mlflow/mlflow.db" in words
    assert "--artifacts-destination=s3://SET-BUCKET/mlflow/artifacts" in words
    claim = pod["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert ("PersistentVolumeClaim", claim) in manifests


def test_every_step_has_a_job(manifests):
    assert sorted(name for kind, name in manifests if kind == "RayJob") == sorted(JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_jobs_run_a_preflight_and_a_command_with_valid_flags(manifests, job):
    listed = dict(line.split(": ") for line in Path(__file__).with_name("flags.txt").read_text().splitlines())
    spec = manifests["RayJob", job]["spec"]
    assert spec["clusterSelector"] == {"ray.io/cluster": "depthflow"}
    assert spec["submissionMode"] == "HTTPMode", "KubeRay's submitter would read && as its own shell's"
    folder, *commands = spec["entrypoint"].split(" && ")
    assert folder == "cd /home/ray/depthflow"
    assert f"WORKDIR {folder.removeprefix('cd ')}\n" in DOCKERFILE
    assert len(commands) == (1 if job == "doctor" else 2)
    assert commands[-1].startswith("exec ")
    for command in commands:
        python, script, *words = shlex.split(command.removeprefix("exec "))
        assert python == "python"
        assert (ROOT / script).is_file() and script.startswith("pipelines/")
        flags = {word for word in words if word.startswith("-")}
        assert flags <= set(listed[Path(script).stem].split()), flags


@pytest.mark.parametrize("job", [job for job in JOBS if job != "doctor"])
def test_jobs_run_the_preflight_of_submit(manifests, job):
    _, preflight, command = manifests["RayJob", job]["spec"]["entrypoint"].split(" && ")
    _, _, script, *arguments = shlex.split(command)
    parsed = parse_command(ROOT / script, arguments)
    wanted = preflight_flags(Path(script).stem, parsed)
    assert shlex.split(preflight) == ["python", "pipelines/doctor.py", *wanted]
