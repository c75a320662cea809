"""Watched tasks on Ray: Ray Data maps a function over items, and a board shows what each task is doing.

A task that hangs cannot say so itself, so the driver looks at the board while it waits, and ends the run with the name
of the sample that takes too long: a stall is loud, whatever its cause, a disk that is gone or a frozen process.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import cv2
import ray
import ray.data
from ray import cloudpickle
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.exceptions import GetTimeoutError, RayActorError

from depthflow.datasets.triplet import RejectError
from depthflow.errors import StoreError, unwrapped
from depthflow.placement import cluster_capacity, plan_data
from depthflow.store.write.plan import PlannedSample

T = TypeVar("T")

REPORT_EVERY_S = 1.0
BOARD_TIMEOUT_S = 10.0


class Report(NamedTuple):
    """What a task is at.

    Attributes:
        task: its number.
        name: of the sample being made, or empty between two.
        running_s: seconds since it was begun.
        done: samples and rejects done, or what else the task counts.
        rejects: inputs refused.
        last_reject: the last of them, for a message.
    """

    task: int
    name: str
    running_s: float
    done: int
    rejects: int
    last_reject: str


class Limits(NamedTuple):
    """When a run is ended.

    Attributes:
        sample_timeout_s: seconds that one sample may take.
        max_rejects: inputs that may be refused; None for any number.
    """

    sample_timeout_s: float
    max_rejects: int | None


class Reporter:
    """A task's side of the board: says every second what the task is at.

    Args:
        post: takes a `Report`.
        task: the task's number.
    """

    def __init__(self, post: Callable[[Report], Any], task: int) -> None:
        self._post, self._task = post, task
        self._name, self._since = "", time.monotonic()
        self._done, self._rejects, self._last_reject = 0, 0, ""

    def begin(self, name: str, *, done: int | None = None) -> None:
        """The task turns to a sample; `done` says how far it is where it counts something other than samples."""
        self._name, self._since = name, time.monotonic()
        self._done = self._done if done is None else done

    @contextmanager
    def watch(self, planned: PlannedSample) -> Iterator[None]:
        """The task makes a sample for the block; RejectError passes, counted."""
        self.begin(planned.triplet.sample_id)
        try:
            yield
        except RejectError as error:
            self._rejects += 1
            self._last_reject = f"{planned.triplet.sample_id} ({error})"
            raise
        finally:
            self._done += 1
            self.begin("")

    @contextmanager
    def reporting(self) -> Iterator["Reporter"]:
        """Reports for the block."""
        stop = threading.Event()
        thread = threading.Thread(target=self._report_until, args=(stop,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def _report_until(self, stop: threading.Event) -> None:
        waited = False
        while not waited:
            waited = stop.wait(REPORT_EVERY_S)
            running_s = time.monotonic() - self._since
            self._post(Report(self._task, self._name, running_s, self._done, self._rejects, self._last_reject))


class Board:
    """The latest report of each task, aging. Lives in a Ray actor."""

    def __init__(self) -> None:
        self._reports: dict[int, tuple[float, Report]] = {}

    def post(self, report: Report) -> None:
        """Takes the place of the task's report before."""
        self._reports[report.task] = (time.monotonic(), report)

    def read(self) -> list[Report]:
        """All reports; what was being made then counts as being made still."""
        now = time.monotonic()
        return [r._replace(running_s=r.running_s + (now - at if r.name else 0)) for at, r in self._reports.values()]


def run_tasks(
    items: Sequence[T],
    work: Callable[[T, Reporter], dict[str, Any]],
    *,
    limits: Limits,
    progress: Callable[[int], None],
    gauges: Callable[[int, int], None] = lambda done, rejects: None,
    on_result: Callable[[dict[str, Any]], None] = lambda result: None,
) -> None:
    """Runs `work` on each item in a Ray task of its own, and ends the run if a limit is exceeded.

    Args:
        items: Inputs of the tasks. Each is pickled into its own task's row, so a task costs the same however many
            there are.
        work: Returns plain values, among them `done` and `refused`: how many samples the item held, and how many of
            them were rejected.
        progress: Called with the number of samples done.
        gauges: Called with the number of samples done and the number of rejects.
        on_result: Called with what each task returned, in any order, from a background thread.

    Raises:
        PlacementError: if no node can run the tasks.
        StoreError: if a sample takes too long, or too many inputs are rejected; and whatever `work` raises.
    """
    if not items:
        return
    where = plan_data(**cluster_capacity())
    board_actor: Any = ray.remote(num_cpus=0, max_restarts=-1, label_selector=_this_node())(Board)
    board = board_actor.remote()

    def call(row: dict[str, Any]) -> dict[str, Any]:
        task = row["task"]
        reporter = Reporter(board.post.remote, task)
        cv2.setNumThreads(1)  # A task has one CPU.
        with reporter.reporting():
            return {"task": task, **work(cloudpickle.loads(row["item"]), reporter)}

    rows = [{"task": n, "item": cloudpickle.dumps(item)} for n, item in enumerate(items)]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    results = dataset.map(call, label_selector=dict(where.label_selector))
    finished: dict[int, tuple[int, int]] = {}

    def consume() -> None:
        for result in results.iter_rows():
            finished[result["task"]] = (result["done"], result["refused"])
            on_result(result)

    def check_board() -> None:
        reports, ended = _read(board), dict(finished)
        running = [report for report in reports if report.task not in ended]
        done = sum(done for done, _ in ended.values()) + sum(report.done for report in running)
        rejects = sum(rejects for _, rejects in ended.values()) + sum(report.rejects for report in running)
        progress(done)
        gauges(done, rejects)
        refuse_stall(running, sample_timeout_s=limits.sample_timeout_s)
        example = next((report.last_reject for report in reports if report.rejects), "")
        refuse_many_rejects(rejects, max_rejects=limits.max_rejects, example=example)

    with unwrapped(), _in_background(consume) as future:
        while wait([future], timeout=REPORT_EVERY_S).not_done:
            check_board()
        future.result()
        check_board()


def _this_node() -> dict[str, str]:
    """Selects the driver's node: it does not come and go, as autoscaled nodes do, and is not for training alone."""
    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


@contextmanager
def _in_background(consume: Callable[[], None]) -> Iterator[Future[None]]:
    """Consumes a dataset in a thread; when the block ends early, so does the dataset's execution."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(consume)
        try:
            yield future
        finally:
            while not future.done():
                # Ray Data has no public way to end an execution that another thread consumes.
                for thread in threading.enumerate():
                    if isinstance(thread, StreamingExecutor):
                        thread.shutdown(force=True)
                wait([future], timeout=REPORT_EVERY_S / 10)


def _read(board: Any) -> list[Report]:
    """The board's reports; none while it is being restarted, because its process was lost."""
    try:
        return ray.get(board.read.remote(), timeout=BOARD_TIMEOUT_S)
    except (GetTimeoutError, RayActorError):
        return []


def refuse_stall(running: Sequence[Report], *, sample_timeout_s: float) -> None:
    """Ends a run in which a sample takes too long: StoreError."""
    for report in running:
        if report.running_s > sample_timeout_s:
            what = f"{report.name} has been worked on" if report.name else "A task has been writing what it made"
            raise StoreError(
                f"{what} for {report.running_s:.0f} s, more than --sample-timeout-s "
                f"{sample_timeout_s:g}: its disk hangs, or its process is frozen. Mend or remove it, and run the "
                "same command again."
            )


def refuse_many_rejects(rejects: int, *, max_rejects: int | None, example: str) -> None:
    """Ends a run in which more inputs were refused than the user allows: StoreError."""
    if max_rejects is not None and rejects > max_rejects:
        raise StoreError(
            f"{rejects} inputs were refused, more than --max-rejects {max_rejects}"
            + (f": {example} for one. " if example else ". ")
            + "Mend the source, or allow more."
        )
