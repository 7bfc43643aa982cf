"""What the user sees while trials run: a live table in a terminal, one plain line per epoch and a summary elsewhere.

`Progress` holds the rows, draws them, and counts them for the progress file; `study.driver.callbacks` feeds it. A study outlives
who looks at it: where nothing can be printed any more nothing is. Knows no Ray.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

from rich.console import Console
from rich.live import Live
from rich.table import Table

from analysis.records.factors import short_name
from study.driver.quiet_output import QuietOutput
from study.folder.progress_file import ProgressFile, format_clock
from trainable.records.trial_state import TrialState

_MAX_ROWS = 24
_SUMMARY_INTERVAL_S = 5.0  # between lines, and between writes of the progress file
_ENDING_INTERVAL_S = 0.5
_OPEN = ("running", "waiting", "pending")


@dataclass
class Row:
    """One trial as shown."""

    state: TrialState
    status: str
    epoch: int = 0
    latest: dict[str, Any] | None = None
    epoch_time_s: float | None = None

    @property
    def left_s(self) -> float | None:
        """Seconds to the trial's end, from its own last epochs; None before the first."""
        if self.epoch_time_s is None:
            return None
        return (self.state.config.last_epoch - self.epoch) * self.epoch_time_s


class Progress:
    """The rows of all trials of an invocation, drawn live or as lines.

    `num_planned` is how many trials there will be in all, where not all are known yet, as in a search.
    """

    def __init__(
        self, console: Console, states: Sequence[TrialState], factors: Sequence[str], max_concurrent: int,
        file: ProgressFile | None = None, num_planned: int | None = None,
    ) -> None:  # fmt: skip
        console.file = cast(IO[str], QuietOutput(console.file))
        self._console = console
        self._file = file or ProgressFile()
        self._num_planned = num_planned or 0
        self._factors = list(factors) or ["batch_size", "learning_rate"]
        self._max_concurrent = max_concurrent
        self._rows = {
            state.trial_id: Row(state, "done" if state.finished else "waiting", state.epochs_completed)
            for state in states
        }
        self._live = (
            Live(console=console, refresh_per_second=4, get_renderable=self.render) if console.is_terminal else None
        )
        self._summarised_at = self._saved_at = 0.0

    def __enter__(self) -> Progress:
        self._save()
        if self._live:
            self._live.start()
        else:
            self._print_summary()
        return self

    def __exit__(self, *_: object) -> None:
        self._save()
        if self._live:
            self._live.stop()
        else:
            self._print_summary()

    def add(self, state: TrialState) -> None:
        """A trial joins the study."""
        self._rows[state.trial_id] = Row(state, "waiting", state.epochs_completed)

    def share_out(self, max_concurrent: int) -> None:
        """From now on so many trials run at the same time: other studies of the cluster have come or gone."""
        self._max_concurrent = max(1, max_concurrent)

    def start(self, trial_id: str) -> None:
        """The trial got its slot."""
        self._rows[trial_id].status = "running"

    def update(self, trial_id: str, result: dict[str, Any]) -> None:
        """The trial finished an epoch; `result` holds the columns of its epoch record."""
        row = self._rows[trial_id]
        took_s = result["train_time_s"] + result["eval_time_s"]
        row.epoch_time_s = took_s if row.epoch_time_s is None else 0.7 * row.epoch_time_s + 0.3 * took_s
        row.epoch, row.latest = result["epoch"], result
        if self._live is None:
            self._console.print(self._line(row), highlight=False, soft_wrap=True)
            if time.monotonic() - self._summarised_at > _SUMMARY_INTERVAL_S:
                self._print_summary()

    def end(self, trial_id: str, status: str, reason: str | None = None) -> None:
        """The trial ended, or an attempt of it did."""
        row = self._rows[trial_id]
        row.status = "done" if status == "completed" else status
        if self._live is None or reason:
            said = f": {reason}" if reason else ""
            self._console.print(f"{self._name(row)}  {row.status}{said}", highlight=False, soft_wrap=True, markup=False)

    def save_when_due(self, *, ending: bool = False) -> None:
        """Bring the progress file up to date, every few seconds; more often while the trials save for an end."""
        if time.monotonic() - self._saved_at > (_ENDING_INTERVAL_S if ending else _SUMMARY_INTERVAL_S):
            self._save()

    def render(self) -> Table:
        """The live table: running trials, then the latest others, at most a screenful."""
        table = Table(box=None, pad_edge=False, header_style="bold", caption=self._summary(), caption_justify="left")
        for name in (
            *(short_name(f) for f in self._factors),
            "seed",
            "epoch",
            "train",
            "",
            "test",
            "",
            "img/s",
            "left",
        ):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self._shown():
            table.add_row(*self._cells(row))
        return table

    def _shown(self) -> list[Row]:
        rows = list(self._rows.values())
        if len(rows) <= _MAX_ROWS:
            return rows
        rank = {"running": 0, "failed": 1, "diverged": 1, "done": 3}
        chosen = sorted(rows, key=lambda row: rank.get(row.status, 2))[:_MAX_ROWS]
        return [row for row in rows if row in chosen]

    def _cells(self, row: Row) -> list[str]:
        config = row.state.config
        head = [*(_text(config.to_dict().get(f)) for f in self._factors), str(config.seed)]
        epoch = f"{row.epoch}/{config.last_epoch}" if row.status == "running" else row.status
        if row.latest is None:
            return [*head, epoch, "", "", "", "", "", ""]
        left = format_clock(row.left_s) if row.status == "running" else ""
        latest = row.latest
        return [
            *head, epoch, f"{latest['train_loss']:.3f}", f"{latest['train_accuracy']:.1%}", *_scores(row),
            f"{latest['images_per_s']:,.0f}", left,
        ]  # fmt: skip

    def _line(self, row: Row) -> str:
        latest = row.latest or {}
        return (
            f"{self._name(row)}  epoch {row.epoch}/{row.state.config.last_epoch}  train {latest['train_loss']:.3f} "
            f"{latest['train_accuracy']:.1%}  {' '.join([row.state.config.scored_on, *_scores(row)]).strip()}  "
            f"{latest['images_per_s']:,.0f} img/s  {format_clock(row.left_s)} left"
        )

    def _name(self, row: Row) -> str:
        own = row.state.config.to_dict()
        values = "  ".join(
            f"{short_name(name)} {_text(own[name])}" for name in self._factors if own.get(name) is not None
        )
        return f"{time.strftime('%H:%M:%S')}  {values}  seed {row.state.config.seed}"

    def _print_summary(self) -> None:
        self._summarised_at = time.monotonic()
        self._console.print(f"progress: {self._summary()}", highlight=False, soft_wrap=True)

    def _summary(self) -> str:
        now = self._count()
        failed = f", {now['num_failed']} failed" if now["num_failed"] else ""
        left = "" if now["left_s"] is None else f", {format_clock(now['left_s'])} left"
        return f"{now['num_done']} of {now['num_trials']} trials done{failed}{left}"

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        self._file.change(**self._count())

    def _count(self) -> dict[str, Any]:
        """Fields of `StudyProgress`: how many trials are in which state, and the seconds left."""
        rows = list(self._rows.values())
        num_open, num_failed, num_running = (
            sum(row.status in kinds for row in rows) for kinds in (_OPEN, ("failed",), ("running",))
        )
        total = max(len(rows), self._num_planned)
        return {
            "num_trials": total,
            "num_done": len(rows) - num_open - num_failed,
            "num_running": num_running,
            "num_failed": num_failed,
            "left_s": self._left_s(rows, total - len(rows)),
        }

    def _left_s(self, rows: list[Row], num_unknown: int) -> float | None:
        """Seconds until all trials have ended, those that are not known yet like the others; None before any epoch."""
        times = [row.epoch_time_s for row in rows if row.epoch_time_s is not None]
        if not times:
            return None
        mean_s = sum(times) / len(times)
        ends = [row.state.config.last_epoch - max(row.epoch, row.state.config.branch_epoch) for row in rows]
        left_s = [row.left_s or end * mean_s for row, end in zip(rows, ends, strict=True) if row.status in _OPEN]
        mean_epochs = sum(row.state.config.epochs for row in rows) / len(rows)
        left_s += [mean_epochs * mean_s] * num_unknown
        return max([sum(left_s) / self._max_concurrent, *left_s], default=0.0)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _scores(row: Row) -> tuple[str, str]:
    """Loss and accuracy of the newest epoch on the images that the trial is scored on."""
    kind = row.state.config.scored_on
    if row.latest is None or not kind:
        return "", ""
    return f"{row.latest[f'{kind}_loss']:.3f}", f"{row.latest[f'{kind}_accuracy']:.1%}"
