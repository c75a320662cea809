"""Watched Ray tasks: Ray Data maps a function over items, and a board shows what each task is doing.

A task that hangs cannot report it. So the driver reads the board while it waits, and fails with the name of the sample
that takes too long, whether a disk is gone or a process is frozen.
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

from depthflow.datasets.reject import RejectError
from depthflow.errors import StoreError, unwrapped
from depthflow.placement import cluster_capacity, plan_data
from depthflow.store.write.plan import PlannedSample

T = TypeVar("T")

REPORT_EVERY_S = 1.0
BOARD_TIMEOUT_S = 10.0


class Report(NamedTuple):
    """What a task is doing.

    Attributes:
        task: Number of the task.
        name: The sample being made; empty between two samples.
        running_s: Seconds since the task began with it.
        done: Samples and rejects done so far, or whatever else the task counts.
        rejects: Number of rejects.
        last_reject: The last reject, for a message.
    """

    task: int
    name: str
    running_s: float
    done: int
    rejects: int
    last_reject: str


class Limits(NamedTuple):
    """Limits that end a run when they are exceeded.

    Attributes:
        sample_timeout_s: Seconds that one sample may take.
        max_rejects: Number of inputs that may be rejected; None for no limit.
    """

    sample_timeout_s: float
    max_rejects: int | None


class Outcome(NamedTuple):
    """What a task returns.

    Attributes:
        done: Samples and rejects that its item held, or whatever else it counted.
        rejects: Number of rejects among them.
        value: Its result.
    """

    done: int
    rejects: int = 0
    value: Any = None


class Reporter:
    """The task's side of the board: reports every second what the task is doing.

    Args:
        post: Called with each `Report`.
        task: Number of the task.
    """

    def __init__(self, post: Callable[[Report], Any], task: int) -> None:
        self._post, self._task = post, task
        self._name, self._since = "", time.monotonic()
        self._done, self._rejects, self._last_reject = 0, 0, ""

    def begin(self, name: str, *, done: int | None = None) -> None:
        """Starts a sample; `done` is the task's progress if it counts something other than samples."""
        self._name, self._since = name, time.monotonic()
        self._done = self._done if done is None else done

    @contextmanager
    def watch(self, planned: PlannedSample) -> Iterator[None]:
        """Reports the sample that is made in the block; a RejectError is counted and raised again."""
        self.begin(planned.frame.sample_id)
        try:
            yield
        except RejectError as error:
            self._rejects += 1
            self._last_reject = f"{planned.frame.sample_id} ({error})"
            raise
        finally:
            self._done += 1
            self.begin("")

    @contextmanager
    def reporting(self) -> Iterator["Reporter"]:
        """Reports while the block runs."""
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
    """Keeps the latest report of each task. Runs as a Ray actor."""

    def __init__(self) -> None:
        self._reports: dict[int, tuple[float, Report]] = {}

    def post(self, report: Report) -> None:
        """Replaces the task's previous report."""
        self._reports[report.task] = (time.monotonic(), report)

    def read(self) -> list[Report]:
        """Returns all reports; the time since each was posted counts as time spent on its sample."""
        now = time.monotonic()
        return [r._replace(running_s=r.running_s + (now - at if r.name else 0)) for at, r in self._reports.values()]


def run_tasks(
    items: Sequence[T],
    work: Callable[[T, Reporter], Outcome],
    *,
    limits: Limits,
    progress: Callable[[int, int], None] = lambda done, rejects: None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> None:
    """Runs `work` on each item in a Ray task of its own, and ends the run if a limit is exceeded.

    Args:
        items: Inputs of the tasks. Each is pickled into its own task's row, so a task costs the same however many
            there are.
        work: Called in the task.
        progress: Called every second with the totals of `Outcome.done` and `Outcome.rejects` so far.
        on_outcome: Called with what each task returned, in any order, from a background thread.

    Raises:
        PlacementError: if no node can run the tasks.
        StoreError: if a sample takes too long, or too many inputs are rejected; and whatever `work` raises.
    """
    if not items:
        return
    where = plan_data(**cluster_capacity())
    board_actor: Any = ray.remote(num_cpus=0, max_restarts=-1, label_selector=_this_node())(Board)
    board = board_actor.remote()

    rows = [{"task": n, "item": cloudpickle.dumps(item)} for n, item in enumerate(items)]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    results = dataset.map(_row_function(work, board.post.remote), label_selector=dict(where.label_selector))
    finished: dict[int, tuple[int, int]] = {}

    def consume() -> None:
        for result in results.iter_rows():
            outcome = cloudpickle.loads(result["outcome"])
            finished[result["task"]] = (outcome.done, outcome.rejects)
            on_outcome(outcome)

    def check_board() -> None:
        reports, ended = _read(board), dict(finished)
        running = [report for report in reports if report.task not in ended]
        done = sum(done for done, _ in ended.values()) + sum(report.done for report in running)
        rejects = sum(rejects for _, rejects in ended.values()) + sum(report.rejects for report in running)
        progress(done, rejects)
        check_stall(running, sample_timeout_s=limits.sample_timeout_s)
        example = next((report.last_reject for report in reports if report.rejects), "")
        check_rejects(rejects, max_rejects=limits.max_rejects, example=example)

    with unwrapped(), _in_background(consume) as future:
        while wait([future], timeout=REPORT_EVERY_S).not_done:
            check_board()
        future.result()
        check_board()


def _row_function(
    work: Callable[[Any, Reporter], Outcome], post: Callable[[Report], Any]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns the function that a task applies to its row."""

    def call(row: dict[str, Any]) -> dict[str, Any]:
        reporter = Reporter(post, row["task"])
        cv2.setNumThreads(1)  # A task has one CPU.
        with reporter.reporting():
            outcome = work(cloudpickle.loads(row["item"]), reporter)
            return {"task": row["task"], "outcome": cloudpickle.dumps(outcome)}

    return call


def _this_node() -> dict[str, str]:
    """Selects the driver's node, which stays for the whole run, unlike autoscaled nodes."""
    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


@contextmanager
def _in_background(consume: Callable[[], None]) -> Iterator[Future[None]]:
    """Consumes a dataset in a thread. If the block ends early, so does the dataset's execution."""
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
    """Returns the board's reports; none while a board whose process was lost is being restarted."""
    try:
        return ray.get(board.read.remote(), timeout=BOARD_TIMEOUT_S)
    except (GetTimeoutError, RayActorError):
        return []


def check_stall(running: Sequence[Report], *, sample_timeout_s: float) -> None:
    """Raises StoreError if a sample takes too long."""
    for report in running:
        if report.running_s > sample_timeout_s:
            what = f"{report.name} has been worked on" if report.name else "A task has been writing what it made"
            raise StoreError(
                f"{what} for {report.running_s:.0f} s, more than --sample-timeout-s "
                f"{sample_timeout_s:g}: its disk hangs, or its process is frozen. Fix or remove it, and run the "
                "same command again."
            )


def check_rejects(rejects: int, *, max_rejects: int | None, example: str) -> None:
    """Raises StoreError if more inputs were rejected than the user allows."""
    if max_rejects is not None and rejects > max_rejects:
        raise StoreError(
            f"{rejects} inputs were rejected, more than --max-rejects {max_rejects}"
            + (f", for example {example}. " if example else ". ")
            + "Fix the source, or allow more."
        )
