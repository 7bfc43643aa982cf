"""`python -m analysis STUDY`: tables, figures and the report of a study folder, from its records alone. See `--help`.

Exit status: 0 done, 1 a claim that the study can test is not reproduced (`--check-claims`), 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.records.study_folder import StudyFolder

OK, NOT_REPRODUCED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_PROGRAM = "python -m analysis"
_EPILOG = """other commands:
  {program} pull SOURCE --to DIR       fetch a study's records from a folder, a URL or W&B
  {program} compare STUDY STUDY ...    merge studies that share data and code, and compare their cells
Each has its own --help. A study folder of that name is ./pull or ./compare."""


def build_parser(program: str = _PROGRAM) -> argparse.ArgumentParser:
    """The command line without its other commands."""
    parser = argparse.ArgumentParser(
        prog=program, epilog=_EPILOG.format(program=program), formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Rebuild every table, every figure and report/index.html of a study from its records alone.",
    )  # fmt: skip
    parser.add_argument(
        "study", metavar="STUDY", help="study folder, or its URL (s3://, gs://, ...): a copy of it is read"
    )
    for what in _LISTS:
        parser.add_argument(f"--{what}", action=_List, nargs=0, help=f"list the {what} that there are, and end")
    parser.add_argument(
        "--claims",
        type=Path,
        metavar="FILE",
        help="published claims to check (TOML; default: those that the grid names)",
    )
    parser.add_argument(
        "--check-claims", action="store_true", help="exit with 1 when a claim that can be tested is not reproduced"
    )
    return parser


class _List(argparse.Action):
    """Prints what is declared, as --help prints the options: without a study."""

    def __call__(self, parser: argparse.ArgumentParser, *ignored: object) -> None:
        for line in _LISTS[self.dest]():
            print(line)
        parser.exit()


def _list_tables() -> Iterator[str]:
    from analysis.tables import table_kinds

    for table in table_kinds(search=True).values():
        yield _line(table.name, table.section, table.title)


def _list_figures() -> Iterator[str]:
    from analysis.figures import figure_kinds

    for figure in figure_kinds(search=True).values():
        yield _line(figure.name, figure.section, figure.title)
        for column in figure.columns:
            yield _line("", f"  {column.title}", column.meaning)


def _list_metrics() -> Iterator[str]:
    from analysis.metrics import list_metrics

    for metric in list_metrics().values():
        yield _line(metric.name, metric.kind, metric.meaning)


def _line(name: str, kind: str, words: object) -> str:
    """`words` are a function where they differ by study."""
    return f"{name:22} {kind:12} {words if isinstance(words, str) else name.replace('_', ' ')}"


_LISTS: dict[str, Callable[[], Iterator[str]]] = {
    "tables": _list_tables, "figures": _list_figures, "metrics": _list_metrics
}  # fmt: skip


def build_pull_parser(program: str = _PROGRAM) -> argparse.ArgumentParser:
    """The command line of `pull`."""
    parser = argparse.ArgumentParser(
        prog=f"{program} pull", description="Fetch the records and tables of a study from elsewhere."
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="a folder, a URL (s3://, gs://, file://, ...) or wandb:ENTITY/PROJECT/GROUP"
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="study folder to write")
    return parser


def build_compare_parser(program: str = _PROGRAM) -> argparse.ArgumentParser:
    """The command line of `compare`."""
    parser = argparse.ArgumentParser(
        prog=f"{program} compare",
        description="Compare the cells of several studies that share data and code; refuse those that do not.",
    )
    parser.add_argument("studies", type=Path, nargs="+", metavar="STUDY", help="study folders, two or more")
    parser.add_argument("--to", type=Path, metavar="DIR", help="keep the merged study there, with its report")
    return parser


def main(arguments: list[str] | None = None, *, program: str = _PROGRAM) -> int:
    """Run the command line, whose help calls it `program`; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    run, options = parse(arguments, program)
    from analysis.records.study_folder import StudyFolderError  # not before --help has answered

    try:
        return run(options)
    except StudyFolderError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"error: {error.filename or 'report'}: {error.strerror or error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def parse(arguments: list[str], program: str) -> tuple[Callable[[argparse.Namespace], int], argparse.Namespace]:
    """What a command line asks for: the command, and its options."""
    command = arguments[0] if arguments else ""
    if command == "pull":
        return _pull, build_pull_parser(program).parse_args(arguments[1:])
    if command == "compare":
        return _compare, build_compare_parser(program).parse_args(arguments[1:])
    return _report, build_parser(program).parse_args(arguments)


def _report(options: argparse.Namespace) -> int:
    from analysis.claims.claim import ClaimsError
    from analysis.claims.claims_file import load_claims

    folder = _open_study(options)
    folder.read_study()  # a wrong path is said before seconds of imports
    try:
        if options.claims is not None:
            load_claims(options.claims)
    except ClaimsError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    from analysis.report.page import write_report

    print(write_report(folder, claims_file=options.claims))
    return _check_claims(folder, options.claims) if options.check_claims else OK


def _open_study(options: argparse.Namespace) -> StudyFolder:
    """The study folder, or a copy of what lies at a URL, in the user's cache."""
    from analysis.records.study_folder import StudyFolder
    from analysis.sources.pull import is_url, pull_to_cache

    if not is_url(options.study):
        return StudyFolder(Path(options.study))
    return pull_to_cache(options.study)


def _pull(options: argparse.Namespace) -> int:
    from analysis.sources.pull import pull

    print(pull(options.source, options.to).path)
    return OK


def _compare(options: argparse.Namespace) -> int:
    """Print how the cells of all studies compare; keep the merged study where asked to."""
    from analysis.records.study_folder import StudyFolder
    from analysis.results.formats import to_text
    from analysis.sources.compare import merge_studies
    from analysis.tables import build_tables

    with tempfile.TemporaryDirectory(prefix="compare-") as temporary:
        folders = [StudyFolder(path) for path in options.studies]
        merged = merge_studies(folders, options.to or Path(temporary) / "merged")
        width = shutil.get_terminal_size((120, 24)).columns
        for table in build_tables(merged, ["comparison", "pairwise"]).values():
            print(to_text(table, width=width))
    if options.to:
        from analysis.report.page import write_report

        print(write_report(merged))
    return OK


def _check_claims(folder: StudyFolder, claims_file: Path | None) -> int:
    """Print how every claim came out; 1 where one that could be tested is not reproduced."""
    from analysis.claims.verdicts import FAILED, check_claims, count_verdicts
    from analysis.records.frames import load_study

    checked = check_claims(load_study(folder, claims_file))
    for claim in checked:
        if claim.verdict in FAILED:
            print(f"{claim.verdict}: {claim.claim.id}: {claim.claim.statement}")
    print(", ".join(f"{number} {verdict}" for verdict, number in count_verdicts(checked).items()))
    return NOT_REPRODUCED if any(claim.verdict in FAILED for claim in checked) else OK


if __name__ == "__main__":
    sys.exit(main())
