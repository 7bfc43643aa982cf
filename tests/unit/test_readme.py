"""The README says what the code does: columns, commands and options."""

from __future__ import annotations

import re

from study import logs, pull, status, stop, submit
from study.command_line.options import build_parser
from study.spec.grid_file import list_grids, parse_grid
from study.spec.study_spec import build_spec
from tests.support.readme import CLUSTER_FILE, README, render_cluster_file, render_columns, replace_parts

TEXT = README.read_text()


def test_the_columns_are_those_of_the_records() -> None:
    assert render_columns() in TEXT, "run python -m tests.support.readme"


def test_cluster_yaml_is_in_the_readme_as_it_is() -> None:
    assert render_cluster_file() in TEXT, "run python -m tests.support.readme"


def test_making_these_parts_anew_leaves_the_rest_alone() -> None:
    assert replace_parts(TEXT) == TEXT


def test_every_line_of_cluster_yaml_is_explained() -> None:
    """A setting has a comment beside it, or stands in a block that has one above it or at its key."""
    explained, block_indent = False, 0
    for line in CLUSTER_FILE.read_text().splitlines():
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith("#"):
            explained, block_indent = True, indent
        elif not line.strip():
            explained = False
        elif "  # " in line:
            explained, block_indent = True, indent
        else:
            assert (explained and indent >= block_indent) or line.endswith(":"), line


def test_every_command_of_the_service_in_the_readme_is_understood() -> None:
    for name, module in (("status", status), ("logs", logs), ("stop", stop), ("pull", pull)):
        commands = re.findall(rf"\$ python -m study\.{name}\b(.*?)(?:\s+#.*)?$", TEXT, re.MULTILINE)
        assert commands, name
        for command in commands:
            module.build_parser().parse_args(command.split())
    commands = re.findall(r"\$ python -m study\.submit\b(.*?)(?:\s+#.*)?$", TEXT, re.MULTILINE)
    assert commands
    for command in commands:
        _, rest = submit.build_parser().parse_known_args(command.split())
        build_parser().parse_args(rest)


def test_every_option_in_the_readme_exists() -> None:
    known = {option for action in build_parser()._actions for option in action.option_strings}
    import analysis.__main__
    import trainable.__main__

    known |= {"--to"}  # of commands of `analysis` that have parsers of their own
    for module in (analysis.__main__, trainable.__main__, submit, status, logs, stop, pull):
        known |= {option for action in module.build_parser()._actions for option in action.option_strings}
    ours = TEXT.replace(render_cluster_file(), "").replace("ray get-auth-token --generate", "")
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours))
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
