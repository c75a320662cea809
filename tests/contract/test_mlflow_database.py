"""deploy/mlflow_database.py copies the database while the server writes, and restores it once."""

import importlib.util
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "mlflow_database.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mlflow_database", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(database: Path, *values: int) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("create table if not exists runs (id integer)")
        connection.executemany("insert into runs values (?)", [(value,) for value in values])


def read(database: Path) -> list[int]:
    with closing(sqlite3.connect(database)) as connection:
        return [row[0] for row in connection.execute("select id from runs order by id")]


def test_the_database_is_restored_on_a_new_disk_only(script, tmp_path):
    database, copy, new = tmp_path / "mlflow.db", str(tmp_path / "bucket" / "mlflow.db"), tmp_path / "new" / "mlflow.db"
    assert script.restore(database=database, copy=copy) is False, "there is no copy yet"
    write(database, 1, 2)
    (tmp_path / "bucket").mkdir()
    script.copy_once(database=database, copy=copy)
    write(database, 3)
    assert script.restore(database=database, copy=copy) is False
    assert read(database) == [1, 2, 3]
    assert script.restore(database=new, copy=copy) is True
    assert read(new) == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bucket", "mlflow.db", "new"]


def test_a_copy_during_a_transaction_is_consistent(script, tmp_path):
    database, copy = tmp_path / "mlflow.db", tmp_path / "copy.db"
    write(database, 1)
    with closing(sqlite3.connect(database)) as server:
        server.execute("insert into runs values (2)")
        script.copy_once(database=database, copy=str(copy))
        server.commit()
    assert read(copy) == [1]


def test_keep_reports_errors_and_tries_again(tmp_path):
    database, copy = tmp_path / "mlflow.db", tmp_path / "bucket"
    words = ["keep", "--database", str(database), "--copy", str(copy / "mlflow.db"), "--every-s", "0.2"]
    write(database, 1)
    process = subprocess.Popen([sys.executable, str(SCRIPT), *words], stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or []), daemon=True)
    reader.start()
    try:
        wait_for(lambda: any("could not copy" in line for line in lines))
        copy.mkdir()
        wait_for((copy / "mlflow.db").is_file)
        assert read(copy / "mlflow.db") == [1]
    finally:
        process.kill()
        process.wait()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
