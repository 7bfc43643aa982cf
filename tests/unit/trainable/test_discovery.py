"""Declarations are found in every folder of a package's path; what cannot be told apart is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainable.discovery import discover


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty package `declared` in a folder of its own."""
    folder = tmp_path / "declared"
    folder.mkdir()
    (folder / "__init__.py").write_text("from dataclasses import dataclass\n@dataclass\nclass Kind:\n    name: str\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "declared"]:
        del sys.modules[name]


def names() -> list[str]:
    from declared import Kind  # type: ignore[import-not-found]

    return [f"{name}: {kind.name}" for name, kind in discover("declared", Kind).items()]


def declare(folder: Path, module: str, *called: str) -> None:
    lines = [f"K{number} = Kind({name!r})" for number, name in enumerate(called)]
    (folder / f"{module}.py").write_text("\n".join(["from declared import Kind", *lines, ""]))


def test_every_file_of_every_folder_counts(package: Path, tmp_path: Path) -> None:
    declare(package, "second", "b")
    declare(package, "first", "a", "c")
    (package / "_shared.py").write_text("raise ValueError")
    assert names() == ["a: a", "c: c", "b: b"]
    (tmp_path / "mine").mkdir()
    declare(tmp_path / "mine", "my_own", "d")
    sys.modules["declared"].__path__.append(str(tmp_path / "mine"))
    assert names() == ["a: a", "c: c", "b: b", "d: d"]


def test_the_same_declaration_seen_from_two_files_is_one(package: Path) -> None:
    declare(package, "first", "a")
    (package / "second.py").write_text("from declared import Kind\nfrom declared.first import K0\nK = Kind('b')\n")
    assert names() == ["a: a", "b: b"]


def test_two_of_one_name_and_a_file_without_any_are_refused(package: Path) -> None:
    declare(package, "first", "a")
    declare(package, "second", "a")
    with pytest.raises(ValueError, match=r"declared\.second: there is another Kind called 'a'"):
        names()
    declare(package, "second")
    del sys.modules["declared.second"]
    with pytest.raises(ValueError, match=r"declared\.second declares no Kind"):
        names()
