"""A user's error raised in one of Ray's processes reaches the driver as it was raised."""

import errno
import os
import pickle

import pytest
import ray
import ray.data
from ray.exceptions import RayError

from depthflow import errors
from depthflow.errors import DepthflowError, full_disk_reported, unwrapped

ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DepthflowError)]


def in_task(fail):
    ray.get(ray.remote(fail).remote())


def in_nested_task(fail):
    ray.get(ray.remote(lambda: ray.get(ray.remote(fail).remote())).remote())


def in_actor(fail):
    class Worker:
        def work(self):
            fail()

    ray.get(ray.remote(Worker).remote().work.remote())


def in_data_task(fail):
    list(ray.data.range(4).map(lambda row: fail()).iter_rows())


def in_data_actor(fail):
    class Worker:
        def __call__(self, batch):
            fail()

    list(ray.data.range(4).map_batches(Worker, concurrency=1).iter_rows())


def in_training(fail):
    from ray.train import ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    DataParallelTrainer(fail, scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1})).fit()


PLACES = [in_task, in_nested_task, in_actor, in_data_task, in_data_actor, in_training]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.usefixtures("shared_ray")
def test_a_users_error_is_raised_as_it_was_in_the_process(place, capfd):
    def fail():
        try:
            raise OSError("the disk is gone")
        except OSError as error:
            raise errors.StoreError("Broken shard. Restore it.", details={"shard": 3}, exit_code=75) from error

    with pytest.raises(errors.StoreError) as caught, unwrapped():
        place(fail)
    assert type(caught.value) is errors.StoreError
    assert str(caught.value) == "Broken shard. Restore it."
    assert (caught.value.details, caught.value.exit_code) == ({"shard": 3}, 75)
    if place in (in_data_task, in_data_actor):
        assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("place", [in_nested_task, in_data_task, in_training])
@pytest.mark.usefixtures("shared_ray")
def test_a_full_disk_is_told_from_any_process(place):
    def fail():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/file")

    told = r"^A disk is full: .*No space left on device: '/some/file'\. Free space, or"
    with pytest.raises(DepthflowError, match=told), full_disk_reported():
        place(fail)


@pytest.mark.parametrize("place", [in_task, in_data_task])
@pytest.mark.usefixtures("shared_ray")
def test_a_defect_keeps_its_traceback(place):
    def fail():
        raise ZeroDivisionError("a defect")

    with pytest.raises(RayError, match="a defect"), unwrapped():
        place(fail)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.usefixtures("shared_ray")
def test_every_kind_of_error_survives_a_task(kind):
    def fail():
        raise kind("What was wrong.", details={"of": "it"}, exit_code=9)

    with pytest.raises(kind) as caught, unwrapped():
        in_task(fail)
    assert type(caught.value) is kind
    assert (str(caught.value), caught.value.details, caught.value.exit_code) == ("What was wrong.", {"of": "it"}, 9)
    assert pickle.loads(pickle.dumps(caught.value)).details == {"of": "it"}
