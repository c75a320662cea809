"""Every command's configuration, by the module that it stands in."""

import importlib
import runpy
from dataclasses import is_dataclass
from pathlib import Path

PIPELINES = Path(__file__).resolve().parents[1] / "pipelines"
MODULES = (
    "depthflow.flags",
    "depthflow.recipe",
    "depthflow.cluster.config",
    "depthflow.datasets.config",
    "depthflow.evaluation.config",
    "depthflow.inference.config",
    "depthflow.store.write.config",
    "depthflow.synthetic.config",
    "depthflow.training.config",
)


def configurations() -> dict[str, type]:
    """Documented name, such as depthflow.recipe.Recipe, to the dataclass."""
    spaces = {name: vars(importlib.import_module(name)) for name in MODULES}
    spaces["pipelines.demo"] = runpy.run_path(str(PIPELINES / "demo.py"), run_name="pipelines.demo")
    return {
        f"{module}.{name}": value
        for module, space in spaces.items()
        for name, value in space.items()
        if isinstance(value, type) and is_dataclass(value) and value.__module__ == module
    }
