"""Which hyperparameters, and which training dynamics, go along with the objective of a search: associations, not causes.

Importance is the share of the variance of a random forest's prediction that one quantity explains by itself (fANOVA, Hutter
et al. 2014, as Optuna computes it). From a few dozen trials that number says little by itself, so it comes with two more: its
spread over resampled trials, and how large it gets by chance, with the objective shuffled; all three come from forests of
the same size. The spread is widened to hold the importance itself, which resampling can miss, as it repeats trials. A rank
correlation says in which direction. A field searched on a logarithmic scale counts on that scale. Works on frames; knows no
files and no figures.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from scipy import stats

from analysis.search.dynamics import measure_dynamics
from analysis.search.history import Search
from analysis.search.spec import Scale

FEWEST_TRIALS, MOST_TRIALS = 8, 120
NUM_TREES, NUM_RESAMPLES = 16, 24
MAX_DEPTH = 6  # deeper trees take much longer and change the second digit
INTERVAL = (5.0, 95.0)  # percentiles over resamples
_MISSING = "none"
COLUMNS = (
    "kind", "target", "quantity", "importance", "low", "high", "chance", "above_chance", "rank_correlation", "p_value", "trials"
)  # fmt: skip


def load_importances(search: Search) -> pd.DataFrame:
    """`measure_importances`, seconds of work, done once for the tables and figures of a search."""
    return search.derive(measure_importances)


def measure_importances(search: Search) -> pd.DataFrame:
    """One row per searched field and per quantity of early training, the most important first; columns `COLUMNS`.

    For the final value among completed trials, then for the value at `common_epoch` among all that reached it.
    Nothing with fewer than `FEWEST_TRIALS` trials.
    """
    done = search.completed.set_index("number")["objective_1"]
    fields = search.trials.set_index("number")[list(search.parameter_columns.values())]
    fields = fields.set_axis(list(search.parameter_columns), axis=1)
    dynamics = measure_dynamics(search)
    space = {name: domain.scale for name, domain in search.description.space.items()}
    scales: dict[str, Scale] = {str(name): "log" for name in dynamics}
    parts = [
        _measure(("hyperparameters", "final value"), fields, space, done),
        _measure(("training dynamics", "final value"), dynamics, scales, done),
    ]
    epoch = common_epoch(search)
    early = search.curves[search.curves["epoch"] == epoch].set_index("number")["value"]
    if set(early.index) - set(done.index):  # a search that prunes leaves few final values
        target = f"value after epoch {epoch}"
        parts.append(_measure(("hyperparameters", target), fields, space, early))
        parts.append(_measure(("training dynamics", target), dynamics, scales, early))
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def common_epoch(search: Search) -> int:
    """The last epoch that nine of ten trials with any reached; 0 where none has any."""
    last = search.curves.groupby("number")["epoch"].max()
    return int(np.floor(last.quantile(0.1, interpolation="lower"))) if len(last) else 0


def _measure(
    kind: tuple[str, str], quantities: pd.DataFrame, scales: Mapping[str, Scale], target: pd.Series
) -> pd.DataFrame:
    """The rows of one kind; quantities that do not vary, and trials that lack one, are left out."""
    encoded = pd.DataFrame({name: _encode(quantities[name], scale) for name, scale in scales.items()})
    encoded = encoded.reindex(target.index)
    encoded = encoded.loc[:, encoded.notna().mean() > 0.5].dropna()
    encoded = encoded.loc[:, encoded.nunique() > 1]
    if len(encoded) > MOST_TRIALS:  # a forest takes more than proportionally long
        encoded = encoded.sample(MOST_TRIALS, random_state=0).sort_index()
    values = target[encoded.index].to_numpy(dtype=float)
    if len(encoded) < FEWEST_TRIALS or encoded.empty or np.ptp(values) == 0:
        return pd.DataFrame(columns=list(COLUMNS))
    space = {str(name): _distribution(encoded[name]) for name in encoded}
    random = np.random.default_rng(0)  # the same records give the same table
    found = _fanova(encoded, space, values, 0)
    resampled, shuffled = [], []
    for seed in range(NUM_RESAMPLES):
        rows = random.integers(0, len(encoded), len(encoded))
        resampled.append(_fanova(encoded.iloc[rows], space, values[rows], seed))
        shuffled.append(_fanova(encoded, space, random.permutation(values), seed))
    low, high = np.percentile(resampled, INTERVAL, axis=0)
    chance = np.percentile(shuffled, INTERVAL[1], axis=0)
    correlations = [_rank_correlation(encoded[name], values) for name in encoded]
    frame = pd.DataFrame(
        {
            "kind": kind[0], "target": kind[1], "quantity": list(encoded), "importance": found, "low": np.minimum(low, found),
            "high": np.maximum(high, found), "chance": chance, "above_chance": found > chance,
            "rank_correlation": [rho for rho, _ in correlations], "p_value": [p for _, p in correlations],
            "trials": len(encoded),
        }
    )  # fmt: skip
    return frame.sort_values("importance", ascending=False, ignore_index=True)


def _encode(values: pd.Series, scale: Scale) -> pd.Series:
    """Numbers on their scale; texts, flags and choices that are not all numbers as texts."""
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    is_number = values.map(lambda value: isinstance(value, (int, float, np.number)) and not isinstance(value, bool))
    if not is_number[values.notna()].all() or (scale == "choices" and values.isna().any()):
        return values.map(lambda value: _MISSING if value is None or value != value else str(value))
    if scale == "log" or (scale == "choices" and (numbers > 0).all()):
        return pd.Series(np.log10(numbers.where(numbers > 0)), index=values.index)
    return numbers


def _distribution(values: pd.Series) -> BaseDistribution:
    if values.dtype == object or isinstance(values.iloc[0], str):
        return CategoricalDistribution(sorted(set(values)))
    return FloatDistribution(float(values.min()), float(values.max()))


def _fanova(
    quantities: pd.DataFrame,
    space: Mapping[str, BaseDistribution],
    values: npt.NDArray[np.float64],
    seed: int,
) -> npt.NDArray[np.float64]:
    """The importance of every column, in their order; zeros where the values do not vary."""
    names = [str(name) for name in quantities]
    with _silent():
        study = optuna.create_study()
        for row, value in zip(quantities.to_dict("records"), values, strict=True):
            parameters = {str(name): entry for name, entry in row.items()}
            study.add_trial(optuna.trial.create_trial(params=parameters, distributions=dict(space), value=float(value)))
        try:
            found = FanovaImportanceEvaluator(n_trees=NUM_TREES, max_depth=MAX_DEPTH, seed=seed).evaluate(
                study, params=names
            )
        except RuntimeError:  # no tree has any variance
            return np.zeros(len(names))
    shares = np.array([found[name] for name in names])
    return np.asarray(np.nan_to_num(shares), dtype=np.float64)


def _rank_correlation(quantity: pd.Series, values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Spearman's rho and its p-value; NaN for texts."""
    if isinstance(quantity.iloc[0], str):
        return float("nan"), float("nan")
    found = stats.spearmanr(quantity.to_numpy(dtype=float), values)
    return float(found.statistic), float(found.pvalue)


@contextmanager
def _silent() -> Iterator[None]:
    """Without Optuna's lines on every study that is created."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
