"""A search on a cluster with its results at a URL: killed, it goes on and forgets no trial."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.integration.test_search import GRID, journal
from tests.support.faults import Workplace, states
from tests.support.object_store import ObjectStore, download
from tests.support.ray_cluster import RayCluster

pytestmark = pytest.mark.integration


def test_at_a_url_on_a_cluster_a_killed_search_goes_on_and_forgets_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace = Workplace(tmp_path / "search", GRID)
    with ObjectStore(tmp_path / "store.log") as store:
        for variable, value in {**store.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
            monkeypatch.setenv(variable, value)
        with RayCluster(num_cpus=2) as cluster:
            arguments = (
                "--address",
                cluster.address,
                "--results",
                f"{store.url}/results",
                "--checkpoint-interval",
                "0",
            )
            environment = {**cluster.environment, "HOME": str(workplace.folder / "home")}
            with workplace.start("url", *arguments, environment=environment) as driver:
                driver.wait_for(r"seed 1000002  epoch 1/3")
                driver.process.send_signal(signal.SIGKILL)
                driver.wait()
            killed = download(f"{store.url}/results/url", tmp_path / "killed/url")
            with workplace.start("url", *arguments, environment=environment) as driver:
                assert driver.wait() == 0, driver.output
            assert "search goes on: " in driver.output
        folder = download(f"{store.url}/results/url", tmp_path / "whole/url")
    suggested = {t.number: t.params for t in journal(killed) if "trial_id" in t.user_attrs}
    assert len(suggested) >= 3
    assert set(states(killed)) <= {t.user_attrs.get("trial_id") for t in journal(killed)}, (
        "nobody knows who suggested it"
    )
    trials = journal(folder)
    assert len(trials) == 6
    assert {t.number: t.params for t in trials if t.number in suggested} == suggested
    searched = {name: state for name, state in states(folder).items() if state.role == "search"}
    assert {t.user_attrs["trial_id"] for t in trials} == set(searched)
    for trial in trials:
        state = searched[trial.user_attrs["trial_id"]]
        assert state.status == {"COMPLETE": "completed", "PRUNED": "pruned"}[trial.state.name]
        assert max(trial.intermediate_values) == state.epochs_completed
    confirmed = [state for state in states(folder).values() if state.role == "confirmation"]
    assert len(confirmed) in (2, 3), "the known cells, and the winner unless it is one of them"
    assert {state.status for state in confirmed} == {"completed"}
    assert not list(folder.path.glob("*.lock"))
