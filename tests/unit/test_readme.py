"""The README says what the code does: columns, commands and options."""

from __future__ import annotations

import re

from study.grid_file import list_grids, parse_grid
from study.run import build_parser
from study.spec import build_spec
from tests.readme import README, render_columns

TEXT = README.read_text()


def test_the_columns_are_those_of_the_records() -> None:
    assert render_columns() in TEXT, "run python -m tests.readme"


def test_every_option_in_the_readme_exists() -> None:
    known = {option for action in build_parser()._actions for option in action.option_strings}
    from analysis.__main__ import build_parser as analysis_parser

    known |= {option for action in analysis_parser()._actions for option in action.option_strings} | {"--to"}
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT))
    assert used <= known, used - known


def test_every_command_of_study_run_in_the_readme_is_understood() -> None:
    commands = re.findall(r"python -m study\.run (--grid .*?)(?:\s+#.*)?$", TEXT, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        build_parser().parse_args(command.strip("`").split())


def test_the_grid_file_in_the_readme_is_a_grid() -> None:
    block = re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    spec = build_spec(parse_grid(block.group(1), "README"))
    assert len(spec.trial_configs()) == 12
    assert spec.cells[0].published == {"final_test_accuracy": 0.93}


def test_all_shipped_grids_are_named() -> None:
    assert all(f"`{name}`" in TEXT for name in list_grids())
