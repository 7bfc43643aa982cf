"""The README and the guides say what the code does: columns, commands, options, grids, links."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.scripts.scripts import start as ray_start

import analysis.__main__
import trainable.__main__
from analysis.search.objectives import list_objectives
from study import barriers, logs, pull, serve, status, stop, submit
from study.command_line.options import build_parser
from study.spec.grid_file import list_grids, parse_grid
from study.spec.pruners import list_pruners
from study.spec.samplers import list_samplers
from study.spec.study_spec import build_spec
from study.tracking import __main__ as sync
from tests.support.readme import COLUMNS_PAGE, README, ROOT, pages, render_columns
from trainable.device import check

PAGES = pages()
MEASURED = ("docs/benchmarks.md", "docs/scaling.md")  # their commands are under tests/benchmarks
GUIDES = {name: text for name, text in PAGES.items() if name not in MEASURED}
CLUSTER_FILE = ROOT / "cluster.yaml"
SERVICE = {"status": status, "logs": logs, "stop": stop, "pull": pull, "serve": serve}


# Further commands: how a page types them, and what reads their arguments.
OTHERS: dict[str, Callable[[list[str]], object]] = {
    r"study report|python -m analysis": lambda arguments: analysis.__main__.parse(arguments, "study report"),
    r"study compare": lambda arguments: analysis.__main__.parse(["compare", *arguments], "study"),
    r"study sync|python -m study\.tracking sync": lambda arguments: sync.build_parser("").parse_args(
        ["sync", *arguments]
    ),
    r"study barriers|python -m study\.barriers": lambda arguments: barriers.build_parser().parse_args(arguments),
    r"study check|python -m trainable\.device\.check": lambda arguments: check.build_parser().parse_args(arguments),
    r"python -m trainable": lambda arguments: trainable.__main__.build_parser().parse_args(arguments),
}


def commands(name: str, text: str) -> list[list[str]]:
    """The arguments of every call of a command that a page shows, typed as `study NAME` or `python -m study.NAME`."""
    return calls(rf"study {name}|python -m study\.{name}", text)


def calls(typed: str, text: str) -> list[list[str]]:
    lines = re.findall(rf"(?:\$ |`)(?:\.venv/bin/)?(?:{typed})(?![\w.-])([^`#\n]*)", text.replace("\\\n", " "))
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


@pytest.mark.parametrize("typed", OTHERS)
def test_every_other_command_is_understood(typed: str) -> None:
    lists = ("--tables", "--figures", "--metrics")  # end after printing: test_adding_your_own.py runs them
    found = [
        arguments for arguments in calls(typed, "\n".join(GUIDES.values())) if arguments and arguments[0] not in lists
    ]
    assert found
    for arguments in found:
        OTHERS[typed](arguments)


def test_an_option_of_another_command_is_not_understood(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        OTHERS[r"study report|python -m analysis"](["pull", "SOURCE", "--to", "DIR", "--check-claims"])
    assert "unrecognized arguments: --check-claims" in capsys.readouterr().err


def test_every_option_exists() -> None:
    parsers = [
        build_parser(),
        *(module.build_parser() for module in (analysis.__main__, trainable.__main__, submit, barriers)),
        analysis.__main__.build_pull_parser(),
    ]
    parsers += [module.build_parser() for module in SERVICE.values()]
    known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    known |= {"--generate"}  # of Ray's token command
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


def test_the_search_that_is_shown_is_one_and_names_what_there_is() -> None:
    block = re.search(r"```toml\n(.*?)```", PAGES["docs/searching.md"], re.DOTALL)
    assert block is not None
    spec = build_spec(parse_grid(block.group(1), "docs/searching.md"))
    assert spec.search is not None
    assert (spec.search.trials, list(spec.search.space), len(spec.cells)) == (
        40,
        ["batch_size", "learning_rate", "momentum"],
        1,
    )
    shown = {"sampler": r"\w+", "pruner": r"\w+", "objective": r"[a-z]+_\w+"}
    named = {
        key: set(re.findall(word, re.findall(rf"^{key} = (.*)$", block.group(1), re.MULTILINE)[0])) - {"or"}
        for key, word in shown.items()
    }
    assert named == {
        "sampler": {"tpe", "random", "gp", "nsga2"}, "pruner": {"asha", "median", "none"},
        "objective": {"val_accuracy", "val_loss", "train_flops", "train_time_s"},
    }  # fmt: skip
    assert named["sampler"] <= set(list_samplers())
    assert named["pruner"] <= set(list_pruners())
    assert named["objective"] <= set(list_objectives())


def test_the_notebook_of_reading_a_study_runs() -> None:
    block = re.search(r"```python\n(.*?)```", PAGES["docs/reading.md"], re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    exec(block.group(1).replace("results/paper", str(ROOT / "examples/factorial-small")), names)
    assert len(names["study"].epochs) > len(names["study"].trials) > 1


def test_all_shipped_grids_are_named() -> None:
    assert all(f"`{name}`" in PAGES["docs/running.md"] for name in list_grids())
