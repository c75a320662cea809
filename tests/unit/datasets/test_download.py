"""The download against a real server on loopback that cuts, lies, falls silent and serves wrong bytes."""

import hashlib
import http.server
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from depthflow.command import last_json_line
from depthflow.datasets.download import MD5_OF_SPLIT, PART_BYTES, download
from depthflow.datasets.partial_file import PartialFile
from depthflow.datasets.remote_file import LONGEST_ASKED_WAIT_S, Patience
from depthflow.errors import SourceError

ROOT = Path(__file__).resolve().parents[3]
NAME = "val.tar.gz"
PART = 2**18
CONTENT = random.Random(0).randbytes(9 * PART + 12345)
PARTS = [(first, min(first + PART, len(CONTENT)) - 1) for first in range(0, len(CONTENT), PART)]
LAST = PARTS[-1]
LOOK = (0, 0)
HASTY = Patience(attempts=3, first_wait_s=0.01, longest_wait_s=0.02, silence_s=0.5)


class Server(http.server.ThreadingHTTPServer):
    """Serves one file under any path, and notes the bytes asked for.

    Attributes:
        faults: called with the number of the request and its bytes, (first, last) or None; what it returns changes
            the answer, see `Handler.answer`.
    """

    daemon_threads = True

    def __init__(self, content: bytes = CONTENT) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.etag = '"one"'
        self.ranges = True
        self.asked: list[tuple[int, int] | None] = []
        self.faults = lambda number, span: {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        """A client that hangs up, or is killed, is no error here."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self):
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        span = span and (int(span[1]), int(span[2]))
        number = len(self.server.asked)
        self.server.asked.append(span)
        served = (
            span if self.server.ranges and self.headers.get("If-Range", self.server.etag) == self.server.etag else None
        )
        self.answer(served, **self.server.faults(number, span))

    def answer(self, span, *, status=None, headers=None, body=None, sent_bytes=None, silent_s=0.0, pause_s=0.0):
        """The right answer, but for what a fault replaces; a header of None is left out."""
        time.sleep(silent_s)
        first, last = span or (0, len(self.server.content) - 1)
        body = self.server.content[first : last + 1] if body is None else body
        right = {"Content-Length": str(len(body)), "ETag": self.server.etag}
        if span:
            right["Content-Range"] = f"bytes {first}-{last}/{len(self.server.content)}"
        self.send_response(status or (206 if span else 200))
        for key, value in {**right, **(headers or {})}.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        for at in range(0, len(body[:sent_bytes]), 2**16):
            self.wfile.write(body[at : min(at + 2**16, sent_bytes or len(body))])
            time.sleep(pause_s)
        self.close_connection = sent_bytes is not None or headers is not None

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server():
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield serving
        serving.shutdown()


class Told(list):
    """A progress callable that keeps what it was told."""

    def __call__(self, done, total):
        self.append((done, total))


def fetch(server, folder, **changes):
    arguments = {
        "url": f"{server.url}/{NAME}",
        "folder": folder,
        "md5": hashlib.md5(CONTENT).hexdigest(),
        "connections": 3,
        "progress": Told(),
        "hash_progress": Told(),
        "patience": HASTY,
        "part_bytes": PART,
    }
    return download(**{**arguments, **changes})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_whole(folder):
    assert names(folder) == [NAME, f"{NAME}.md5"]
    assert (folder / NAME).read_bytes() == CONTENT


def test_parallel_parts_make_the_file(server, tmp_path):
    progress, hash_progress = Told(), Told()
    archive = fetch(server, tmp_path / "new", progress=progress, hash_progress=hash_progress)
    assert_whole(tmp_path / "new")
    assert (archive.path, archive.size_bytes, archive.downloaded_bytes) == (
        tmp_path / "new" / NAME,
        len(CONTENT),
        len(CONTENT),
    )
    assert server.asked[0] == LOOK and sorted(server.asked[1:]) == PARTS, "each byte once"
    assert progress == sorted(progress) and progress[0][0] < len(CONTENT)
    assert progress.count((len(CONTENT), len(CONTENT))) == 1 and progress[-1][0] == len(CONTENT)
    assert not hash_progress, "the hash was taken on the way"


def test_md5sum_understands_the_record(server, tmp_path):
    fetch(server, tmp_path)
    done = subprocess.run(
        ["md5sum", "--check", "--strict", f"{NAME}.md5"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{NAME}: OK\n", "")


def test_the_second_run_neither_asks_nor_reads(server, tmp_path):
    fetch(server, tmp_path)
    asked = len(server.asked)
    (tmp_path / NAME).write_bytes(bytes(len(CONTENT)))  # Whoever read it would see that it is wrong.
    archive = fetch(server, tmp_path)
    assert (archive.size_bytes, archive.downloaded_bytes) == (len(CONTENT), 0)
    assert len(server.asked) == asked


@pytest.mark.parametrize("change", ["the size", "the MD5 asked for"])
def test_a_record_that_does_not_fit_is_not_believed(server, tmp_path, change):
    fetch(server, tmp_path)
    if change == "the size":
        (tmp_path / NAME).write_bytes(CONTENT[:-1])
    with pytest.raises(SourceError, match=r"Delete it and run again"):
        fetch(server, tmp_path, md5="0" * 32 if change != "the size" else hashlib.md5(CONTENT).hexdigest())


def test_a_file_fetched_otherwise_is_verified(server, tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT)
    (tmp_path / f"{NAME}.part.json").write_text("{}")  # As a run leaves it that is killed just after the rename.
    hash_progress = Told()
    archive = fetch(server, tmp_path, hash_progress=hash_progress, md5=hashlib.md5(CONTENT).hexdigest().upper())
    assert archive.downloaded_bytes == 0 and not server.asked
    assert hash_progress[-1] == (len(CONTENT), len(CONTENT))
    assert_whole(tmp_path)


def test_a_wrong_file_is_left_alone_and_named(server, tmp_path):
    wrong = bytes(1000)
    (tmp_path / NAME).write_bytes(wrong)
    sums = f"{hashlib.md5(CONTENT).hexdigest()}.*{hashlib.md5(wrong).hexdigest()}"
    with pytest.raises(SourceError, match=rf"{sums}.*Delete it"):
        fetch(server, tmp_path)
    assert (tmp_path / NAME).read_bytes() == wrong and names(tmp_path) == [NAME]


def test_cut_connections_go_on_where_they_were_cut(server, tmp_path):
    server.faults = lambda number, span: {"sent_bytes": 100_000} if span != LOOK else {}
    fetch(server, tmp_path)
    assert_whole(tmp_path)
    assert {first % PART for first, _ in server.asked[1:]} == {0, 100_000, 200_000}


def test_a_server_without_ranges_is_read_in_one_stream(server, tmp_path):
    server.ranges = False
    server.faults = lambda number, span: {"sent_bytes": 1_000_000} if number == 1 else {}
    fetch(server, tmp_path)
    assert_whole(tmp_path)
    assert server.asked == [LOOK, None, None]


def test_a_server_without_ranges_starts_over_after_a_run_that_failed(server, tmp_path):
    server.ranges = False
    server.faults = lambda number, span: {"sent_bytes": 1_000_000}
    with pytest.raises(SourceError, match="3 failures in a row"):
        fetch(server, tmp_path)
    server.faults = lambda number, span: {}
    assert fetch(server, tmp_path).downloaded_bytes == len(CONTENT)
    assert_whole(tmp_path)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"sent_bytes": 0}, "IncompleteRead|closed"),
        ({"status": 503}, "503 Service Unavailable"),
        ({"silent_s": 0.7}, "timed out"),
        ({"headers": {"Content-Length": str(PART - 1)}}, f"announced {PART - 1}"),
        ({"headers": {"Content-Length": str(PART + 1)}}, f"announced {PART + 1}"),
        ({"headers": {"Content-Range": f"bytes 0-{PART - 1}/{len(CONTENT)}"}}, "was asked for bytes .* and sent"),
    ],
)
def test_a_part_that_stays_bad_is_given_up_and_the_rest_is_kept(server, tmp_path, fault, said):
    """And a part that is bad only at first is as good as any."""
    bad = PARTS[5]
    server.faults = lambda number, span: fault if span == bad else {}
    with pytest.raises(SourceError, match=said) as caught:
        fetch(server, tmp_path)
    assert "3 failures in a row" in str(caught.value) and "Run the same command again" in str(caught.value)
    assert names(tmp_path) == [f"{NAME}.part", f"{NAME}.part.json"]
    kept = finished(tmp_path)
    assert 5 not in kept and 0 < len(kept) < len(PARTS), "what had arrived by then"

    del server.asked[:]
    server.faults = lambda number, span: fault if span == bad and server.asked.count(bad) < 3 else {}
    progress = Told()
    archive = fetch(server, tmp_path, progress=progress)
    assert_whole(tmp_path)
    assert not {PARTS[part] for part in kept} & set(server.asked)
    assert progress[0][0] >= len(CONTENT) - archive.downloaded_bytes > 0  # Or more: a part may be there by then.


@pytest.mark.parametrize(("surplus", "asked_again"), [(-1, [(6 * PART - 1, 6 * PART - 1)]), (1, []), (70_000, [])])
def test_an_answer_of_unsaid_length_is_counted(server, tmp_path, surplus, asked_again):
    body = CONTENT[5 * PART : 6 * PART + surplus]
    server.faults = lambda number, span: {"headers": {"Content-Length": None}, "body": body} if span == PARTS[5] else {}
    fetch(server, tmp_path)
    assert_whole(tmp_path)
    assert sorted(server.asked[1:]) == sorted(PARTS + asked_again)


def test_failures_count_only_while_nothing_arrives(server, tmp_path):
    """One connection fails again and again, but others bring bytes."""
    server.faults = lambda number, span: {"status": 500} if span == PARTS[0] and number < 9 else {}
    fetch(server, tmp_path, connections=2)
    assert_whole(tmp_path)


def test_nobody_listens(server, tmp_path):
    server.server_close()
    with pytest.raises(SourceError, match=r"Connection refused.*3 failures in a row"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404, 416])
def test_a_permanent_failure_is_reported_at_once(server, tmp_path, status):
    server.faults = lambda number, span: {"status": status}
    with pytest.raises(SourceError, match=rf"answered {status} .*--base-url"):
        fetch(server, tmp_path)
    assert len(server.asked) == 1 and names(tmp_path) == []


def test_retry_after_is_honoured(server, tmp_path):
    server.faults = lambda number, span: {"status": 429, "headers": {"Retry-After": "1"}} if number == 0 else {}
    started = time.monotonic()
    fetch(server, tmp_path)
    assert time.monotonic() - started >= 1.0
    assert_whole(tmp_path)


def test_waits_double_up_to_a_limit():
    patience = Patience(first_wait_s=1.0, longest_wait_s=10.0)
    assert [patience.wait_s(failures, None) for failures in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert patience.wait_s(1, 20.0) == 20.0
    assert patience.wait_s(4, 2.0) == 8.0
    assert patience.wait_s(1, 1e9) == LONGEST_ASKED_WAIT_S


@pytest.mark.parametrize(
    "headers",
    [{"Content-Range": None}, {"Content-Range": "bytes 0-0/*"}, {"Content-Range": "bytes 0-0/0"}],
)
def test_a_file_of_unknown_length_is_rejected(server, tmp_path, headers):
    server.faults = lambda number, span: {"headers": headers}
    with pytest.raises(SourceError, match="does not report its size"):
        fetch(server, tmp_path)


def test_a_label_of_compression_changes_no_byte(server, tmp_path):
    """Some servers label .tar.gz so, and an obliging client would unpack it."""
    server.faults = lambda number, span: {"headers": {"Content-Encoding": "gzip"}}
    fetch(server, tmp_path)
    assert_whole(tmp_path)


def test_wrong_bytes_are_named_and_never_kept(server, tmp_path):
    wrong = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    server.content = wrong
    sums = f"{hashlib.md5(CONTENT).hexdigest()}.*{hashlib.md5(wrong).hexdigest()}"
    with pytest.raises(SourceError, match=rf"{sums}.*deleted"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []
    server.content = CONTENT
    assert fetch(server, tmp_path).downloaded_bytes == len(CONTENT)


def leave_half(server, folder):
    """A run that fails on its last part."""
    server.faults = lambda number, span: {"status": 404} if span == LAST else {}
    with pytest.raises(SourceError, match="404"):
        fetch(server, folder, connections=1)
    server.faults = lambda number, span: {}
    del server.asked[:]


def test_after_a_resume_the_hash_begins_at_zero(server, tmp_path):
    leave_half(server, tmp_path)
    with (tmp_path / f"{NAME}.part").open("r+b") as handle:
        handle.write(bytes(10))  # A disk that went bad.
    with pytest.raises(SourceError, match="MD5"):
        fetch(server, tmp_path)
    assert server.asked == [LOOK, LAST] and names(tmp_path) == []


@pytest.mark.parametrize("change", ["etag", "size"])
def test_another_version_on_the_server_starts_over(server, tmp_path, change):
    leave_half(server, tmp_path)
    if change == "etag":
        server.etag = '"two"'
    else:
        server.content = CONTENT + b"x"
    archive = fetch(server, tmp_path, md5=hashlib.md5(server.content).hexdigest())
    assert archive.downloaded_bytes == archive.size_bytes == len(server.content)
    assert (tmp_path / NAME).read_bytes() == server.content


def test_a_version_that_changes_meanwhile_is_an_error(server, tmp_path):
    def change(number, span):
        if number == 4:
            server.etag = '"two"'
        return {}

    server.faults = change
    with pytest.raises(SourceError, match="changed while it was fetched"):
        fetch(server, tmp_path)
    assert fetch(server, tmp_path).downloaded_bytes == len(CONTENT)


@pytest.mark.parametrize("damage", ["no file", "torn state", "no state", "a file cut short"])
def test_a_state_that_cannot_be_trusted_is_not(server, tmp_path, damage):
    leave_half(server, tmp_path)
    part, state = tmp_path / f"{NAME}.part", tmp_path / f"{NAME}.part.json"
    if damage == "no file":
        part.unlink()
    elif damage == "torn state":
        state.write_text(state.read_text()[:50])
    elif damage == "no state":
        state.unlink()
    else:
        os.truncate(part, 3 * PART)
    assert fetch(server, tmp_path).downloaded_bytes == len(CONTENT)
    assert_whole(tmp_path)


def test_the_hash_follows_while_parts_arrive(server, tmp_path, monkeypatch):
    read_back, in_time = threading.Event(), []
    read = PartialFile.read
    monkeypatch.setattr(PartialFile, "read", lambda *args: (args[2] and read_back.set(), read(*args))[1])

    def hold(number, span):
        if span == LAST:
            in_time.append(read_back.wait(10.0))
        return {}

    server.faults = hold
    fetch(server, tmp_path, patience=Patience(silence_s=20.0))
    assert in_time == [True]


def test_the_progress_of_a_hash_that_is_behind_is_reported(server, tmp_path, monkeypatch):
    leave_half(server, tmp_path)
    read = PartialFile.read
    monkeypatch.setattr(PartialFile, "read", lambda *args: (time.sleep(0.5), read(*args))[1])
    progress, hash_progress = Told(), Told()
    fetch(server, tmp_path, progress=progress, hash_progress=hash_progress)
    assert progress[-1][0] == len(CONTENT)
    assert hash_progress[0][0] < len(CONTENT) and hash_progress == sorted(hash_progress)
    assert hash_progress.count((len(CONTENT), len(CONTENT))) == 1


def test_one_of_two_concurrent_downloads_fails(server, tmp_path):
    with PartialFile(tmp_path / NAME), pytest.raises(SourceError, match=r"by another process.*Wait"):
        fetch(server, tmp_path)
    assert not server.asked
    fetch(server, tmp_path)
    assert_whole(tmp_path)


def test_too_small_a_disk_is_said_before_the_first_byte(server, tmp_path):
    server.faults = lambda number, span: {"headers": {"Content-Range": f"bytes 0-0/{10**16}"}}
    with pytest.raises(SourceError, match=r"GB free, and 10000000\.0 GB are still to come.*--out"):
        fetch(server, tmp_path)
    assert server.asked == [LOOK] and names(tmp_path) == []


def test_a_failed_write_keeps_what_has_arrived(server, tmp_path):
    """A limit on the size of files refuses a write as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * PART + 1000, limits[1]))
    try:
        with pytest.raises(SourceError, match=rf"{NAME} could not be written.*File too large.*free space"):
            fetch(server, tmp_path, connections=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert fetch(server, tmp_path).downloaded_bytes == len(CONTENT) - 4 * PART
    assert_whole(tmp_path)


def test_a_folder_that_cannot_be(server, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceError, match="file"):
        fetch(server, tmp_path / "file")


def command(server, out, *flags):
    return [
        *(sys.executable, "pipelines/download.py", "--split", "val", "--out", str(out)),
        *("--base-url", f"{server.url}/", "--connections", "2", *flags),
    ]


def run(server, out, *flags):
    done = subprocess.run(command(server, out, *flags), cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, last_json_line(done.stdout), done.stderr


def finished(folder):
    state = folder / f"{NAME}.part.json"
    return json.loads(state.read_text())["finished"] if state.exists() else []


def wait_for_two_parts(process, folder, asked, since, last):
    """Until two parts are safe and the last one is on its way."""
    deadline = time.monotonic() + 30.0
    while last not in asked[since:] or finished(folder) != [0, 1]:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail("The command ended, or took too long, before it could be killed.")
        time.sleep(0.02)


def test_the_command_is_killed_resumed_and_then_has_nothing_to_do(server, tmp_path):
    server.content = random.Random(1).randbytes(2 * PART_BYTES + PART_BYTES // 2)
    md5 = hashlib.md5(server.content).hexdigest()
    last = (2 * PART_BYTES, len(server.content) - 1)
    server.faults = lambda number, span: {"pause_s": 0.1} if span == last else {}

    for sent, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        asked = len(server.asked)
        with subprocess.Popen(command(server, tmp_path, "--md5", md5), cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            wait_for_two_parts(process, tmp_path, server.asked, asked, last)
            process.send_signal(sent)
            assert process.wait(timeout=10) == code
    assert not (tmp_path / NAME).exists()
    assert server.asked[asked:] == [LOOK, last], "the second run resumed the first one"

    server.faults = lambda number, span: {}
    code, result, log = run(server, tmp_path, "--md5", md5)
    assert (code, result["status"], result["downloaded_bytes"]) == (0, "ok", PART_BYTES // 2)
    assert (result["path"], result["bytes"], result["md5"]) == (str(tmp_path / NAME), len(server.content), md5)
    assert (tmp_path / NAME).read_bytes() == server.content
    assert re.search(r"^val\.tar\.gz: 3[3-9]\.\d/41\.9 MB", log) and re.search(r"41\.9/41\.9 MB, [\d.]+ MB/s$", log)

    server.server_close()
    code, result, log = run(server, tmp_path, "--md5", md5)
    assert (code, result["downloaded_bytes"], result["bytes"], log) == (0, 0, len(server.content), "")


def test_the_command_expects_the_official_archive(server, tmp_path):
    code, result, log = run(server, tmp_path)
    assert code == 1 and result["status"] == "failed"
    assert MD5_OF_SPLIT["val"] in result["error"] and hashlib.md5(CONTENT).hexdigest() in result["error"]
    assert "Traceback" not in log and names(tmp_path) == []
