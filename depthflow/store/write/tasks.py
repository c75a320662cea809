"""Watched tasks on Ray: Ray Data maps a function over items, and a board shows what each task is doing.

A task that hangs cannot say so itself, so the driver looks at the board while it waits, and ends the run with the name
of the sample that takes too long: a stall is loud, whatever its cause, a disk that is gone or a frozen process.
"""

import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import cv2
import ray
import ray.data
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayActorError

from depthflow.datasets.triplet import RejectError
from depthflow.errors import StoreError, unwrapped
from depthflow.placement import cluster_room, plan_data
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


def keep_freed_memory() -> None:
    """Has this process keep the memory of arrays that it frees, for the next ones.

    glibc gives arrays of some MB back to the system at once and then takes them anew, page by page: measured on 768 x
    1024 frames, that doubles the time of a sample. (`mallopt`, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.)
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # Another C library.
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**26


def run_tasks(
    items: Sequence[T],
    work: Callable[[T, Reporter], dict[str, Any]],
    *,
    limits: Limits,
    progress: Callable[[int], None],
    gauges: Callable[[int, int], None] = lambda done, rejects: None,
    on_result: Callable[[dict[str, Any]], None] = lambda result: None,
) -> None:
    """Does the work for each item in a Ray task of its own. To be called from the main thread.

    Args:
        items: Each is pickled into its own task's row, so that a task costs the same however many there are.
        work: returns plain values; `done` and `refused` in it say how many samples the item held, and refused.
        progress: called with the number of samples done, from a thread.
        gauges: called with the numbers of samples done and inputs refused, likewise.
        on_result: called with what each task returned, in any order.

    Raises:
        PlacementError: if no node can have the tasks.
        StoreError: if a sample takes too long, or too many were refused; and what `work` raises.
    """
    if not items:
        return
    where = plan_data(**cluster_room())
    board_actor: Any = ray.remote(num_cpus=0, max_restarts=-1, label_selector=_this_node())(Board)
    board = board_actor.remote()

    def call(row: dict[str, Any]) -> dict[str, Any]:
        task = row["task"]
        reporter = Reporter(board.post.remote, task)
        keep_freed_memory()
        cv2.setNumThreads(1)  # A task has one CPU.
        with reporter.reporting():
            return {"task": task, **work(cloudpickle.loads(row["item"]), reporter)}

    rows = [{"task": n, "item": cloudpickle.dumps(item)} for n, item in enumerate(items)]
    tasks = ray.data.from_items(rows, override_num_blocks=len(rows))
    watcher = _Watcher(board, limits, progress, gauges)
    with _ended_by(watcher), unwrapped():
        for result in tasks.map(call, label_selector=dict(where.label_selector)).iter_rows():
            watcher.finished[result["task"]] = (result["done"], result["refused"])
            on_result(result)
        watcher.look()


def _this_node() -> dict[str, str]:
    """Selects the driver's node, which is no node that comes and goes; nor one that is for training alone."""
    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


class _RunEndedError(BaseException):
    """Raised in the main thread, wherever it is, when the watcher ends the run. No `Exception`: nobody handles it."""


@contextmanager
def _ended_by(watcher: "_Watcher") -> Iterator[None]:
    """Lets the watcher look while the block runs, and end it with its error.

    By a signal of its own, since SIGINT is ignored where a shell started the command in the background.
    """

    def end(_signal: int, _frame: Any) -> None:
        raise _RunEndedError

    before = signal.signal(signal.SIGUSR1, end)
    watcher.start()
    try:
        try:
            yield
        finally:
            watcher.stop()
    except _RunEndedError:
        raise watcher.error or StoreError("The run was ended by SIGUSR1.") from None
    finally:
        signal.signal(signal.SIGUSR1, before or signal.SIG_DFL)


class _Watcher(threading.Thread):
    """Looks at the board while the main thread waits for results; where the run must end, it signals that thread.

    Attributes:
        finished: task to the samples it did and refused.
        error: why the run must end, or None.
    """

    def __init__(
        self, board: Any, limits: Limits, progress: Callable[[int], None], gauges: Callable[[int, int], None]
    ) -> None:
        super().__init__(daemon=True)
        self._board, self._limits, self._progress, self._gauges = board, limits, progress, gauges
        self._stopped = threading.Event()
        self._ending = threading.Lock()
        self.finished: dict[int, tuple[int, int]] = {}
        self.error: Exception | None = None

    def run(self) -> None:
        while not self._stopped.wait(REPORT_EVERY_S):
            try:
                self.look()
            except Exception as error:
                with self._ending:
                    if not self._stopped.is_set():
                        self.error = error
                        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                return

    def look(self) -> None:
        """Shows the progress; StoreError if the run must end."""
        reports, finished = _read(self._board), dict(self.finished)
        running = [report for report in reports if report.task not in finished]
        done = sum(done for done, _ in finished.values()) + sum(report.done for report in running)
        refused = sum(refused for _, refused in finished.values()) + sum(report.rejects for report in running)
        self._progress(done)
        self._gauges(done, refused)
        refuse_stall(running, sample_timeout_s=self._limits.sample_timeout_s)
        example = next((report.last_reject for report in reports if report.rejects), "")
        refuse_many_rejects(refused, max_rejects=self._limits.max_rejects, example=example)

    def stop(self) -> None:
        """Ends the thread."""
        with self._ending:
            self._stopped.set()
        self.join()


def _read(board: Any) -> list[Report]:
    """The board's reports; none if it cannot be read just now: it may be on a node that was lost, and starts anew."""
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
