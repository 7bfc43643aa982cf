"""The share of each study on a cluster: every slot is used, none twice, nobody is left out."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.cluster.fair_share import FairShare, Shares, divide_slots


def test_equal_shares_of_what_is_there() -> None:
    assert divide_slots({"a": None}, 8) == {"a": 8}
    assert divide_slots({"a": None, "b": None}, 8) == {"a": 4, "b": 4}
    assert divide_slots({"a": None, "b": None, "c": None}, 8) == {"a": 3, "b": 3, "c": 2}


def test_a_limit_of_ones_own_is_kept_and_the_rest_is_shared() -> None:
    assert divide_slots({"a": 6, "b": None, "c": None}, 8) == {"a": 6, "b": 1, "c": 1}
    assert divide_slots({"a": 20, "b": None}, 8) == {"a": 20, "b": 1}


@given(st.lists(st.none() | st.integers(1, 20), min_size=1, max_size=12), st.integers(0, 100))
def test_every_slot_is_given_and_everyone_gets_one(limits: list[int | None], slots: int) -> None:
    studies = {str(number): limit for number, limit in enumerate(limits)}
    shares = divide_slots(studies, slots)
    assert all(share >= 1 for share in shares.values())
    assert all(shares[token] == limit for token, limit in studies.items() if limit is not None)
    free = [shares[token] for token, limit in studies.items() if limit is None]
    rest = slots - sum(limit for limit in limits if limit is not None)
    if free and rest >= len(free):
        assert sum(free) == rest
        assert max(free) - min(free) <= 1


def test_who_falls_silent_or_leaves_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("study.cluster.fair_share.time.monotonic", lambda: now)
    shares = Shares()
    assert shares.announce("first", None) == {"first": None}
    assert shares.announce("second", 3) == {"first": None, "second": 3}
    now += 20.0
    shares.announce("first", None)
    now += 20.0
    assert shares.announce("first", None) == {"first": None}
    shares.announce("third", None)
    assert shares.leave("third"), "the first one still runs"
    assert shares.announce("first", None) == {"first": None}
    assert not shares.leave("first")


def test_who_was_killed_does_not_keep_the_last_from_being_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("study.cluster.fair_share.time.monotonic", lambda: now)
    shares = Shares()
    shares.announce("killed", None)
    shares.announce("last", None)
    now += 40.0
    assert not shares.leave("last")


def test_an_error_of_the_cluster_leaves_the_last_share_and_is_followed_by_the_next_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("study.cluster.fair_share._INTERVAL_S", 0.01)
    monkeypatch.setattr(FairShare, "_announce", lambda self: {"ours": None, "other": None})
    answers: list[int | Exception] = [8, 8, ConnectionError("GCS is down"), 6]
    seen: list[int] = []

    def count_slots() -> int:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        seen.append(share.trials if share else 0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    share: FairShare | None = None
    share = FairShare("ours", None, count_slots)
    with share:
        deadline = time.monotonic() + 10
        while share.trials != 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert share.trials == 3
    assert seen[:4] == [0, 8, 4, 4]
