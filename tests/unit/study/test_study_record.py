"""study.json over several invocations: what makes trials incomparable is refused, what was accepted is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.records.study_json import StudyInfo
from study.folder.study_record import IncomparableError, describe_invocation, extend_study, find_changes
from tests.support.studies import build_cell, build_study


def make_study(seeds: tuple[int, ...] = (0,), precisions: tuple[str, ...] = ("fp32",), **changes: Any) -> StudyInfo:
    cells = [build_cell(f"{p} {b}", batch_size=b, precision=p) for p in precisions for b in (64, 128)]
    values = {
        "code": {"fingerprint": "c" * 64, "commit": "1" * 40},
        "environment": {"packages": {"torch": "2.11", "numpy": "2"}},
        **changes,
    }
    return build_study(cells, seeds, 50_000, {"fingerprint": "d" * 64}, values)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "data": ({"data": {"fingerprint": "e" * 64}}, "data fingerprint: dddddddddddd -> eeeeeeeeeeee"),
    "code": ({"code": {"fingerprint": "f" * 64}}, "code of trainable: cccccccccccc -> ffffffffffff"),
    "torch": ({"environment": {"packages": {"torch": "2.12"}}}, "torch: 2.11 -> 2.12"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_other_conditions_are_refused_with_the_difference(what: str) -> None:
    change, difference = CHANGES[what]
    with pytest.raises(IncomparableError) as caught:
        extend_study(make_study(), replace(make_study(), **change), accept_changes=False)
    assert difference in str(caught.value)
    assert "--accept-changes" in str(caught.value)


def test_another_precision_is_refused_and_part_of_a_mixed_study_is_not() -> None:
    with pytest.raises(IncomparableError, match="precision: fp32 -> bf16, fp32"):
        extend_study(make_study(), make_study(precisions=("bf16",)), accept_changes=False)
    mixed = make_study(precisions=("fp32", "bf16"))
    assert find_changes(mixed, make_study(precisions=("fp32",))) == []


@pytest.mark.parametrize("what", CHANGES)
def test_accepted_changes_are_recorded_once_and_stay(what: str) -> None:
    asked = replace(make_study(), **CHANGES[what][0])
    changed = extend_study(make_study(), asked, accept_changes=True)
    ((entry),) = changed.accepted_changes
    assert entry["changes"] == find_changes(make_study(), asked)
    later = extend_study(changed, asked, accept_changes=False)
    assert later.accepted_changes == changed.accepted_changes


def test_other_versions_of_other_packages_and_other_commits_are_no_change() -> None:
    other = make_study(
        code={"fingerprint": "c" * 64, "commit": "2" * 40},
        environment={"packages": {"torch": "2.11", "numpy": "3"}, "cpu": "another"},
    )
    assert find_changes(make_study(), other) == []


def test_a_name_that_was_used_with_another_grid_is_refused_with_the_difference() -> None:
    cells = tuple(build_cell(f"long {b}", batch_size=b, epochs=77, weight_decay=0.5) for b in (64, 128))
    other = replace(make_study(), cells=cells)
    with pytest.raises(IncomparableError, match=r"\(epochs: \d+ -> 77; weight_decay: [\d.e-]+ -> 0\.5\)"):
        extend_study(make_study(), other, accept_changes=False)
    mixed = extend_study(make_study(), other, accept_changes=True)
    assert [change["what"] for change in mixed.accepted_changes[0]["changes"]] == ["epochs", "weight_decay"]
    assert extend_study(mixed, other, accept_changes=False).accepted_changes == mixed.accepted_changes
    assert find_changes(make_study(), replace(other, cells=(*make_study().cells, *cells))) == [], (
        "with its cells it extends"
    )
    assert find_changes(make_study(), replace(make_study(), cells=make_study().cells[:1])) == [], "a part of it"


def test_extending_adds_cells_and_seeds_and_keeps_the_beginning() -> None:
    first = replace(make_study(seeds=(0, 3)), created_at="then", attempts=({"started_at": "then"},))
    asked = replace(make_study(seeds=(1,)), cells=(build_cell("new", batch_size=256),), created_at="now")
    extended = extend_study(first, asked, accept_changes=False)
    assert [cell.config["batch_size"] for cell in extended.cells] == [64, 128, 256]
    assert extended.seeds == (0, 1, 3)
    assert extended.factors == ("batch_size",)
    assert (extended.created_at, extended.attempts) == ("then", first.attempts)


def test_a_working_folder_that_is_gone_ends_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    started.mkdir()
    monkeypatch.chdir(started)
    assert describe_invocation([], 1)["folder"] == str(started)
    started.rmdir()
    assert describe_invocation([], 1)["folder"] == ""
