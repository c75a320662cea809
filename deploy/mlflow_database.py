"""Back up MLflow's SQLite database to an object store, and restore it on a new disk.

python deploy/mlflow_database.py restore --database mlflow.db --copy s3://BUCKET/mlflow/mlflow.db
python deploy/mlflow_database.py once --database mlflow.db --copy s3://BUCKET/mlflow/mlflow.db
python deploy/mlflow_database.py keep --database mlflow.db --copy s3://BUCKET/mlflow/mlflow.db --every-s 900
"""

import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import fsspec
import tyro


def restore(*, database: Path, copy: str) -> bool:
    """Restores the database from its copy, unless the database exists or there is no copy yet.

    Returns:
        Whether it was restored.
    """
    files, path = fsspec.core.url_to_fs(copy)
    if database.exists() or not files.exists(path):
        return False
    database.parent.mkdir(parents=True, exist_ok=True)
    partial = database.with_suffix(".partial")
    files.get_file(path, str(partial))
    partial.rename(database)
    return True


def copy_once(*, database: Path, copy: str) -> None:
    """Makes one consistent copy, even while the server writes."""
    files, path = fsspec.core.url_to_fs(copy)
    with tempfile.TemporaryDirectory(dir=database.parent) as folder:
        snapshot = Path(folder, "snapshot.db")
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(snapshot)) as target:
            source.backup(target)
        files.put_file(str(snapshot), path)


def keep(*, database: Path, copy: str, every_s: float = 900.0) -> None:
    """Makes a copy every `every_s` seconds, forever; errors are printed, and the next copy is tried."""
    while True:
        time.sleep(every_s)
        try:
            copy_once(database=database, copy=copy)
        except Exception as error:  # The next copy may succeed, and MLflow keeps running.
            print(f"could not copy {database} to {copy}: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"restore": restore, "keep": keep, "once": copy_once})
