"""Records -> one row per trial, and cells with mean, spread and number of seeds.

The metrics are those that analysis/metrics declares. Final values come from trials that completed; times only from trials that had their
device to themselves, and only from one kind of hardware.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from analysis.metrics import TrialEpochs, list_metrics
from analysis.records.frames import FINISHED, Study
from trainable.fingerprint import training_fingerprint


def summarize_trials(study: Study) -> pd.DataFrame:
    """One row per trial: ids, label, seed, status, reason, epochs_completed and every metric.

    Metrics are NaN where the trial did not complete; times also where they are no result (`time_hardware`).
    """
    trials = study.trials
    frame = trials[["trial_id", "cell_id", "label", "seed", "status", "reason", "epochs_completed"]].copy()
    epochs, completed = TrialEpochs(study.epochs), frame["status"] == FINISHED
    timed = completed & frame["trial_id"].isin(timed_trials(study))
    for name, metric in list_metrics().items():
        values = metric.measure(epochs).reindex(frame["trial_id"]).to_numpy(dtype=float)
        frame[name] = np.where(timed if metric.timed else completed, values, np.nan)
    return frame


def summarize_cells(study: Study) -> pd.DataFrame:
    """One row per cell in the order of the study: cell_id, label, seeds, and per metric `NAME_mean`, `NAME_sd`, `NAME_n`.

    `seeds` counts completed trials; the standard deviation is that of a sample, NaN for one seed.
    """
    trials = summarize_trials(study)
    grouped, ids = trials.groupby("cell_id"), list(study.cells)
    completed = trials[trials["status"] == FINISHED].groupby("cell_id").size().reindex(ids, fill_value=0)
    columns: dict[str, object] = {
        "cell_id": ids,
        "label": [cell.label for cell in study.cells.values()],
        "seeds": completed.to_numpy(),
    }
    for name in list_metrics():
        for suffix, function in (("mean", "mean"), ("sd", "std"), ("n", "count")):
            values = grouped[name].agg(function).reindex(ids, fill_value=0 if suffix == "n" else np.nan)
            columns[f"{name}_{suffix}"] = values.to_numpy()
    return pd.DataFrame(columns)


def hardware_of(trials: pd.DataFrame) -> pd.Series:
    """What each trial ran on, in words that tell apart what trains at different speeds: device, or CPU and threads."""
    name = trials["hardware"].fillna("unknown hardware")
    threads = trials["num_threads"].fillna(0).astype(int)
    words = threads.map(lambda count: f", {count} thread{'s' * (count != 1)}").astype("str")
    return name.where(trials["gpu_share"].fillna(0) > 0, name + words)


def time_hardware(study: Study) -> str | None:
    """The hardware that times are taken from: that of most completed trials alone on their device; None without any."""
    trials = study.trials
    alone = trials[(trials["status"] == FINISHED) & trials["timing_exclusive"].fillna(False).astype(bool)]
    if alone.empty:
        return None
    counts = hardware_of(alone).value_counts(sort=False).sort_index()
    return str(counts.idxmax())


def timed_trials(study: Study) -> list[str]:
    """The completed trials whose times are results: alone on their device, all on the same kind of hardware."""
    trials = study.trials
    alone = (trials["status"] == FINISHED) & trials["timing_exclusive"].fillna(False).astype(bool)
    return list(trials.loc[alone & (hardware_of(trials) == time_hardware(study)), "trial_id"])


def study_notes(study: Study) -> tuple[str, ...]:
    """What a reader of any table must know first: made-up data, a reduced run, trials that are missing or failed."""
    info, notes = study.info, []
    if info.data.get("dataset") == "synthetic":
        notes.append("Synthetic data: drawn images, not CIFAR-10. The numbers say nothing about the published ones.")
    if info.reductions:
        notes.append(
            f"Reduced or changed run: {'; '.join(info.reductions)}. Not comparable with the published numbers."
        )
    if counts := count_outcomes(study):
        total = sum(counts.values())
        listed = ", ".join(f"{number} {status}" for status, number in counts.items())
        notes.append(f"Of {total} trials: {listed}; the tables are of the completed ones.")
    for name, what in (
        ("data_fingerprint", "data"),
        ("code_fingerprint", "code"),
        ("torch_version", "torch version"),
        ("engine", "engine"),
    ):
        values = study.trials.loc[study.trials["status"] == FINISHED, name]
        different = values.dropna().map(training_fingerprint).nunique()
        if different > 1:
            notes.append(f"The trials do not share their {what}: {different} different ones are mixed here.")
    return tuple(notes)


def count_outcomes(study: Study) -> dict[str, int]:
    """Trials by status where any is not completed, `missing` for those without a record; empty where all completed."""
    found = dict(
        zip(zip(study.trials["cell_id"], study.trials["seed"], strict=True), study.trials["status"], strict=True)
    )
    asked = {(cell_id, seed): "missing" for cell_id in study.cells for seed in study.info.seeds}
    if study.info.stopping is not None:  # settled cells have fewer seeds
        asked = {}
    counts = Counter((asked | found).values())
    order = [FINISHED, *sorted(set(counts) - {FINISHED})]
    return {} if set(counts) <= {FINISHED} else {name: counts[name] for name in order}


def timing_note(study: Study) -> str:
    """Where the times of a table come from."""
    hardware = time_hardware(study)
    if hardware is None:
        return "No times: no completed trial had its device to itself."
    used, completed = len(timed_trials(study)), len(study.completed_ids)
    left_out = (
        f"; {completed - used} trials that shared their device or ran elsewhere are left out"
        if used < completed
        else ""
    )
    return f"Times: {used} trials alone on their device ({hardware}){left_out}. Published times are of another machine."
