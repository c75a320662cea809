"""Every command's configuration, by the module that it stands in."""

import importlib
from dataclasses import is_dataclass

MODULES = (
    "depthflow.flags",
    "depthflow.recipe",
    "depthflow.cluster.config",
    "depthflow.datasets.config",
    "depthflow.demo.config",
    "depthflow.evaluation.config",
    "depthflow.inference.config",
    "depthflow.store.write.config",
    "depthflow.synthetic.config",
    "depthflow.training.config",
)


def configurations() -> dict[str, type]:
    """Documented name, such as depthflow.recipe.Recipe, to the dataclass."""
    spaces = {name: vars(importlib.import_module(name)) for name in MODULES}
    return {
        f"{module}.{name}": value
        for module, space in spaces.items()
        for name, value in space.items()
        if isinstance(value, type) and is_dataclass(value) and value.__module__ == module
    }
