"""Discovery of declarations: a package each of whose modules declares one thing, found by walking the package's `__path__`.

So adding a file adds the thing, and a folder that is added to `__path__` counts too. Modules whose name begins with an
underscore are not looked at, nor are packages inside the package.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol, TypeVar


class Named(Protocol):
    """A declaration: other files refer to it by its name."""

    @property
    def name(self) -> str:
        """What it is called in files and on command lines."""


Declaration = TypeVar("Declaration", bound=Named)


def discover(package: str, kind: type[Declaration]) -> dict[str, Declaration]:
    """Return what the modules of `package` declare of this kind, by name. Errors: ValueError for one name given twice, or none."""
    found: dict[str, Declaration] = {}
    for module in iter_modules(import_module(package).__path__):
        if module.name.startswith("_") or module.ispkg:
            continue
        declared = [
            value for value in vars(import_module(f"{package}.{module.name}")).values() if isinstance(value, kind)
        ]
        if not declared:
            raise ValueError(f"{package}.{module.name} declares no {kind.__name__}")
        for one in declared:
            if found.setdefault(one.name, one) is not one:
                raise ValueError(f"{package}.{module.name}: there is another {kind.__name__} called {one.name!r}")
    return found
