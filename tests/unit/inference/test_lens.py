"""The camera of an image: which source counts, and EXIF data by hand."""

import io
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import IFDRational

from depthflow.datasets.camera import Camera
from depthflow.inference.lens import Lens, camera_of_image, exif_focal_px

SIZE = {"height": 300, "width": 400}
BESIDE = Camera(width=800, height=600, fx_px=700.0, fy_px=720.0, cx_px=390.0, cy_px=310.0)


def jpeg(tags=(), *, height=300, width=400, kind="JPEG") -> bytes:
    """An image file with these EXIF tags."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[Base.Make] = "a maker"  # Pillow writes no PNG block without a tag of its own.
    exif.get_ifd(IFD.Exif).update(dict(tags))
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def rational(value: float) -> IFDRational:
    return IFDRational(Fraction(value).limit_denominator(1000))


EQUIVALENT = {Base.FocalLengthIn35mmFilm: 26}
SENSOR = {  # 4000 px across 8 mm are 500 per mm; 6 mm of focal length are 3000 px of 4000.
    Base.FocalLength: rational(6.0),
    Base.FocalPlaneXResolution: rational(12700.0),
    Base.FocalPlaneResolutionUnit: 2,
    Base.ExifImageWidth: 4000,
    Base.ExifImageHeight: 3000,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_equivalent_focal_length_by_hand(kind):
    """26 mm on film of 43.267 mm across the diagonal: 26 / 43.267 of this image's 500 px."""
    assert exif_focal_px(jpeg(EQUIVALENT, kind=kind), **SIZE) == pytest.approx(26 / 43.267 * 500, rel=1e-4)


def test_focal_length_and_sensor_by_hand():
    """The image was shrunk to a tenth, and its focal length in pixels with it."""
    assert exif_focal_px(jpeg(SENSOR), **SIZE) == pytest.approx(300.0)
    assert exif_focal_px(jpeg(SENSOR), height=400, width=300) == pytest.approx(300.0)
    metric = {**SENSOR, Base.FocalPlaneXResolution: rational(5000.0), Base.FocalPlaneResolutionUnit: 3}
    assert exif_focal_px(jpeg(metric), **SIZE) == pytest.approx(300.0)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {Base.FocalLength: rational(6.0)},
        {Base.FocalLengthIn35mmFilm: 0},
        {Base.FocalLengthIn35mmFilm: 60000},
        {**SENSOR, Base.FocalPlaneXResolution: IFDRational(0, 0)},
    ],
)
def test_exif_data_without_a_focal_length(tags):
    assert exif_focal_px(jpeg(tags), **SIZE) is None


@pytest.mark.parametrize("content", [b"", b"no image", jpeg(EQUIVALENT)[:40]])
def test_damaged_files_state_nothing(content):
    assert exif_focal_px(content, **SIZE) is None


def test_the_first_source_that_knows_the_lens_counts():
    everything = {"lens": Lens(fov_deg=90.0), "beside": BESIDE, "median_focal": 1.5}

    def found(content, *left_out):
        known = {name: value for name, value in everything.items() if name not in left_out}
        result = camera_of_image(content, **SIZE, **known)
        return result and (result.source, pytest.approx(result.camera.fx_px))

    assert found(jpeg(EQUIVALENT)) == ("flags", 200.0)
    assert found(jpeg(EQUIVALENT), "lens") == ("EXIF", 26 / 43.2666 * 500)
    assert found(jpeg(), "lens") == ("camera.json", 350.0)
    assert found(jpeg(), "lens", "beside") == ("training median", 1.5 * (300 * 400) ** 0.5)
    assert found(jpeg(), *everything) is None


def test_the_camera_beside_fits_resized_and_turned_images_only():
    upright = camera_of_image(jpeg(), height=800, width=600, beside=BESIDE)
    assert upright is not None
    assert upright.camera == Camera(width=600, height=800, fx_px=720.0, fy_px=700.0, cx_px=310.0, cy_px=390.0)
    with pytest.raises(ValueError, match="600 x 800, and this one has 300 x 500"):
        camera_of_image(jpeg(), height=300, width=500, beside=BESIDE)


def test_a_stated_lens():
    assert Lens(fx_px=1.0, fy_px=2.0).camera(height=6, width=8) == Camera(
        width=8, height=6, fx_px=1.0, fy_px=2.0, cx_px=4.0, cy_px=3.0
    )
    assert Lens(fov_deg=60.0).camera(height=768, width=1024).fx_px == pytest.approx(886.81, rel=1e-4)
