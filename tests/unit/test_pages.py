"""The README and the guides say what the code does: columns, commands, options, grids, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ray.scripts.scripts import start as ray_start

import analysis.__main__
import trainable.__main__
from study import barriers, logs, pull, serve, status, stop, submit
from study.command_line.options import build_parser
from study.spec.grid_file import list_grids, parse_grid
from study.spec.study_spec import build_spec
from tests.support.readme import COLUMNS_PAGE, README, ROOT, pages, render_columns

PAGES = pages()
MEASURED = ("docs/benchmarks.md", "docs/scaling.md")  # their commands are under tests/benchmarks
GUIDES = {name: text for name, text in PAGES.items() if name not in MEASURED}
CLUSTER_FILE = ROOT / "cluster.yaml"
SERVICE = {"status": status, "logs": logs, "stop": stop, "pull": pull, "serve": serve}


def commands(name: str, text: str) -> list[list[str]]:
    """The arguments of every call of a command that a page shows, typed as `study NAME` or `python -m study.NAME`."""
    lines = re.findall(
        rf"(?:\$ |`)(?:\.venv/bin/)?(?:study |python -m study\.){name}\b([^`#\n]*)", text.replace("\\\n", " ")
    )
    return [line.split() for line in lines if "..." not in line and "--help" not in line]


def test_the_columns_are_those_of_the_records() -> None:
    assert render_columns() in COLUMNS_PAGE.read_text(), "run make pages"


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 160


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page])
    missing = [target for target in targets if not (ROOT / Path(page).parent / target).exists()]
    assert not missing


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


def test_every_command_of_the_service_is_understood() -> None:
    text = "\n".join(GUIDES.values())
    for name, module in SERVICE.items():
        found = commands(name, text)
        assert found, name
        for arguments in found:
            module.build_parser().parse_args(arguments)
    found = [arguments for arguments in commands("submit", text) if arguments]
    assert found
    for arguments in found:
        _, rest = submit.build_parser().parse_known_args(arguments)
        build_parser().parse_args(rest)


def test_every_command_of_study_run_is_understood() -> None:
    found = [arguments for arguments in commands("run", "\n".join(GUIDES.values())) if arguments]
    assert len(found) >= 12
    for arguments in found:
        build_parser().parse_args(arguments)


def test_every_option_exists() -> None:
    parsers = [
        build_parser(),
        *(module.build_parser() for module in (analysis.__main__, trainable.__main__, submit, barriers)),
    ]
    parsers += [module.build_parser() for module in SERVICE.values()]
    known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    known |= {
        "--to",
        "--generate",
    }  # of commands of `study report` that have parsers of their own; of Ray's token command
    known |= {option for parameter in ray_start.params for option in parameter.opts}
    for name, text in GUIDES.items():
        used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
        assert used <= known, (name, used - known)


def test_the_grid_file_that_is_shown_is_a_grid() -> None:
    block = re.search(r"```toml\n(.*?)```", PAGES["docs/running.md"], re.DOTALL)
    assert block is not None
    spec = build_spec(parse_grid(block.group(1), "docs/running.md"))
    assert len(spec.trial_configs()) == 12
    assert spec.cells[0].published == {"final_test_accuracy": 0.93}


def test_all_shipped_grids_are_named() -> None:
    assert all(f"`{name}`" in PAGES["docs/running.md"] for name in list_grids())
