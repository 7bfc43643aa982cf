"""The tables of docs/results.md that come from the example studies: `python -m tests.support.results` writes them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from analysis.claims.verdicts import FAILED
from analysis.comparison.words import answer
from analysis.records.frames import Study, load_study
from analysis.results.formats import to_markdown
from analysis.results.result_table import ResultTable
from analysis.tables import build_tables

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results.md"
REASONS = ROOT / "docs" / "not-reproduced.toml"
EXAMPLES = ROOT / "examples"
TABLES = {
    "paper-width64": ("comparison", "claims"),
    "factorial-width8": ("best", "factors", "hypotheses", "test_variance"),
    "branch-width4": ("critical_batch_size", "branches"),
    "stability-width4": ("stability", "claims"),
}
ANSWERED = ("factorial-width8", "paper-width64")  # whose answer the page tells


def render(example: str) -> str:
    """What stands between the marks of an example: the report's answer where the page tells it, and tables without their notes. Of the effects
    those on the primary metric and those that differ from zero; of the worksheet's claims how many agree, and why others do not."""
    study = load_study(EXAMPLES / example)
    sentences = answer(study).sentences if example in ANSWERED else ()
    parts = [f"<!-- {example} -->", *(f"> {sentence}\n>" for sentence in sentences), ""]
    if example == "paper-width64":
        parts += [tell_pieces(study), ""]
    for name, table in build_tables(study, TABLES[example]).items():
        frame = table.frame
        if name == "claims" and study.info.claims == "worksheet":
            parts.extend(explain_claims(table))
            continue
        if name == "factors":
            frame = frame[frame["primary"].astype(bool) | (frame["verdict"] == "different")]
        text = to_markdown(type(table)(name, table.title, frame, table.columns))
        parts.append(text.replace("## ", "### ", 1))
    return "\n".join([*parts, f"<!-- end of {example} -->"])


def tell_pieces(study: Study) -> str:
    """In how many pieces the trials were trained, and how much of their time is in no epoch that was kept."""
    told = []
    for trial in study.trials.to_dict("records"):
        epochs = study.epochs[study.epochs["trial_id"] == trial["trial_id"]]
        lost_s = trial["wall_time_s"] - float(epochs[["train_time_s", "eval_time_s"]].to_numpy().sum())
        told.append(
            f"{study.cells[trial['cell_id']].label} was trained in {trial['attempts']} pieces; of its {trial['wall_time_s'] / 3600:.1f} "
            f"hours {lost_s / 60:.0f} minutes are neither training nor evaluation that was kept."
        )
    return " ".join(told)


def explain_claims(table: ResultTable) -> list[str]:
    """How many claims agree as measured, and those that do not, by the reasons of REASONS.

    Errors: AssertionError where a claim that fails as measured has no reason, or one has a reason that needs none.
    """
    frame = table.frame.set_index("id", drop=False)
    verdict = frame["as_measured"].fillna(frame["verdict"])
    measured = frame["value"].notna()
    reasons = tomllib.loads(REASONS.read_text())["reason"]
    explained = [claim for reason in reasons for claim in reason["claims"]]
    assert set(frame.index[verdict.isin(FAILED)]) <= set(explained), "a claim that fails has no reason"
    assert (measured & (verdict != "reproduced"))[explained].all(), "a claim that does not fail has a reason"
    assert len(explained) == len(set(explained))
    counts = (
        verdict == "reproduced", verdict.isin(FAILED), measured & (verdict == "undetermined"), ~measured
    )  # fmt: skip
    words = "Of {} claims {} agree as measured, {} do not, {} are of a direction that one seed cannot tell, {} ask for what this study has not."
    parts = [words.format(len(frame), *(found.sum() for found in counts)) + "\n"]
    columns = tuple(c for c in table.columns if c.name in ("statement", "published", "measured"))
    for reason in reasons:
        rows = frame.loc[reason["claims"]]
        group = ResultTable(
            "claims", reason["because"], rows, columns, (f"{reason['why']} Figure: {reason['figure']}.",)
        )
        parts.append(to_markdown(group).replace("## ", "### ", 1))
    return parts


def replace_examples(text: str) -> str:
    """The page with the tables as the records say them."""
    for example in TABLES:
        mark = re.compile(f"<!-- {example} -->.*?<!-- end of {example} -->", re.DOTALL)
        text = mark.sub(lambda _, example=example: render(example), text, count=1)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    PAGE.write_text(replace_examples(PAGE.read_text()))
