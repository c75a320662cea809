"""What the layouts share."""

from depthflow.datasets.folders import IMAGE_ENDINGS, by_stem, make_frame
from depthflow.datasets.listing import SourceFile


def test_files_by_stem_in_any_case():
    names = ("1.5.PNG", "a.jpg", "a.png", "b.Jpeg", "notes.txt", "noending")
    files = {name: SourceFile("rgb", name, f"rgb/{name}") for name in names}
    found = {stem: file.name for stem, file in by_stem(files, IMAGE_ENDINGS).items()}
    assert found == {"1.5": "1.5.PNG", "a": "a.jpg", "a.png": "a.png", "b": "b.Jpeg"}


def test_a_file_that_must_not_be_read_is_the_frames_problem():
    plain, link = SourceFile("", "1.png", "1.png"), SourceFile("", "2.png", "2.png", "2.png is a link to /etc/passwd")
    names = {"sample_id": "own/1", "scene": "own", "scan": "own"}
    frame = make_frame({"rgb": plain, "depth": None}, **names)
    assert (frame.members, frame.problem, frame.reason) == ({"rgb": "1.png"}, "", "")
    frame = make_frame({"rgb": plain, "depth": link}, **names)
    assert (frame.problem, frame.reason) == (link.problem, "unsafe_member")
    frame = make_frame({"rgb": plain, "depth": link}, problem="its name is odd", reason="bad_name", **names)
    assert (frame.problem, frame.reason) == (link.problem, "unsafe_member")
    frame = make_frame({"rgb": plain}, problem="its name is odd", reason="bad_name", **names)
    assert (frame.problem, frame.reason) == ("its name is odd", "bad_name")
