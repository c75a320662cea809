"""What a task says of itself, and when a run is ended: the parts that need no Ray."""

import threading
import time

import pytest

from depthflow.datasets.frames import Frame
from depthflow.datasets.reject import RejectError
from depthflow.errors import StoreError
from depthflow.store.write import tasks
from depthflow.store.write.plan import PlannedSample
from depthflow.store.write.tasks import Board, Report, Reporter, check_rejects, check_stall


def planned(sample_id):
    triplet = Frame(sample_id=sample_id, split="train", scene_type="", scene="", scan="", members={})
    return PlannedSample(frame=triplet, source="tree")


def fail(reporter, sample_id, error):
    with reporter.watch(planned(sample_id)):
        raise error


def report_of(reporter, posted):
    """What a reporter says now: it posts once more when it ends."""
    with reporter.reporting():
        pass
    return posted[-1]


@pytest.fixture
def posted():
    return []


@pytest.fixture
def reporter(posted):
    return Reporter(posted.append, 7)


# --- a task's side ---


def test_a_task_that_has_not_begun_reports_no_sample(reporter, posted):
    report = report_of(reporter, posted)
    assert (report.task, report.name, report.done, report.rejects, report.last_reject) == (7, "", 0, 0, "")
    assert 0 <= report.running_s < 60


def test_a_sample_is_named_while_it_is_made_and_counted_after(reporter, posted):
    with reporter.watch(planned("a")):
        during = report_of(reporter, posted)
    after = report_of(reporter, posted)
    assert (during.name, during.done) == ("a", 0)
    assert (after.name, after.done, after.rejects) == ("", 1, 0)


def test_the_reported_time_is_per_sample(reporter, posted):
    with reporter.watch(planned("a")):
        time.sleep(0.2)
        first = report_of(reporter, posted)
    with reporter.watch(planned("b")):
        second = report_of(reporter, posted)
    assert first.running_s >= 0.2
    assert (second.name, second.running_s < first.running_s) == ("b", True)


def test_rejects_are_counted_and_raised_again(reporter, posted):
    for sample_id in ("a", "b"):
        with pytest.raises(RejectError, match="nothing there"):
            fail(reporter, sample_id, RejectError("empty_file", "nothing there"))
    with reporter.watch(planned("c")):
        pass
    report = report_of(reporter, posted)
    assert (report.done, report.rejects, report.last_reject) == (3, 2, "b (empty_file: nothing there)")


def test_other_errors_are_not_rejects(reporter, posted):
    with pytest.raises(OSError, match="gone"):
        fail(reporter, "a", OSError("gone"))
    assert report_of(reporter, posted).rejects == 0


def test_reports_go_on_while_a_sample_hangs(posted, monkeypatch):
    monkeypatch.setattr(tasks, "REPORT_EVERY_S", 0.02)
    three = threading.Event()

    def post(report):
        posted.append(report)
        if len(posted) == 3:
            three.set()

    reporter = Reporter(post, 1)
    with reporter.reporting() as same, reporter.watch(planned("a")):
        assert same is reporter
        assert three.wait(60)
    hanging = [report for report in posted if report.name == "a"]
    assert len(hanging) >= 2
    assert [r.running_s for r in hanging] == sorted(r.running_s for r in hanging)
    assert (posted[-1].name, posted[-1].done) == ("", 1)


def test_reports_end_with_the_task(posted, monkeypatch):
    monkeypatch.setattr(tasks, "REPORT_EVERY_S", 0.01)
    with Reporter(posted.append, 1).reporting():
        pass
    count = len(posted)
    time.sleep(0.1)
    assert len(posted) == count >= 1


def test_an_error_ends_the_reports_too(posted, monkeypatch):
    monkeypatch.setattr(tasks, "REPORT_EVERY_S", 0.01)
    with pytest.raises(ValueError, match="stop"), Reporter(posted.append, 1).reporting():
        raise ValueError("stop")
    count = len(posted)
    time.sleep(0.1)
    assert len(posted) == count >= 1


# --- the board ---


def report(task=0, name="a", running_s=0.0, done=0, rejects=0, last_reject=""):
    return Report(task, name, running_s, done, rejects, last_reject)


def test_an_empty_board():
    assert Board().read() == []


def test_the_board_keeps_the_latest_report_of_each_task():
    board = Board()
    for posted in (report(0, done=1), report(1, done=5), report(0, done=2)):
        board.post(posted)
    assert sorted((r.task, r.done) for r in board.read()) == [(0, 2), (1, 5)]


def test_the_sample_of_a_silent_task_grows_older():
    board = Board()
    board.post(report(0, "a", running_s=3.0))
    board.post(report(1, "", running_s=3.0))
    time.sleep(0.2)
    frozen, between = sorted(board.read())
    assert 3.2 <= frozen.running_s < 60
    assert between.running_s == 3.0
    time.sleep(0.1)
    assert min(board.read()).running_s >= frozen.running_s + 0.1
    board.post(report(0, "b", running_s=0.0))
    assert min(board.read()).running_s < 1


# --- when a run is ended ---


def test_a_sample_may_take_as_long_as_its_timeout():
    check_stall([], sample_timeout_s=5)
    check_stall([report(running_s=5.0), report(1, running_s=0.1)], sample_timeout_s=5)
    with pytest.raises(StoreError, match=r"^slow has been worked on for 5 s, more than --sample-timeout-s 5:"):
        check_stall([report(), report(1, "slow", running_s=5.1)], sample_timeout_s=5)


def test_a_stall_between_two_samples_is_reported():
    with pytest.raises(StoreError, match=r"^A task has been writing what it made for 9 s, more than"):
        check_stall([report(name="", running_s=9.0)], sample_timeout_s=5)


@pytest.mark.parametrize(
    ("rejects", "allowed", "refused"),
    [(0, 0, False), (1, 0, True), (3, 3, False), (4, 3, True), (10**6, None, False), (0, None, False)],
)
def test_no_more_rejects_than_allowed(rejects, allowed, refused):
    if not refused:
        check_rejects(rejects, max_rejects=allowed, example="a (empty_file)")
        return
    with pytest.raises(
        StoreError, match=rf"{rejects} inputs .*--max-rejects {allowed}, for example a \(empty_file\)\. "
    ):
        check_rejects(rejects, max_rejects=allowed, example="a (empty_file)")


def test_the_message_without_an_example():
    with pytest.raises(StoreError, match=r"--max-rejects 0\. Fix the source"):
        check_rejects(1, max_rejects=0, example="")
