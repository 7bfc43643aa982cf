"""Declarations of instruments: a file in trainable/instruments declares what it measures, when, and in which columns.

Records, the training loop, calibration, W&B and the lists of columns in the documents follow from the declarations, which
trainable/records/columns.py discovers. So that records can be read without torch, a declaring file imports torch only inside its
functions, or for type hints; that is simpler than a second file for what is measured. Knows no record and no loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from trainable.config import TrialConfig
    from trainable.data.data_set import Split
    from trainable.measuring.packing import PackedTensors

Array = NDArray[np.float64]


class Column(NamedTuple):
    """One column: its name, pyarrow type, unit ('' for none) and meaning."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """What measures a quantity of training without changing it, and the columns that hold it."""

    name: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class StepTensors:
    """What a measured step works on. Nothing but `work` may be written to, and what it holds may be anything.

    The packed ones lie on the training device, where an instrument leaves its measurements: reading them would make the
    training wait. `weights_before` are those before the optimizer's step, there in `after_step` alone;
    `gradients_before` those of the measured step before in the same epoch, zeros at its first, there in `before_step` alone.
    """

    gradients: list[Tensor]
    weights: list[Tensor]
    initial: PackedTensors
    work: PackedTensors
    weights_before: PackedTensors | None = None
    gradients_before: PackedTensors | None = None


@dataclass(frozen=True)
class TensorList:
    """The parameter tensors of the model that are trained, in its order: kinds are those of measuring.parts.PARAMETER_KINDS.

    `scale_invariant` are the weights of convolutions that a norm follows.
    """

    names: list[str]
    kinds: NDArray[np.str_]
    num_elements: NDArray[np.int64]
    scale_invariant: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class TensorInstrument(Instrument):
    """Measures every parameter tensor at each measured step, once before the optimizer's step or once after it: columns of layers.

    `before_step` or `after_step` returns float64 [num_values, tensors] on the training device; no step waits for it. After
    the epoch `finish` makes the columns [steps, tensors] of all of them, [steps, num_values, tensors], on the host; a masked
    value is undefined and null in the records. From the columns `summarise` makes `step_columns` of steps, a value a step.
    """

    num_values: int
    finish: Callable[[Array, TensorList], Mapping[str, Array]]
    before_step: Callable[[StepTensors], Tensor] | None = None
    after_step: Callable[[StepTensors], Tensor] | None = None
    step_columns: tuple[Column, ...] = ()
    summarise: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = None

    def __post_init__(self) -> None:
        if (self.before_step is None) == (self.after_step is None):
            raise ValueError(f"instrument {self.name}: give it before_step or after_step")
        if bool(self.step_columns) != (self.summarise is not None):
            raise ValueError(f"instrument {self.name}: step_columns and summarise go together")


@dataclass(frozen=True)
class EpochEnd:
    """Where training stands when an epoch's steps are done; `training_images` are those of the trial, not augmented."""

    model: nn.Module
    training_images: Split
    config: TrialConfig
    epoch: int
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class EpochInstrument(Instrument):
    """Measures the model after the steps of every so many epochs, beginning with the first: columns of epochs.

    `every` is a number of epochs, the configuration field that holds it, or a function of the configuration (0: never). `measure` leaves
    the model and every random stream as they were and may leave columns out: they are null. Of each of `layer_columns` it returns a value
    for every parameter tensor, in the model's order; they stand in the rows of layers of the epoch's last step, if there are any.
    `num_images` is how many images it goes through where there are so many: its time on fewer is scaled to that. 0: its time
    does not depend on them.
    """

    every: int | str | Callable[[TrialConfig], int]
    measure: Callable[[EpochEnd], Mapping[str, Any]]
    num_images: int = 0
    layer_columns: tuple[Column, ...] = ()

    def cadence(self, config: TrialConfig) -> int:
        """It measures every so many epochs; 0: never."""
        if callable(self.every):
            return self.every(config)
        return int(getattr(config, self.every)) if isinstance(self.every, str) else self.every


@dataclass(frozen=True)
class TrialEnd:
    """What a completed trial ends with: the states of its model and optimizer, on the training device or the CPU, and its records."""

    config: TrialConfig
    epoch: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    records: Mapping[str, pa.Table]  # epochs, steps and layers


@dataclass(frozen=True, kw_only=True)
class TrialInstrument(Instrument):
    """Measures a completed trial: columns of trials. They hold numbers alone; one that is left out or not finite is null."""

    measure: Callable[[TrialEnd], Mapping[str, float | None]]


def is_due(count: int, every: int) -> bool:
    """Whether the step or epoch of this number, counted from 0, is measured when every `every`-th is; 0 measures none."""
    return every > 0 and count % every == 0


def measured_steps(num_steps: int, every: int) -> list[int]:
    """The steps of an epoch that are measured: those that are due and, for the published Figure 4, the last one."""
    return [step for step in range(num_steps) if is_due(step, every) or (every > 0 and step == num_steps - 1)]


def measured_column(name: str, meaning: str, unit: str = "") -> Column:
    """A column of float32, which is what one measurement among many is kept in."""
    return Column(name, pa.float32(), unit, meaning)


def unbiased_std(centered_squares: Array, num_elements: NDArray[np.int64]) -> Array:
    """Square sums about the mean -> standard deviations with n - 1, as torch.std; masked where n is 1."""
    std: Array = np.sqrt(centered_squares / np.maximum(num_elements - 1, 1))
    return masked(std, num_elements == 1)


def masked(values: Array, undefined: NDArray[np.bool_]) -> Array:
    """`values`, masked where they are undefined: NaN is a measured value, which a diverging trial has."""
    return np.ma.masked_array(values, np.broadcast_to(undefined, values.shape))
