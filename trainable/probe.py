"""Everything that is measured per parameter tensor at one step: two calls around `optimizer.step()`, one table per epoch.

The loop calls `before_step` after the backward pass and `after_step` after the optimizer's step. Measurements stay on
the device until `drain`, which copies them once; until then nothing waits for the device and nothing that training
reads is written. This module must not know the optimizer, the data or the schedule of epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainable.instruments import gradients, updates, weights
from trainable.instruments.gradients import Array, masked
from trainable.model import layer_group, parameter_kinds
from trainable.packing import PackedTensors
from trainable.records import SCHEMAS

_UPDATES_AT = gradients.NUM_SUMS
_WEIGHTS_AT = _UPDATES_AT + updates.NUM_SUMS
_NUM_SUMS = _WEIGHTS_AT + weights.NUM_SUMS


@dataclass(frozen=True)
class LayerMeasurements:
    """What a probe measured in one epoch: rows of layers, and for each measured step three values of the whole gradient."""

    layers: pa.Table
    gradient_mean_abs: Array
    gradient_max_abs: Array
    gradient_l2: Array


def is_due(step_in_epoch: int, every: int) -> bool:
    """Whether a step, counted from 0 within its epoch, is measured when every `every`-th is; 0 measures none."""
    return every > 0 and step_in_epoch % every == 0


def measured_steps(num_steps: int, every: int) -> list[int]:
    """The steps of an epoch that are measured: those that are due and, for the published Figure 4, the last one."""
    return [step for step in range(num_steps) if is_due(step, every) or (every > 0 and step == num_steps - 1)]


class LayerProbe:
    """Measures gradients, weights and updates of `model` at up to `measurements_per_epoch` steps between two drains.

    `initial` are the weights that displacement is measured from, in the order of `model.parameters()`. The probe holds
    a copy of them and 7.4 kB for each measurement; none of it where nothing is to be measured. Another copy of the weights is
    there around a measured optimizer step only, when the activations of the step, which take more, are gone.
    """

    def __init__(self, model: nn.Module, initial: Sequence[Tensor], measurements_per_epoch: int) -> None:
        self._parameters = dict(model.named_parameters())
        self._names = list(self._parameters)
        self._kinds = list(parameter_kinds(model).values())
        self._num_elements = np.array([p.numel() for p in self._parameters.values()], dtype=np.int64)
        like = [p.detach() for p in self._parameters.values()]
        # Without measurements only shapes are needed, and tensors on the meta device take no memory.
        device = like[0].device if measurements_per_epoch else torch.device("meta")
        self._initial = PackedTensors(like, device)
        self._initial.load(list(initial))
        self._work = PackedTensors(like, device)
        self._work.release()
        self._measured = torch.zeros(
            measurements_per_epoch, _NUM_SUMS, len(self._names), dtype=torch.float64, device=device
        )
        self._count = 0

    @property
    def buffer_bytes(self) -> int:
        """Device memory that the probe holds now: between measured steps the initial weights and the measurements."""
        held = (self._initial.rows, self._work.rows, self._measured)
        return sum(buffer.nbytes for buffer in held if not buffer.is_meta)

    @torch.no_grad()
    def before_step(self) -> None:
        """Measure the gradients and remember the weights."""
        if self._count == len(self._measured):
            raise RuntimeError(f"more than {self._count} measurements in an epoch: drain the probe after every epoch")
        self._work.allocate()
        self._measured[self._count, :_UPDATES_AT] = gradients.measure_gradients(self._work, self._gradients())
        self._work.load(self._weights())

    @torch.no_grad()
    def after_step(self) -> None:
        """Measure the update, the weights and their displacement."""
        measured = self._measured[self._count]
        measured[_UPDATES_AT:_WEIGHTS_AT] = updates.measure_updates(self._work, self._weights())
        measured[_WEIGHTS_AT:] = weights.measure_weights(self._work, self._weights(), self._initial)
        self._work.release()
        self._count += 1

    def drain(self, trial_id: str, epoch: int, steps: Sequence[int]) -> LayerMeasurements:
        """The measurements since the last drain, made at `steps` (counted over the trial) of this epoch, from 1.

        Undefined values are null: the ratio and angle of zero weights, the deviation of one element, the angle of
        anything but a convolution. Errors: ValueError where `steps` are not as many as the measurements.
        """
        if len(steps) != self._count:
            raise ValueError(f"{len(steps)} steps are named for {self._count} measurements")
        measured = (
            self._measured[: self._count].cpu().numpy() if self._count else np.empty((0, _NUM_SUMS, len(self._names)))
        )
        self._count = 0
        columns = self._columns(measured)
        table = self._table(columns, trial_id, epoch, np.asarray(steps, dtype=np.int64))
        return LayerMeasurements(table, **gradients.global_gradient(columns))

    def _weights(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self._parameters.values()]

    def _gradients(self) -> list[Tensor]:
        found = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        if len(found) != len(self._names):
            raise RuntimeError("a parameter has no gradient: call before_step after the backward pass")
        return found

    def _columns(self, measured: Array) -> dict[str, Array]:
        columns = gradients.gradient_columns(measured[:, :_UPDATES_AT], self._num_elements)
        columns |= weights.weight_columns(measured[:, _WEIGHTS_AT:], self._num_elements)
        columns |= updates.update_columns(measured[:, _UPDATES_AT:_WEIGHTS_AT], columns["weight_l2"])
        angle = columns["angular_update"]
        columns["angular_update"] = masked(angle, np.ma.getmaskarray(angle) | (np.array(self._kinds) != "conv"))
        return columns

    def _table(self, columns: dict[str, Array], trial_id: str, epoch: int, steps: NDArray[np.int64]) -> pa.Table:
        """Rows in order of step, then of parameter."""
        num_rows = len(steps) * len(self._names)
        groups = [layer_group(name) for name in self._names]
        arrays: dict[str, pa.Array] = {
            "trial_id": _repeated([trial_id], num_rows),
            "epoch": pa.array(np.full(num_rows, epoch, dtype=np.int32)),
            "step": pa.array(np.repeat(steps, len(self._names))),
            "layer": _repeated(self._names, len(steps)),
            "group": _repeated(groups, len(steps)),
            "kind": _repeated(self._kinds, len(steps)),
            "num_elements": pa.array(np.tile(self._num_elements, len(steps))),
        }
        for name, values in columns.items():
            undefined = np.ma.getmaskarray(values).reshape(-1)
            arrays[name] = pa.array(np.ma.getdata(values).reshape(-1).astype(np.float32), mask=undefined)
        schema = SCHEMAS["layers"]
        return pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _repeated(texts: Sequence[str], times: int) -> pa.Array:
    """`texts` so many times over, each distinct one stored once."""
    distinct = list(dict.fromkeys(texts))
    indices = np.tile(np.array([distinct.index(text) for text in texts], dtype=np.int32), times)
    return pa.DictionaryArray.from_arrays(indices, pa.array(distinct, pa.string()))
