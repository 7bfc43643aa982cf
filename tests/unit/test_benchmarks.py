"""The page of benchmarks: every benchmark has its place on it, and writing one leaves the others alone."""

from __future__ import annotations

import importlib.util

import pytest

from tests.benchmarks.__main__ import BENCHMARKS, PAGE, replace_block


def test_every_benchmark_exists_and_has_its_place_on_the_page() -> None:
    page = PAGE.read_text()
    for name, commands in BENCHMARKS.items():
        assert f"MARK {name}" in replace_block(page, name, f"MARK {name}")
        for command in commands:
            assert importlib.util.find_spec(f"tests.benchmarks.{command.split()[0]}") is not None


def test_only_the_named_block_changes() -> None:
    page = "top\n<!-- begin a -->\nold\n<!-- end a -->\nmiddle\n<!-- begin b -->\nkept\n<!-- end b -->\nend\n"
    once = replace_block(page, "a", "new")
    assert once == page.replace("old", "\nnew\n")
    assert replace_block(once, "a", "new") == once
    with pytest.raises(ValueError, match="no marks <!-- begin c -->"):
        replace_block(page, "c", "new")
