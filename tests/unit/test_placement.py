"""Where work goes, and what is refused because no node can ever have it. No Ray: nodes are what is passed."""

import time

import pytest
import yaml

from depthflow import placement
from depthflow.errors import PlacementError
from depthflow.placement import (
    GROUP_LABEL,
    LIMITS_VARIABLE,
    ROLE_LABEL,
    Node,
    TrainingPlan,
    addable_nodes,
    autoscaled_nodes,
    plan_data,
    plan_pool,
    plan_training,
)


def node(cpus, gpus=0, role=None, group=None):
    labels = {ROLE_LABEL: role, GROUP_LABEL: group}
    return Node(cpus=cpus, gpus=gpus, labels={name: value for name, value in labels.items() if value})


ON_TRAIN, ON_DATA = {ROLE_LABEL: "train"}, {ROLE_LABEL: "data"}
LAPTOP = [node(2)]
CPU_CLUSTER = [node(1), *[node(4)] * 4]
GPU_CLUSTER = [node(4), *[node(16)] * 3, *[node(8, 1)] * 2]
LABELLED = [node(2, role="head"), *[node(8, role="data")] * 2, *[node(16, 4, role="train")] * 2]
HEAD = [node(2, role="head", group="head")]

# --- training ---


@pytest.mark.parametrize(
    ("asked", "nodes", "workers", "use_gpu", "cpus_per_worker"),
    [
        (None, [node(1)], 1, False, 1),
        (None, LAPTOP, 2, False, 1),
        (1, LAPTOP, 1, False, 2),
        (None, [node(7)], 2, False, 3),
        (None, CPU_CLUSTER, 2, False, 3),
        (5, CPU_CLUSTER, 5, False, 1),
        (13, CPU_CLUSTER, 13, False, 1),
        (2, [node(1), node(1)], 2, False, 1),
        (None, GPU_CLUSTER, 2, True, 7),
        (1, GPU_CLUSTER, 1, True, 7),
        (None, [node(4, 1), node(64)], 1, True, 3),
        (None, [node(16, 4)], 4, True, 4),
        (2, [node(64, 4)], 2, True, 8),
        (None, [node(256, 8)], 8, True, 8),
    ],
)
def test_plan_fits_the_nodes(asked, nodes, workers, use_gpu, cpus_per_worker):
    plan = plan_training(num_workers=asked, nodes=nodes)
    assert plan == TrainingPlan(num_workers=workers, use_gpu=use_gpu, cpus_per_worker=cpus_per_worker)


@pytest.mark.parametrize(
    ("asked", "nodes"),
    [
        (3, LAPTOP),
        (3, GPU_CLUSTER),
        (None, [node(0)]),
        (None, [node(2, 4)]),
        (None, [node(0, 1), node(64)]),
        (14, CPU_CLUSTER),
    ],
)
def test_more_workers_than_can_be_placed_are_refused(asked, nodes):
    with pytest.raises(PlacementError, match=r"room for .*Lower --num-workers"):
        plan_training(num_workers=asked, nodes=nodes)


@pytest.mark.parametrize(("asked", "workers", "cpus"), [(None, 8, 3), (2, 2, 8), (1, 1, 8)])
def test_nodes_of_the_role_alone_train(asked, workers, cpus):
    """Those for data have more CPUs left, and the head has, too."""
    plan = plan_training(num_workers=asked, nodes=LABELLED)
    wanted = {"num_workers": workers, "use_gpu": True, "cpus_per_worker": cpus}
    assert plan == TrainingPlan(**wanted, label_selector=ON_TRAIN)


def test_a_cpu_of_each_node_is_left_to_data_tasks():
    for cpus in range(2, 20):
        for gpus in (0, 1, 2):
            nodes = [node(cpus, gpus), node(cpus, gpus)]
            for asked in range(1, 2 * cpus):
                try:
                    plan = plan_training(num_workers=asked, nodes=nodes)
                except PlacementError:
                    continue
                on_a_node = -(-asked // 2) if gpus else min(asked, (cpus - 1) // plan.cpus_per_worker)
                assert on_a_node * plan.cpus_per_worker < cpus


def test_what_is_missing_is_said():
    with pytest.raises(PlacementError) as info:
        plan_training(num_workers=9, nodes=LABELLED)
    assert str(info.value) == (
        "9 workers need one CPU and one GPU each; Ray has 32 CPUs and 8 GPUs on 2 nodes with depthflow.io/role=train, "
        "which is room for 8, one CPU of each node left to data tasks. Lower --num-workers, or add nodes with "
        "depthflow.io/role=train."
    )


# --- what the autoscaler may still add ---


@pytest.mark.parametrize(("asked", "workers"), [(None, 1), (1, 1), (8, 8)])
def test_workers_may_wait_for_the_autoscaler(asked, workers):
    """Without a number one GPU is asked for, not all that money can buy."""
    plan = plan_training(num_workers=asked, nodes=HEAD, addable=[node(8, 1, role="train")] * 8)
    assert (plan.num_workers, plan.use_gpu, plan.cpus_per_worker) == (workers, True, 7)
    assert plan.label_selector == ON_TRAIN


def test_gpus_that_are_there_are_what_is_taken_without_a_number():
    nodes = [*HEAD, *[node(8, 1, role="train")] * 3]
    assert plan_training(num_workers=None, nodes=nodes, addable=[node(8, 1, role="train")] * 5).num_workers == 3


def test_more_than_the_autoscaler_may_add_is_refused():
    with pytest.raises(PlacementError, match=r"0 CPUs and 0 GPUs on 0 nodes .* and can add 8 with 64 CPUs and 8 GPUs"):
        plan_training(num_workers=9, nodes=HEAD, addable=[node(8, 1, role="train")] * 8)


CLUSTER = {
    "max_workers": 20,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 2}, "max_workers": 0, "labels": {ROLE_LABEL: "head"}},
        "data": {"resources": {"CPU": 16}, "max_workers": 16, "labels": {ROLE_LABEL: "data"}},
        "train": {
            "resources": {"CPU": 8, "GPU": 1, "memory": 2**34},
            "max_workers": 8,
            "labels": {ROLE_LABEL: "train"},
        },
        "bare": {},
    },
}


def test_the_autoscaler_adds_up_to_its_limits():
    there = [*HEAD, *[node(16, role="data", group="data")] * 15, node(8, 1, role="train", group="train")]
    found = addable_nodes(CLUSTER, there)
    by_group = {name: [n for n in found if n.labels[GROUP_LABEL] == name] for name in CLUSTER["available_node_types"]}
    assert {name: len(nodes) for name, nodes in by_group.items()} == {"head": 0, "data": 1, "train": 7, "bare": 20}
    assert (by_group["train"][0].cpus, by_group["train"][0].gpus, by_group["train"][0].memory_bytes) == (8, 1, 2**34)
    assert by_group["train"][0].labels[ROLE_LABEL] == "train"
    assert addable_nodes({**CLUSTER, "max_workers": 3}, there) == [
        *[n for n in found if n.labels[GROUP_LABEL] == "train"][:2],
        *[n for n in found if n.labels[GROUP_LABEL] == "bare"][:3],
    ]


def test_limits_are_read_from_the_launchers_file_or_the_one_that_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv(LIMITS_VARIABLE, raising=False)
    monkeypatch.setattr(placement, "LAUNCHERS_FILE", str(tmp_path / "launcher.yaml"))
    assert autoscaled_nodes(HEAD) == []
    (tmp_path / "launcher.yaml").write_text(yaml.safe_dump(CLUSTER, sort_keys=False))
    assert autoscaled_nodes(HEAD) == addable_nodes(CLUSTER, HEAD) != []
    assert autoscaled_nodes(LAPTOP) == [], "a Ray of a command's own, beside the cluster's"
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({**CLUSTER, "max_workers": 1}))
    monkeypatch.setenv(LIMITS_VARIABLE, str(tmp_path / "other.yaml"))
    assert len(autoscaled_nodes(HEAD)) == 3


@pytest.mark.parametrize("content", [None, "a: [", "a: 1", "- 1", ""])
def test_a_file_that_says_nothing_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.setenv(LIMITS_VARIABLE, str(tmp_path / "limits.yaml"))
    if content is not None:
        (tmp_path / "limits.yaml").write_text(content)
    with pytest.raises(PlacementError, match=r"limits\.yaml has no available_node_types"):
        autoscaled_nodes(HEAD)


# --- data tasks and pools ---


@pytest.mark.parametrize(
    ("nodes", "addable", "selector", "most_cpus"),
    [
        (LAPTOP, [], {}, 2),
        (GPU_CLUSTER, [], {}, 16),
        (LABELLED, [], ON_DATA, 8),
        (HEAD, [node(4, role="data")], ON_DATA, 4),
        ([*HEAD, node(2, role="data")], [node(4, role="data")], ON_DATA, 2),
        ([*HEAD, node(8, 1, role="train")], [], {}, 8),
    ],
)
def test_data_tasks_go_to_nodes_of_the_role_else_anywhere(nodes, addable, selector, most_cpus):
    plan = plan_data(nodes=nodes, addable=addable)
    assert (plan.label_selector, plan.most_cpus) == (selector, most_cpus)


@pytest.mark.parametrize("nodes", [[], [node(0)], [node(8), node(0, role="data")]])
def test_data_tasks_without_a_cpu_are_refused(nodes):
    with pytest.raises(PlacementError, match=r"needs one CPU; Ray has 0 CPUs .*Add a node"):
        plan_data(nodes=nodes)


@pytest.mark.parametrize(
    ("asked", "nodes", "addable", "workers", "use_gpu", "selector"),
    [
        (None, LAPTOP, [], 1, False, {}),
        (2, LAPTOP, [], 2, False, {}),
        (None, GPU_CLUSTER, [], 2, True, {}),
        (None, LABELLED, [], 8, True, ON_TRAIN),
        (None, [*HEAD, node(8, role="data"), node(8, role="train")], [], 1, False, ON_DATA),
        (None, HEAD, [node(8, 1, role="train")] * 4, 1, True, ON_TRAIN),
        (4, HEAD, [node(8, 1, role="train")] * 4, 4, True, ON_TRAIN),
    ],
)
def test_pools_go_to_gpus_where_there_are_some(asked, nodes, addable, workers, use_gpu, selector):
    pool = plan_pool(asked, nodes=nodes, addable=addable)
    assert (pool.num_workers, pool.use_gpu, pool.label_selector) == (workers, use_gpu, selector)


@pytest.mark.parametrize(
    ("asked", "nodes", "told"),
    [
        (3, LAPTOP, r"3 workers need one CPU each; Ray has 2 CPUs .* room for 2\. Lower --num-workers\.$"),
        (9, LABELLED, r"9 workers need one CPU and one GPU each; Ray has 32 CPUs and 8 GPUs on 2 nodes .*or add nodes"),
        (None, [node(0)], r"1 workers need one CPU each"),
        (2, [node(1, 4)], r"room for 1\."),
    ],
)
def test_a_pool_that_can_never_be_placed_is_refused(asked, nodes, told):
    with pytest.raises(PlacementError, match=told):
        plan_pool(asked, nodes=nodes)


def test_deciding_takes_no_time():
    """On a cluster as large as any that depthflow is run on."""
    nodes, began = [node(96, 8, role="train")] * 64 + [node(64, role="data")] * 256, time.monotonic()
    assert plan_training(num_workers=512, nodes=nodes).cpus_per_worker == 8
    with pytest.raises(PlacementError):
        plan_training(num_workers=513, nodes=nodes)
    assert time.monotonic() - began < 5
