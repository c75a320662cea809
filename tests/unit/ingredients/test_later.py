"""What stands for a module until something of it is used; and that tables of names do without Keras."""

import subprocess
import sys

import pytest
from ray import cloudpickle

from depthflow.ingredients.augmentations import AUGMENTATIONS
from depthflow.ingredients.encoders import ENCODERS
from depthflow.ingredients.later import Later
from depthflow.ingredients.loss_terms import TERMS


def test_is_the_module_as_soon_as_it_is_used(tmp_path, monkeypatch):
    (tmp_path / "slow_thing.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    slow = Later("slow_thing")
    assert "slow_thing" not in sys.modules
    assert slow.answer == 42
    assert sys.modules.pop("slow_thing").answer == 42


def test_what_the_module_has_not_is_not_there():
    with pytest.raises(AttributeError, match="no_such_function"):
        _ = Later("math").no_such_function


def test_looking_at_it_imports_nothing():
    assert not hasattr(Later("no_such_module"), "__wrapped__")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        _ = Later("no_such_module").answer


def test_what_uses_it_goes_to_other_processes_by_value():
    """Ray carries closures so, and what they refer to."""
    for entry in (*TERMS.values(), *ENCODERS.values(), *AUGMENTATIONS.values()):
        assert cloudpickle.loads(cloudpickle.dumps(entry)).help == entry.help
    assert cloudpickle.loads(cloudpickle.dumps(Later("math"))).floor(1.5) == 1


def test_the_names_of_a_recipes_ingredients_take_no_keras():
    script = "import sys, depthflow.config; assert not {'keras', 'tensorflow'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
