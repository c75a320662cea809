"""Output formats: names that clash with nothing, and what each writes is there, of metres and of relative depth."""

from collections import Counter

import numpy as np
import pytest

from depthflow.inference.formats import FORMATS, Prediction
from depthflow.inference.lens import Lens
from depthflow.inference.outputs import SIDECAR

DEPTH = np.linspace(0.5, 9.0, 30, dtype=np.float32).reshape(5, 6)
CASES = [(name, output) for name, one in FORMATS.items() for output in one.endings]


def prediction(output: str) -> Prediction:
    return Prediction(
        rgb=np.zeros((5, 6, 3), np.uint8),
        depth=DEPTH,
        output=output,
        camera=Lens(fov_deg=60.0).camera(height=5, width=6),
    )


@pytest.mark.parametrize(("name", "output"), CASES)
def test_writes_one_file_under_the_name_that_it_is_given(tmp_path, name, output):
    path = tmp_path / f"room.{FORMATS[name].endings[output]}"
    said = FORMATS[name].write(path, prediction(output))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_size > 0
    assert said is None or all(isinstance(value, float) for value in said.values())


def test_no_two_formats_share_a_name_and_none_is_the_sidecars():
    ends = Counter(end for one in FORMATS.values() for end in {*one.endings.values()})
    assert set(ends.values()) == {1}
    assert SIDECAR not in ends


def test_relative_depth_has_no_name_of_metres():
    """But for pictures, whose scale says what it is."""
    for name, one in FORMATS.items():
        if name != "panel":
            assert len(set(one.endings.values())) == len(one.endings)


def test_every_format_says_what_it_is():
    assert all(len(one.help) > 10 for one in FORMATS.values())
