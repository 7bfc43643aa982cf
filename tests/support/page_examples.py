"""The examples of docs/adding-your-own.md: each block's first line names its file; Python ones become modules of their package."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "adding-your-own.md"
_BLOCK = re.compile(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read_examples() -> dict[str, str]:
    """The examples of the page by the file that they are, `analysis/figures/NAME.py`, with their text."""
    blocks = re.findall(r"^```(?:python|toml)$", PAGE.read_text(), re.MULTILINE)
    found = dict(_BLOCK.findall(PAGE.read_text()))
    assert len(found) == len(blocks), "an example does not say in its first line which file it is"
    return found


@contextmanager
def added(folder: Path, *files: str) -> Iterator[None]:
    """These examples as if they lay in their packages: each in a folder of its own on the package's path."""
    packages, modules = [], []
    for file in files:
        package = import_module(file.rpartition("/")[0].replace("/", "."))
        own = folder / Path(file).with_suffix("").name
        own.mkdir(parents=True)
        (own / Path(file).name).write_text(read_examples()[file])
        packages.append((package, package.__path__))
        package.__path__ = [*package.__path__, str(own)]
        modules.append(f"{package.__name__}.{own.name}")
    try:
        yield
    finally:
        for package, path in reversed(packages):
            package.__path__ = path
        for name in modules:
            sys.modules.pop(name, None)
