"""How the steps of an epoch are run on a device: forward and backward, then the optimizer, with room for instruments between.

    eager    every operation as PyTorch runs it by itself
    compile  the model's forward and backward compiled by torch.compile, the optimizer as in eager
    graph    two CUDA graphs over buffers that stay where they are, one for forward and backward and one for the optimizer

Losses and correct counts of the steps stay on the device. `prepare` compiles, captures and warms up, before any time is
measured, and leaves every number as it was. Knows no schedule, no instruments and no records.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainable.config import TrialConfig
from trainable.measuring.evaluation import autocast
from trainable.training.optimization import training_loss

_WARM_UP_STEPS = 3
Measure = Callable[[Callable[[], None]], None]


class EagerEngine:
    """Every operation as PyTorch runs it by itself; the other engines change how, not what."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrialConfig,
        device: torch.device,
        num_steps: int,
    ) -> None:
        self._model, self._optimizer, self._config, self._device = model, optimizer, config, device
        self._forward: Callable[[Tensor], Tensor] = model
        self.losses = torch.zeros(num_steps, device=device)  # of each step of the epoch, on the device
        self.correct = torch.zeros(num_steps, device=device)

    def prepare(self, images: Tensor, labels: Tensor, measure: Measure = lambda update: update()) -> None:
        """Take a few steps on one batch, so that what is loaded and chosen once is, and undo what they did.

        `measure` calls the update that it is given, with instruments before and after.
        """
        self._model.train()
        weights = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        state = copy.deepcopy(self._optimizer.state_dict())
        for _ in range(_WARM_UP_STEPS):
            self.begin_epoch(0.0)
            self.forward_backward(0, images, labels)
            measure(self.update)
        self._model.load_state_dict(weights)  # in place: what was captured or compiled goes on with the same tensors
        self._optimizer.load_state_dict(state)

    def begin_epoch(self, learning_rate: float) -> None:
        """Use `learning_rate` for every parameter from the next step on, the first of an epoch."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def forward_backward(self, step: int, images: Tensor, labels: Tensor) -> None:
        """The gradients of step `step` of the epoch, its loss and its number of correct predictions."""
        self._optimizer.zero_grad(set_to_none=True)
        loss, correct = self._differentiate(images, labels)
        with torch.no_grad():
            self.losses[step] = loss
            self.correct[step] = correct

    def update(self) -> None:
        """The optimizer's step."""
        self._optimizer.step()

    def _differentiate(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(self._config, self._device):
            logits = self._forward(images)
            loss = training_loss(logits.float(), labels, self._config)  # CUDA's autocast would leave it in bf16
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            return loss.detach(), (logits.argmax(dim=1) == labels).sum()


class CompiledEngine(EagerEngine):
    """The model compiled; `backend` is torch.compile's, "aot_eager" for what compiling alone changes: nothing."""

    def __init__(self, *arguments: Any, backend: str = "inductor") -> None:
        super().__init__(*arguments)
        self._forward = torch.compile(self._model, backend=backend)


class GraphEngine(EagerEngine):
    """A step of SGD over buffers that stay where they are, captured as two CUDA graphs; on the CPU the same step, not captured.

    The learning rate and the number of the step are tensors, so that what was captured goes on as they change. Momentum lies
    where SGD keeps it, so a checkpoint is that of any other engine.
    """

    def prepare(self, images: Tensor, labels: Tensor, measure: Measure = lambda update: update()) -> None:
        """Warm up as every engine does, on a stream of its own as capturing wants it, then capture."""
        with _side_stream(self._device):
            super().prepare(images, labels, measure)
        self._images, self._labels = images.clone(memory_format=torch.preserve_format), labels.clone()
        self._rate = torch.zeros((), device=self._device)  # minus the learning rate
        self._step = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._parameters: list[Tensor] = [p for p in self._model.parameters() if p.requires_grad]
        self._momenta = (
            [self._momentum_of(parameter) for parameter in self._parameters] if self._config.momentum else []
        )
        self._optimizer.zero_grad(set_to_none=True)  # gradients then lie where the graph has put them
        self._run_gradients: Callable[[], object] = self._compute_gradients
        self._run_update: Callable[[], object] = self._compute_update
        if self._device.type == "cuda":
            first, second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            with torch.cuda.graph(first):
                self._compute_gradients()
            with torch.cuda.graph(second, pool=first.pool()):
                self._compute_update()
            self._run_gradients, self._run_update = first.replay, second.replay

    def begin_epoch(self, learning_rate: float) -> None:
        """As every engine's; the tensors that the graphs read change too."""
        super().begin_epoch(learning_rate)
        if hasattr(self, "_rate"):
            self._rate.fill_(-learning_rate)
            self._step.zero_()

    def forward_backward(self, step: int, images: Tensor, labels: Tensor) -> None:
        """As every engine's; steps of an epoch are counted on the device, from 0 on."""
        if not hasattr(self, "_rate"):  # while it warms up
            super().forward_backward(step, images, labels)
            return
        self._images.copy_(images)
        self._labels.copy_(labels)
        if self._device.type != "cuda":  # in a graph the backward pass writes over them
            self._optimizer.zero_grad(set_to_none=True)
        self._run_gradients()

    def update(self) -> None:
        """SGD's step with the learning rate of the tensor."""
        if hasattr(self, "_rate"):
            self._run_update()
        else:
            super().update()

    def _compute_gradients(self) -> None:
        loss, correct = self._differentiate(self._images, self._labels)
        with torch.no_grad():
            self.losses.index_copy_(0, self._step, loss.float()[None])
            self.correct.index_copy_(0, self._step, correct.float()[None])
            self._step.add_(1)

    @torch.no_grad()
    def _compute_update(self) -> None:
        changes = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if self._config.weight_decay:
            changes = list(torch._foreach_add(changes, self._parameters, alpha=self._config.weight_decay))
        if self._momenta:
            torch._foreach_mul_(self._momenta, self._config.momentum)
            torch._foreach_add_(self._momenta, changes)
            gradients, changes = changes, self._momenta
            if self._config.nesterov:
                changes = list(torch._foreach_add(gradients, self._momenta, alpha=self._config.momentum))
        for parameter, change in zip(self._parameters, changes, strict=True):
            parameter.addcmul_(change, self._rate)  # rounds once, as SGD's own addition of a multiple does

    def _momentum_of(self, parameter: Tensor) -> Tensor:
        """SGD's own buffer; zeros where it has none yet, which its first step makes of what it makes of none."""
        state = self._optimizer.state[parameter]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state["momentum_buffer"]  # type: ignore[no-any-return]


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(current)
    with torch.cuda.stream(side):
        yield
    current.wait_stream(side)


ENGINES: dict[str, type[EagerEngine]] = {
    "graph": GraphEngine,
    "compile": CompiledEngine,
    "eager": EagerEngine,
}  # fastest first
