"""Modules that take seconds to import, imported when something of them is first used."""

from importlib import import_module
from types import ModuleType
from typing import Any


class Later(ModuleType):
    """Stands for a module until then.

        ops = Later("keras.ops")
        ops.sum(x)  # Imports it.

    Args:
        name: the module's.
    """

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return Later, (self.__name__,)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # Asked for by who inspects modules, not by who uses this one.
            raise AttributeError(attribute)
        return getattr(import_module(self.__name__), attribute)
