"""People's photographs: every kind of file, turned upright, and what is no photograph."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from depthflow.datasets.reject import RejectError
from depthflow.errors import SourceError
from depthflow.inference.images import OTHER_SUFFIXES, SUFFIXES, find_images, image_version, read_image

# EXIF orientation to what turns the stored pixels upright.
TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: np.rot90,
}


@pytest.fixture
def quarters():
    """(32, 48, 3): red, green, blue and white quarters, so that every turn can be told."""
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :24, 0] = 255
    image[:16, 24:, 1] = 255
    image[16:, :24, 2] = 255
    image[16:, 24:] = 255
    return image


def save(path: Path, array: np.ndarray, mode: str | None = None, **options) -> str:
    Image.fromarray(array, mode).save(path, **options) if mode else Image.fromarray(array).save(path, **options)
    return str(path)


# --- reading ---


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", TURNS)
def test_turned_as_exif_says(tmp_path, quarters, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
    rgb = read_image(save(tmp_path / f"turned.{suffix}", quarters, exif=exif, **options))
    upright = TURNS[orientation](quarters)
    assert rgb.shape == upright.shape
    assert rgb.dtype == np.uint8
    assert np.abs(rgb.astype(int) - upright.astype(int)).max() <= (12 if suffix == "jpg" else 0)


def test_channels_are_red_green_blue(tmp_path):
    pixels = np.array([[[200, 100, 50]]], np.uint8)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", pixels)), pixels)


def test_grey_becomes_three_equal_channels(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    rgb = read_image(save(tmp_path / "grey.png", grey))
    np.testing.assert_array_equal(rgb, np.repeat(grey[..., None], 3, axis=2))


def test_16_bits_become_8(tmp_path):
    rgb = read_image(save(tmp_path / "deep.png", np.array([[0, 256, 32768, 65535]], np.uint16)))
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb[0], [[0] * 3, [1] * 3, [128] * 3, [255] * 3])


def test_alpha_is_left_out(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [40, 50, 60, 0]]], np.uint8)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", rgba)), rgba[..., :3])


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_known_suffix_is_read(tmp_path, quarters, suffix):
    rgb = read_image(save(tmp_path / f"photo{suffix}", quarters))
    assert rgb.shape == quarters.shape
    assert np.abs(rgb[4, 4].astype(int) - [255, 0, 0]).max() <= 12


def test_text_called_jpg_is_rejected(tmp_path):
    path = tmp_path / "note.jpg"
    path.write_text("this is no photograph")
    with pytest.raises(RejectError, match="21 bytes cannot be decoded") as caught:
        read_image(str(path))
    assert caught.value.reason == "unreadable_image"


def test_half_a_file_is_rejected(tmp_path, quarters):
    whole = Path(save(tmp_path / "whole.jpg", quarters)).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RejectError) as caught:
        read_image(str(tmp_path / "half.jpg"))
    assert caught.value.reason == "unreadable_image"


def test_empty_file_is_rejected(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(RejectError) as caught:
        read_image(str(tmp_path / "empty.jpg"))
    assert caught.value.reason == "empty_file"


# --- finding ---


def test_folders_are_searched_for_known_suffixes(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("b.jpg", "a.PNG", "notes.txt", "deep/c.jpeg", "depth.npy"):
        (tmp_path / "in" / name).touch()
    found = find_images((str(tmp_path / "in"),))
    assert found == [str(tmp_path / "in" / name) for name in ("a.PNG", "b.jpg", "deep/c.jpeg")]


def test_files_are_taken_as_they_are_in_the_order_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("z.jpg", "a.strange"):
        (tmp_path / name).touch()
    assert find_images(("z.jpg", "a.strange")) == [str(tmp_path / "z.jpg"), str(tmp_path / "a.strange")]


def test_nothing_is_found_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").touch()
    found = find_images(("b.jpg", "a.jpg", str(tmp_path), "./b.jpg"))
    assert found == [str(tmp_path / "b.jpg"), str(tmp_path / "a.jpg")]


def test_missing_is_an_error_that_names_it(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(
        SourceError, match=r"no image .*absent\.jpg\. Pass --images files, folders, patterns or s3:// URIs\."
    ):
        find_images((str(tmp_path / "a.jpg"), str(tmp_path / "absent.jpg")))


def test_folder_without_a_photograph_is_an_error_that_names_it(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SourceError, match=rf"^{tmp_path} holds no image .*\.jpg"):
        find_images((str(tmp_path),))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jpg", ["b.jpg"]),
        ("**/*.jpg", ["b.jpg", "deep/c.jpg", "deep/er/d.jpg"]),
        ("deep/[cd]*", ["deep/c.jpg"]),
        ("?.*", ["a.PNG", "b.jpg"]),
    ],
)
def test_patterns(tmp_path, monkeypatch, pattern, names):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.jpg", "a.PNG", "n.txt", "deep/c.jpg", "deep/er/d.jpg", "deep/x.npy"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for given in (pattern, f"{tmp_path}/{pattern}"):
        assert find_images((given,)) == [str(tmp_path / name) for name in names]


def test_a_name_with_brackets_is_a_name(tmp_path):
    (tmp_path / "photo [1].jpg").touch()
    assert find_images((str(tmp_path / "photo [1].jpg"),)) == [str(tmp_path / "photo [1].jpg")]


def test_a_pattern_without_a_photograph_is_an_error_that_names_it(tmp_path):
    with pytest.raises(SourceError, match=r"\*\.jpg holds no image"):
        find_images((str(tmp_path / "*.jpg"),))


@pytest.mark.parametrize("folder", ["trip [v1]", "[v1]", "a*"])
def test_a_folder_with_brackets_holds_what_a_pattern_finds(tmp_path, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a.jpg").touch()
    for given in (folder, f"{folder}/*.jpg", f"{folder}/**/a.*"):
        assert find_images((f"{tmp_path}/{given}",)) == [f"{tmp_path}/{folder}/a.jpg"]
    with pytest.raises(SourceError, match="There is no image"):
        find_images((f"{tmp_path}/{folder}/b.jpg",))


def test_hidden_files_are_images_only_if_named(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for name in ("a.jpg", "._a.jpg", "Thumbs.db", ".ipynb_checkpoints/a.jpg"):
        (tmp_path / name).touch()
    for given in ("", "/*", "/**/*.jpg"):
        assert find_images((f"{tmp_path}{given}",)) == [f"{tmp_path}/a.jpg"]
    for named in (".ipynb_checkpoints", ".ipynb_checkpoints/*.jpg"):
        assert find_images((f"{tmp_path}/{named}",)) == [f"{tmp_path}/.ipynb_checkpoints/a.jpg"]
    assert find_images((f"{tmp_path}/._a.jpg",)) == [f"{tmp_path}/._a.jpg"]


def test_linked_folders_are_searched_once(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").touch()
    for name, target in {"linked": "elsewhere", "loop": "in"}.items():
        (tmp_path / "in" / name).symlink_to(tmp_path / target)
    assert find_images((str(tmp_path / "in"),)) == [str(tmp_path / "in/linked/a.jpg")]


@pytest.mark.parametrize("suffix", sorted(OTHER_SUFFIXES))
def test_photos_of_other_kinds_are_found_and_rejected(tmp_path, quarters, suffix):
    path = tmp_path / f"IMG_0001{suffix.upper()}"
    Image.fromarray(quarters).save(path, "tiff")  # Such as a raw photo, which begins with its thumbnail.
    assert find_images((str(tmp_path),)) == [str(path)]
    with pytest.raises(RejectError, match=f"{suffix} files are not read. Convert") as caught:
        read_image(str(path))
    assert caught.value.reason == "unsupported_format"


# --- in an object store ---


@pytest.fixture(scope="module")
def bucket(serving):
    """s3://photos with two photographs, a note and a file that is no photograph."""
    s3fs = pytest.importorskip("s3fs", reason="pip install 'depthflow[s3]'")
    with serving():
        filesystem = s3fs.S3FileSystem()
        filesystem.mkdir("photos")
        filesystem.mkdir("others")
        _, png = cv2.imencode(".png", np.full((4, 6, 3), 7, np.uint8))
        for name in ("a.png", "deep/b.png"):
            filesystem.pipe(f"photos/{name}", png.tobytes())
        filesystem.pipe("photos/notes.txt", b"a note")
        filesystem.pipe("photos/deep/broken.jpg", b"no photograph")
        for name in ("[v1]/c [2].png", "[v1]/._c.png"):
            filesystem.pipe(f"others/{name}", png.tobytes())
        yield filesystem


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("s3://photos/a.png", ["a.png"]),
        ("s3://photos", ["a.png", "deep/b.png", "deep/broken.jpg"]),
        ("s3://photos/deep/", ["deep/b.png", "deep/broken.jpg"]),
        ("s3://photos/*/*.png", ["deep/b.png"]),
    ],
)
def test_found_in_a_bucket(bucket, given, names):
    assert find_images((given,)) == [f"s3://photos/{name}" for name in names]


@pytest.mark.parametrize("given", ["s3://others", "s3://others/[v1]", "s3://others/[v1]/c [2].png", "s3://others/*/*"])
def test_found_in_a_bucket_with_brackets_and_hidden_files(bucket, given):
    assert find_images((given,)) == ["s3://others/[v1]/c [2].png"]


def test_read_from_a_bucket(bucket):
    np.testing.assert_array_equal(read_image("s3://photos/deep/b.png"), np.full((4, 6, 3), 7, np.uint8))
    for path, reason in (("deep/broken.jpg", "unreadable_image"), ("absent.jpg", "unreadable_file")):
        with pytest.raises(RejectError) as caught:
            read_image(f"s3://photos/{path}")
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    "given", ["s3://photos/absent.jpg", "s3://photos/absent/*.jpg", "s3://nobody/a.jpg", "ftp://a/b.jpg"]
)
def test_missing_in_a_bucket_is_an_error_that_names_it(bucket, given):
    with pytest.raises(SourceError) as caught:
        find_images((given,))
    assert given in str(caught.value)


def test_version_changes_with_the_photograph(bucket, tmp_path):
    (tmp_path / "a.png").write_bytes(b"one")
    for path, write in (
        ("s3://photos/changing.png", lambda content: bucket.pipe("photos/changing.png", content)),
        (str(tmp_path / "a.png"), (tmp_path / "a.png").write_bytes),
    ):
        write(b"one")
        first = image_version(path)
        assert first and image_version(path) == first
        write(b"other")
        assert image_version(path) not in ("", first)
    assert image_version(str(tmp_path / "absent.png")) == image_version("s3://photos/absent.png") == ""


def test_a_folder_is_no_photograph(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").mkdir()
    assert find_images((str(tmp_path),)) == [str(tmp_path / "a.jpg")]


def test_a_dangling_link_is_found_and_reported(tmp_path):
    link = tmp_path / "b.jpg"
    link.symlink_to(tmp_path / "absent")
    assert find_images((str(tmp_path),)) == [str(link)]
    with pytest.raises(RejectError, match="unreadable_file"):
        read_image(str(link))
