"""wandb as this project uses it: where runs lie, which settings they get, how they are opened, written and finished.

The only module that imports wandb itself. Opening a run starts wandb-core, so it happens in a process of its own
(writer.py) or in a command that does nothing else. Knows nothing of what runs hold.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pandas as pd

from trainable.errors import first_line

# Of the user's environment these would make all runs one run, or send them elsewhere than was asked for.
for _name in (
    "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_MODE", "WANDB_DIR", "WANDB_SWEEP_ID",
    "WANDB_SERVICE", "WANDB_JOB_TYPE",
):  # fmt: skip
    os.environ.pop(_name, None)
os.environ.update({"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"})  # no telemetry, no banner for every run

import wandb  # noqa: E402 - reads the environment when it is imported

INIT_TIMEOUT_S = float(os.environ.get("WANDB_INIT_TIMEOUT", "20"))
FINISH_TIMEOUT_S = 30.0


class WandbUnavailable(Exception):
    """W&B cannot be reached, refuses the key, or did not take everything in time; the message is one line."""


@dataclass(frozen=True)
class Connection:
    """Where the runs of one study go. `root` is the folder that gets wandb/, `group` what W&B groups them by."""

    mode: Literal["online", "offline"]
    project: str
    group: str
    root: Path
    _folders: dict[str, Path] = field(default_factory=dict)  # of the runs finished here, by id

    def open_run(self, run_id: str, name: str, config: Mapping[str, Any], *, job_type: str) -> Run:
        """A new run, or online the one of this id as far as it got. Errors: WandbUnavailable, within seconds."""
        self.root.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            mode=self.mode,
            root_dir=str(self.root),
            console="off",
            silent=True,
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S,
            finish_timeout_raises=True,
            stop_fn=lambda: None,  # a run that is stopped in the browser would interrupt this process, not the trial
            program="study.run",
            disable_git=True,  # git, metadata and system metrics would be those of this process, not of the trial's
            disable_code=True,
            disable_job_creation=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        try:
            opened = wandb.init(
                project=self.project, group=self.group, id=run_id, name=name, job_type=job_type, settings=settings,
                reinit="create_new", resume="allow" if self.mode == "online" else None,
            )  # fmt: skip
        except wandb.errors.Error as error:
            raise WandbUnavailable(first_line(error, 300)) from error
        run = Run(opened)
        run.update_config(config)
        self._folders[run_id] = Path(opened.dir).parent
        return run

    def close(self) -> None:
        """Return when wandb-core has ended: not before that is everything on disk. All runs must be finished.

        An offline run holds all there is to know of a trial, so older folders of the same run are removed.
        """
        wandb.teardown()
        if self.mode == "offline":
            for run_id, folder in self._folders.items():
                for older in folder.parent.glob(f"offline-run-*-{run_id}"):
                    if older != folder:
                        shutil.rmtree(older, ignore_errors=True)

    def describe(self, url: str | None) -> str:
        """Where runs are, for the user; `url` is that of one of them."""
        if self.mode == "offline":
            return str(self.root / "wandb")
        return f"{url.rpartition('/runs/')[0]}/groups/{quote(self.group)}" if url else f"project {self.project}"


class Run:
    """An open run. Its rows have rising `_step`s; adding to the newest one is possible until the next is written."""

    def __init__(self, run: wandb.Run) -> None:
        self._run: Any = run  # wandb is typed in part

    @property
    def first_step(self) -> int:
        """The `_step` that a run which goes on has not used yet; 0 for a new one."""
        return int(self._run.starting_step)

    @property
    def url(self) -> str | None:
        """Its page; None offline."""
        return None if self._run.url is None else str(self._run.url)

    def define_axis(self, axis: str, metrics: Mapping[str, Any]) -> None:
        """Have W&B draw these metrics over the metric `axis`."""
        self._run.define_metric(axis, hidden=True)
        for name in metrics:
            self._run.define_metric(name, step_metric=axis)

    def write(self, values: Mapping[str, Any], step: int) -> None:
        """Write a row, or add to the newest one. A Path is a picture, a DataFrame a table."""
        self._run.log({name: _as_wandb(value) for name, value in values.items()}, step=step)

    def summary_value(self, name: str) -> Any:
        """The newest value of a metric, of a run that goes on too; None without one."""
        return self._run.summary.get(name)

    def set_summary(self, name: str, value: str) -> None:
        """Set a value that is no series."""
        self._run.summary[name] = value

    def update_config(self, values: Mapping[str, Any]) -> None:
        """Add to the configuration, or change it."""
        self._run.config.update(dict(values), allow_val_change=True)

    def finish(self, exit_code: int) -> None:
        """Return when everything was sent. Errors: WandbUnavailable when it was not, after 30 s."""
        try:
            self._run.finish(exit_code=exit_code)
        except (TimeoutError, wandb.errors.Error) as error:
            raise WandbUnavailable(first_line(error, 300)) from error


def _as_wandb(value: Any) -> Any:
    if isinstance(value, Path):
        return wandb.Image(str(value))
    if isinstance(value, pd.DataFrame):
        rows: Any = value.to_numpy(dtype=object).tolist()
        return wandb.Table(columns=list(value.columns), data=rows)
    return value
