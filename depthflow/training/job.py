"""A job's folder: what it is, its checkpoints, and what has not reached MLflow yet; so that it can be resumed."""

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from depthflow.config import Recipe, TrainJob
from depthflow.errors import StoreError, TrainingError
from depthflow.samples.store import SampleStore
from depthflow.storage.lock import LOCK_NAME, disk_lock

JOB_FILE = "job.json"


@dataclass(frozen=True, kw_only=True)
class JobFolder:
    """Where a job keeps what outlives its processes, on a disk that all nodes share.

    Attributes:
        root: STORAGE/NAME, absolute.
    """

    root: Path

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint."""
        return self.root / "checkpoints"

    @property
    def spool(self) -> Path:
        """Metrics on their way to MLflow."""
        return self.root / "spool"

    @property
    def ray(self) -> Path:
        """Ray Train's own records."""
        return self.root / "ray"

    def read(self) -> dict[str, Any]:
        """What the job is: wanted (recipe and samples), run_id, finished."""
        return json.loads((self.root / JOB_FILE).read_text())

    def note(self, **changes: Any) -> None:
        """Changes what is said of the job, by rename."""
        there = self.read() if (self.root / JOB_FILE).is_file() else {}
        temporary = self.root / f".tmp-{JOB_FILE}"
        temporary.write_text(json.dumps({**there, **changes}, indent=1))
        temporary.replace(self.root / JOB_FILE)


@contextmanager
def open_job(recipe: Recipe, job: TrainJob, store: SampleStore) -> Iterator[JobFolder]:
    """A new job's folder, or with --resume the last unfinished one of the same recipe and samples; held for the block.

    Raises:
        TrainingError: if there is none to resume, or another process is at it.
    """
    storage = Path(job.storage).absolute()
    wanted = {"recipe": asdict(recipe), "fingerprint": store.fingerprint, "model_name": job.model_name}
    wanted = json.loads(json.dumps(wanted))
    folder = _unfinished(storage, wanted) if job.resume else JobFolder(root=storage / unique_name(recipe.name))
    with ExitStack() as stack:
        try:
            stack.enter_context(disk_lock(folder.root / LOCK_NAME))
        except (StoreError, OSError) as error:
            raise TrainingError(f"The job's folder {folder.root} cannot be taken: {error}") from error
        if not job.resume:
            folder.note(wanted=wanted, run_id=None, finished=False)
        yield folder


def unique_name(recipe_name: str) -> str:
    """A job's name; names sort in time."""
    return f"{recipe_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


def _unfinished(storage: Path, wanted: Mapping[str, Any]) -> JobFolder:
    """The latest unfinished job that wants the same; a job whose file cannot be read is none."""
    unfinished = []
    for path in sorted(storage.glob(f"*/{JOB_FILE}"), key=lambda path: path.parent.stat().st_ctime):
        with suppress(ValueError, KeyError):
            folder = JobFolder(root=path.parent)
            if not folder.read()["finished"]:
                unfinished.append((folder, folder.read()["wanted"]))
    for folder, there in reversed(unfinished):
        if there == wanted:
            return folder
    if not unfinished:
        raise TrainingError(f"There is no unfinished job in {storage}. Run without --resume to begin one.")
    folder, there = unfinished[-1]
    raise TrainingError(
        f"No unfinished job in {storage} is the one that was asked for. "
        f"{folder.root.name} differs: {_differences(there, wanted)}."
    )


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Such as: learning_rate 0.001 there, 0.003 here."""
    flat_there, flat_wanted = ({**saved["recipe"], **saved, "recipe": None} for saved in (there, wanted))
    return ", ".join(
        f"{name} {flat_there.get(name)} there, {value} here"
        for name, value in flat_wanted.items()
        if flat_there.get(name) != value
    )
