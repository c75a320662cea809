"""What the layouts share."""

from depthflow.datasets.listing import SourceFile
from depthflow.datasets.members import IMAGE_ENDINGS, by_stem, frame_members


def test_files_by_stem_in_any_case():
    names = ("1.5.PNG", "a.jpg", "a.png", "b.Jpeg", "notes.txt", "noending")
    files = {name: SourceFile("rgb", name, f"rgb/{name}") for name in names}
    found = {stem: file.name for stem, file in by_stem(files, IMAGE_ENDINGS).items()}
    assert found == {"1.5": "1.5.PNG", "a": "a.jpg", "a.png": "a.png", "b": "b.Jpeg"}


def test_a_file_that_must_not_be_read_is_the_frames_problem():
    plain, link = SourceFile("", "1.png", "1.png"), SourceFile("", "2.png", "2.png", "2.png is a link to /etc/passwd")
    assert frame_members({"rgb": plain, "depth": None}) == {"members": {"rgb": "1.png"}, "problem": "", "reason": ""}
    found = frame_members({"rgb": plain, "depth": link})
    assert (found["problem"], found["reason"]) == (link.problem, "unsafe_member")
