"""The command line of `study.run`, and what it asks for: what is studied and how it is run, checked before anything is touched.

Below this module nothing knows of options.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from functools import partial
from pathlib import Path

from study.command_line.program import program_name
from study.spec.errors import SpecError
from study.spec.grid_file import list_grids, load_grid, parse_seeds
from study.spec.run_settings import RunSettings
from study.spec.study_spec import StudySpec, build_spec
from study.tracking.mode import CHOICES, DEFAULT_PROJECT
from trainable.config import FIELDS, parse_overrides

DEFAULTS = RunSettings()
MOST_SEEDS = 20  # of --until-decided
_YES_NO = {True: "yes", False: "no"}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program_name("run"),
        description="Run a grid of training configurations as Ray Tune trials and report on them.",
        epilog="fields for --set: " + ", ".join(f"{name}={spec.default}" for name, spec in FIELDS.items()),
    )
    parser.add_argument("--grid", required=True, metavar="NAME|FILE", help=f"{', '.join(list_grids())}, or a TOML file")
    parser.add_argument("--seeds", metavar="N|LIST", help="number of seeds, or a list such as 0,1,5")
    parser.add_argument(
        "--until-decided",
        action="store_true",
        help="add seeds until every cell is different from the best or equivalent to it",
    )
    parser.add_argument(
        "--max-seeds",
        type=int,
        metavar="N",
        help=f"of --until-decided: at most so many seeds per cell (default: {MOST_SEEDS})",
    )
    parser.add_argument("--epochs", metavar="N", help="as --set epochs=N")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="a field for all trials; repeatable"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with the data set; default: cache, else download"
    )
    parser.add_argument(
        "--results", default=DEFAULTS.results, metavar="DIR|URL",
        help="parent of the study folder; also s3://, gs://, ...",
    )  # fmt: skip
    parser.add_argument("--name", help="name of the study folder; default: the grid's name and the overrides")
    parser.add_argument(
        "--search", choices=("optuna", "none"), help="search the ranges of the grid; none: run its cells only"
        " (default: search where the grid has [search])",
    )  # fmt: skip
    parser.add_argument(
        "--trials", type=int, metavar="N", help="searched trials in all; more than before extends a search"
    )
    parser.add_argument("--plan", action="store_true", help="print what would run and what it costs; run nothing")
    parser.add_argument(
        "--calibrate", action="store_true", help="time a few steps here first and estimate from them; also with --plan"
    )
    parser.add_argument(
        "--address", metavar="auto|HOST:PORT",
        help="run the trials on this running Ray cluster; --results must then be on storage that its nodes share",
    )  # fmt: skip
    parser.add_argument(
        "--gpus-per-trial", type=float, metavar="G",
        help="1, a part of a GPU, or 0: train on CPUs (default: 1 where a GPU is visible)",
    )  # fmt: skip
    parser.add_argument(
        "--max-concurrent", type=int, metavar="N", help="trials at the same time (default: as many as fit)"
    )
    parser.add_argument(
        "--retry-failed", choices=tuple(_YES_NO.values()), default=_YES_NO[DEFAULTS.retry_failed],
        help="run failed trials again (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--accept-changes", action="store_true", help="go on with a study made with other data, code or torch"
    )
    parser.add_argument(
        "--checkpoint-interval", dest="checkpoint_interval_s", type=float, default=DEFAULTS.checkpoint_interval_s, metavar="S",
        help=f"seconds between checkpoints (default: {DEFAULTS.checkpoint_interval_s:g})",
    )  # fmt: skip
    parser.add_argument(
        "--max-failures", type=int, default=DEFAULTS.max_failures, metavar="N",
        help="retries of a failing trial (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--trial-timeout", dest="trial_timeout_s", type=float, metavar="S",
        help="end an attempt that finishes no epoch for so long, as a failure (default: never)",
    )  # fmt: skip
    parser.add_argument(
        "--wandb", choices=CHOICES, help="mirror to W&B; auto: online where a key is configured, else offline "
        "(default: online with a key, else off; `study sync` makes the runs at any time)",
    )  # fmt: skip
    parser.add_argument(
        "--wandb-project", metavar="NAME", help=f"W&B project (default: as before, $WANDB_PROJECT or {DEFAULT_PROJECT})"
    )
    parser.add_argument(
        "--no-report", dest="report", action="store_false", help="only train; `study report DIR` makes the report"
    )
    parser.add_argument("--serve", action="store_true", help="show the live page of the study while it runs")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what Ray says")
    return parser


def read_study(options: argparse.Namespace) -> partial[StudySpec]:
    """What the command line asks for of its grid, read once: `build_spec`, to which `defaults` may be given. Errors: SpecError."""
    grid = load_grid(options.grid)
    try:
        overrides = parse_overrides(options.set, options.epochs)
    except ValueError as error:
        raise SpecError(str(error)) from error
    return partial(
        build_spec,
        grid,
        name=options.name,
        seeds=None if options.seeds is None else parse_seeds(options.seeds),
        overrides=overrides,
        trials=options.trials,
        most_seeds=_most_seeds(options),
        searching={"optuna": True, "none": False}.get(options.search or ""),
    )


def _most_seeds(options: argparse.Namespace) -> int | None:
    if not options.until_decided:
        if options.max_seeds is not None:
            raise SpecError("--max-seeds belongs to --until-decided; a fixed number of seeds is --seeds")
        return None
    return MOST_SEEDS if options.max_seeds is None else int(options.max_seeds)


def read_settings(options: argparse.Namespace) -> RunSettings:
    """How the command line asks the study to be run: an option for every setting. Errors: SpecError."""
    asked = {setting.name: getattr(options, setting.name) for setting in fields(RunSettings)}
    return RunSettings(**{**asked, "retry_failed": options.retry_failed == _YES_NO[True]})
