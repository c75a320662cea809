"""A job's folder, from which it can be resumed: its description, checkpoints, and metrics not yet in MLflow."""

import json
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

from depthflow.command import Interrupted
from depthflow.errors import LockLostError, StoreError, TrainingError
from depthflow.observability.logs import tell
from depthflow.recipe import Recipe
from depthflow.registry.runs import RunLog
from depthflow.storage.files import open_files
from depthflow.storage.location import absolute
from depthflow.storage.lock import WriterLock
from depthflow.store.store import SampleStore
from depthflow.training.config import TrainJob

JOB_FILE = "job.json"


@dataclass(frozen=True, kw_only=True)
class JobFolder:
    """Where a job keeps what must outlive its processes: on a disk that all nodes share, or in a bucket.

    Attributes:
        root: Absolute path or URI of STORAGE/NAME.
        lock: Lock of the process that opened the job. If it is lost, nothing is changed any more.
    """

    root: str
    lock: WriterLock | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """Name of the job."""
        return self.root.rpartition("/")[2]

    @property
    def checkpoints(self) -> str:
        """Location of the checkpoints, one folder each."""
        return f"{self.root}/checkpoints"

    @property
    def spool(self) -> str:
        """Location of the metrics that are not yet in MLflow."""
        return f"{self.root}/spool"

    @property
    def ray(self) -> str:
        """Location of Ray Train's own files."""
        return f"{self.root}/ray"

    def read(self) -> dict[str, Any]:
        """Returns the job's description: wanted (recipe and samples), run_id, finished and noted (when it changed)."""
        return json.loads(open_files(self.root).read(JOB_FILE).to_pybytes())

    def check_lock(self) -> None:
        """Raises LockLostError if another process has taken over the job; warns if storage does not answer."""
        try:
            if self.lock:
                self.lock.check()
        except LockLostError:
            raise
        except StoreError as error:
            tell(f"{error} The job goes on.", level=logging.WARNING)

    def note(self, **changes: Any) -> None:
        """Changes the job's description atomically.

        Raises:
            StoreError: if it cannot be written, or the lock is lost.
        """
        files = open_files(self.root, self.lock)
        before = self.read() if files.exists(JOB_FILE) else {}
        description = {**before, **changes, "noted": datetime.now(UTC).isoformat()}
        files.write(JOB_FILE, json.dumps(description, indent=1).encode())


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """What the driver gives to every worker.

    Attributes:
        recipe: What to train.
        job: The job's flags, their paths absolute.
        store: What to train on.
        folder: Where checkpoints and unlogged metrics are.
        run_log: MLflow run that worker 0 writes to.
        cpus: Number of threads per worker.
    """

    recipe: Recipe
    job: TrainJob
    store: SampleStore
    folder: JobFolder
    run_log: RunLog
    cpus: int


@contextmanager
def open_job(recipe: Recipe, job: TrainJob, store: SampleStore) -> Iterator[JobFolder]:
    """Yields a new job's folder, or with --resume that of the last unfinished job with the same recipe and samples.

    The folder is locked within the block.

    Raises:
        TrainingError: if there is no such job, or another process holds its folder.
    """
    storage = absolute(job.storage)
    described = {"recipe": asdict(recipe), "fingerprint": store.fingerprint, "model_name": job.model_name}
    wanted = json.loads(json.dumps(described))  # As the file holds it: lists for tuples.
    folder = _unfinished(storage, wanted) if job.resume else JobFolder(root=f"{storage}/{unique_name(recipe.name)}")
    with ExitStack() as stack:
        try:
            folder = replace(folder, lock=stack.enter_context(open_files(folder.root).writer_lock()).lock)
        except (StoreError, OSError) as error:
            raise TrainingError(f"The job's folder {folder.root} cannot be locked: {error}") from error
        folder.note(**({} if job.resume else {"wanted": wanted, "run_id": None, "finished": False}))
        try:
            yield folder
        except KeyboardInterrupt:
            raise Interrupted("--resume") from None


def unique_name(recipe_name: str) -> str:
    """Returns a new job's name; names sort by time."""
    return f"{recipe_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


def _unfinished(storage: str, wanted: Mapping[str, Any]) -> JobFolder:
    """Returns the last unfinished job with this description; jobs whose file is unreadable are ignored."""
    files, unfinished = open_files(storage), []
    for path in files.names(f"*/{JOB_FILE}"):
        with suppress(ValueError, KeyError):
            job = json.loads(files.read(path).to_pybytes())
            if not job["finished"]:
                unfinished.append((job.get("noted", ""), path.partition("/")[0], _with_defaults(job["wanted"])))
    if not unfinished:
        raise TrainingError(f"There is no unfinished job in {storage}. Run without --resume to start one.")
    unfinished.sort()
    same = [name for _, name, there in unfinished if there == wanted]
    if same:
        return JobFolder(root=f"{storage}/{same[-1]}")
    _, name, there = unfinished[-1]
    raise TrainingError(
        f"No unfinished job in {storage} has these settings. {name} differs: {_differences(there, wanted)}. "
        "Pass the settings that it was started with, or start a new job without --resume."
    )


def _with_defaults(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the defaults of recipe fields that did not exist when the job was started."""
    defaults = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
    return {**wanted, "recipe": {**json.loads(json.dumps(defaults)), **wanted["recipe"]}}


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Returns a text like: learning_rate 0.001 there, 0.003 here."""
    flat_there, flat_wanted = ({**saved["recipe"], **saved, "recipe": None} for saved in (there, wanted))
    return ", ".join(
        f"{name} {flat_there.get(name)} there, {value} here"
        for name, value in flat_wanted.items()
        if flat_there.get(name) != value
    )
