"""docs/how-to/cluster.md agrees with the code, the manifests and other pages."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "how-to" / "cluster.md").read_text()
BLOCKS = "".join(re.findall(r"^```sh[^\n]*\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
COMMANDS = re.findall(r"python pipelines/(?:submit\.py )?(\w+)(?:\.py)? ?(.*)", BLOCKS)


def test_commands_use_existing_flags():
    listed = dict(line.split(": ") for line in Path(__file__).with_name("flags.txt").read_text().splitlines())
    assert {name for name, _ in COMMANDS} == {"doctor", "preprocess", "train", "evaluate", "promote", "predict"}
    for name, arguments in COMMANDS:
        flags = {word for word in shlex.split(arguments) if word.startswith("--")}
        assert flags <= set(listed[name].split()), f"{name} {arguments}"


@pytest.mark.parametrize("job", ["preprocess", "preprocess-val", "train", "evaluate", "promote"])
def test_steps_are_the_same_on_aws_and_kubernetes(job):
    manifest = yaml.safe_load((ROOT / "deploy" / "kuberay" / "jobs" / f"{job}.yaml").read_text())
    words = manifest["spec"]["entrypoint"].rpartition("exec python pipelines/")[2].replace(".py", "", 1)
    wanted = set(shlex.split(words.replace("SET-BUCKET", "$BUCKET"))) - {"--protocol", "devkit"}
    steps = [{name, *shlex.split(arguments)} - {"--protocol", "devkit"} for name, arguments in COMMANDS]
    assert wanted in steps


def test_named_files_exist():
    named = set(re.findall(r"`((?:deploy|docs|pipelines)/[\w./-]+|cluster\.yaml)`", GUIDE))
    named |= set(re.findall(r"\b((?:deploy|pipelines)/[\w./-]+\.\w+)", BLOCKS))
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists(), name


def test_costs_match_the_capacity_table():
    capacity = (ROOT / "docs" / "how-to" / "whole-diode.md").read_text()
    assert "at $0.8064 an hour (m7i.4xlarge" in capacity and "m7i.4xlarge $0.8064" in GUIDE
    for nodes in (4, 16):
        hours, dollars = re.findall(rf"^\| {nodes} \| [^|]+ \| ([\d.]+ h), (\$[\d.]+) \|$", capacity, re.MULTILINE)[0]
        assert re.search(rf"\| {nodes} data \| {hours} \| {re.escape(dollars)} \|", GUIDE), nodes


def test_the_guide_says_what_has_not_been_tested():
    text = " ".join(GUIDE.split())
    assert "Multi-GPU TensorFlow has not yet run on NVIDIA hardware here" in text
    assert "The AWS commands were checked by schema only" in text
    assert "The Kubernetes manifests were checked by schema only" in text
    assert "`doctor.py` is the first thing to run there" in text


def test_aws_roles_match_cluster_yaml(launched):
    profiles = [launched["metadata"][name]["Name"] for name in ("head_profile", "node_profile")]
    assert "for node in head node; do" in BLOCKS
    assert profiles == ["depthflow-head", "depthflow-node"]
    assert launched["metadata"]["region"] == re.findall(r"export REGION=(\S+)", BLOCKS)[0]
