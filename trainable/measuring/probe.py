"""Everything that is measured per parameter tensor at one step: two calls around `optimizer.step()`, one table per epoch.

What is measured is declared in trainable/instruments. The loop calls `before_step` after the backward pass and `after_step`
after the optimizer's step. Measurements stay on the device until `drain`, which copies them once; until then nothing waits
for the device and nothing that training reads is written. This module must not know the optimizer, the data or the schedule
of epochs, nor what any instrument measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainable.instrument import Array, StepTensors, TensorList
from trainable.measuring.packing import PackedTensors
from trainable.measuring.parts import layer_groups, parameter_kinds, scale_invariant
from trainable.records.columns import TENSOR_INSTRUMENTS
from trainable.records.tables import SCHEMAS, conform

_STARTS = list(accumulate((one.num_values for one in TENSOR_INSTRUMENTS), initial=0))
_PARTS = {one.name: slice(*bounds) for one, bounds in zip(TENSOR_INSTRUMENTS, pairwise(_STARTS), strict=True)}


@dataclass(frozen=True)
class LayerMeasurements:
    """What a probe measured in one epoch: rows of layers, and by column of steps a value for each measured step."""

    layers: pa.Table
    steps: Mapping[str, Array]

    def with_last(self, columns: Mapping[str, Array]) -> LayerMeasurements:
        """The same with a value of each of `columns` for every tensor, in the rows of the last step; without rows they are lost."""
        layers, num_rows = self.layers, self.layers.num_rows
        for name, values in columns.items() if num_rows else ():
            data, missing = np.zeros(num_rows, dtype=np.float32), np.ones(num_rows, dtype=bool)
            data[-len(values) :], missing[-len(values) :] = np.ma.getdata(values), np.ma.getmaskarray(values)
            place = layers.schema.get_field_index(name)
            layers = layers.set_column(place, layers.schema.field(place), pa.array(data, mask=missing))
        return LayerMeasurements(layers, self.steps)


class LayerProbe:
    """Measures the parameter tensors of `model` at up to `measurements_per_epoch` steps between two drains.

    `initial` are the weights that training began with, in the order of `model.parameters()`, of those that are trained. The probe
    holds a copy of them, one of the gradients of the last measurement, and 8 bytes for each value, 9.4 kB for each measurement of the
    published network; none of it where nothing is to be measured. Around a measured optimizer step there are up to two copies of
    the weights more, when the activations of the step, which take more, are gone.
    """

    def __init__(self, model: nn.Module, initial: Sequence[Tensor], measurements_per_epoch: int) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        invariant = scale_invariant(model)
        self._tensors = TensorList(
            list(self._parameters),
            np.array(list(parameter_kinds(model).values())),
            np.array([p.numel() for p in self._parameters.values()], dtype=np.int64),
            np.array([name in invariant for name in self._parameters], dtype=np.bool_),
        )
        self._groups = list(layer_groups(model, self._tensors.names).values())
        like = [p.detach() for p in self._parameters.values()]
        # Without measurements only shapes are needed, and tensors on the meta device take no memory.
        device = like[0].device if measurements_per_epoch else torch.device("meta")
        self._initial = PackedTensors(like, device)
        self._initial.load(list(initial))
        self._gradients_before = PackedTensors(like, device)
        self._work, self._before = PackedTensors(like, device), PackedTensors(like, device)
        self._work.release()
        self._before.release()
        self._measured = torch.zeros(measurements_per_epoch, _STARTS[-1], len(like), dtype=torch.float64, device=device)
        self._count = 0

    @property
    def buffer_bytes(self) -> int:
        """Device memory that the probe holds now: between measured steps the initial weights and the measurements."""
        held = (self._initial.rows, self._gradients_before.rows, self._work.rows, self._before.rows, self._measured)
        return sum(buffer.nbytes for buffer in held if not buffer.is_meta)

    @torch.no_grad()
    def before_step(self) -> None:
        """Measure what is there before the optimizer's step, and remember the weights."""
        if self._count == len(self._measured):
            raise RuntimeError(f"more than {self._count} measurements in an epoch: drain the probe after every epoch")
        self._work.allocate()
        gradients = self._gradients()
        step = StepTensors(
            gradients, self._weights(), self._initial, self._work, gradients_before=self._gradients_before
        )
        for one in TENSOR_INSTRUMENTS:
            if one.before_step is not None:
                self._measured[self._count, _PARTS[one.name]] = one.before_step(step)
        self._gradients_before.load(gradients)
        self._work, self._before = self._before, self._work
        self._before.load(self._weights())

    @torch.no_grad()
    def after_step(self) -> None:
        """Measure what is there after the optimizer's step."""
        self._work.allocate()
        step = StepTensors(self._gradients(), self._weights(), self._initial, self._work, self._before)
        for one in TENSOR_INSTRUMENTS:
            if one.after_step is not None:
                self._measured[self._count, _PARTS[one.name]] = one.after_step(step)
        self._work.release()
        self._before.release()
        self._count += 1

    def drain(self, trial_id: str, epoch: int, steps: Sequence[int]) -> LayerMeasurements:
        """The measurements since the last drain, made at `steps` (counted over the trial) of this epoch, from 1.

        Undefined values are null: the ratio of zero weights, say. Errors: ValueError where `steps` are not as many as the measurements.
        """
        if len(steps) != self._count:
            raise ValueError(f"{len(steps)} steps are named for {self._count} measurements")
        shape = (0, *self._measured.shape[1:])
        measured = self._measured[: self._count].cpu().numpy() if self._count else np.empty(shape)
        self._count = 0
        self._gradients_before.rows.zero_()
        columns: dict[str, Array] = {}
        of_steps: dict[str, Array] = {}
        for one in TENSOR_INSTRUMENTS:
            found = one.finish(measured[:, _PARTS[one.name]], self._tensors)
            columns |= {column.name: found[column.name] for column in one.columns}
            if one.summarise is not None:
                summary = one.summarise(found)
                of_steps |= {column.name: summary[column.name] for column in one.step_columns}
        return LayerMeasurements(self._table(columns, trial_id, epoch, np.asarray(steps, dtype=np.int64)), of_steps)

    def _weights(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self._parameters.values()]

    def _gradients(self) -> list[Tensor]:
        found = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        if len(found) != len(self._parameters):
            without = next(name for name, parameter in self._parameters.items() if parameter.grad is None)
            raise RuntimeError(
                f"parameter {without} has no gradient after the backward pass: the loss does not depend on it; leave it out of "
                "the network, or set its requires_grad to False"
            )
        return found

    def _table(self, columns: Mapping[str, Array], trial_id: str, epoch: int, steps: NDArray[np.int64]) -> pa.Table:
        """Rows in order of step, then of parameter."""
        names, schema = self._tensors.names, SCHEMAS["layers"]
        num_rows = len(steps) * len(names)
        arrays: dict[str, pa.Array] = {
            "trial_id": _repeated([trial_id], num_rows),
            "epoch": pa.array(np.full(num_rows, epoch, dtype=np.int32)),
            "step": pa.array(np.repeat(steps, len(names))),
            "layer": _repeated(names, len(steps)),
            "group": _repeated(self._groups, len(steps)),
            "kind": _repeated(self._tensors.kinds.tolist(), len(steps)),
            "num_elements": pa.array(np.tile(self._tensors.num_elements, len(steps))),
        }
        for name, values in columns.items():
            undefined = np.ma.getmaskarray(values).reshape(-1)
            kind = schema.field(name).type.to_pandas_dtype()
            arrays[name] = pa.array(np.ma.getdata(values).reshape(-1).astype(kind), mask=undefined)
        known = pa.schema([field for field in schema if field.name in arrays])
        return conform(pa.Table.from_arrays([arrays[name] for name in known.names], schema=known), schema)


def _repeated(texts: Sequence[str], times: int) -> pa.Array:
    """`texts` so many times over, each distinct one stored once."""
    distinct = list(dict.fromkeys(texts))
    indices = np.tile(np.array([distinct.index(text) for text in texts], dtype=np.int32), times)
    return pa.DictionaryArray.from_arrays(indices, pa.array(distinct, pa.string()))
