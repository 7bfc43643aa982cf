"""The device side of training on fake tensors, without a device: no mix of devices, no host read inside an epoch.

torch's FakeTensorMode runs every operation without data, but with the devices of its operands as they would be, and refuses
what needs a value on the host. A second mode sees every copy to the host and counts operations. Autograd and slices ask CUDA itself,
so where there is none the device has another name (torch's PrivateUse1); nothing of the code under test asks for the name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from tests.support.images import make_image_data
from trainable.config import Precision, TrialConfig
from trainable.data import augmentation
from trainable.data.augmentation import EvaluationBatches, TrainingBatches, augment, draw_augmentation
from trainable.data.data_set import split_data
from trainable.instruments.noise_scale import measure_noise_scale
from trainable.measuring import probe
from trainable.measuring.evaluation import evaluate
from trainable.measuring.probe import LayerProbe
from trainable.model import build_model
from trainable.records.columns import TENSOR_INSTRUMENTS
from trainable.training.engines import EagerEngine
from trainable.training.loop import take_steps
from trainable.training.optimization import build_optimizer


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("pretended", backend_module=_Module())
# What autocast does on CUDA to the operations of this model that it has rules for. CUDA's own rules know no other device.
# Its rule for log_softmax, fp32 where no type is asked for, does nothing here: cross_entropy asks for that of the logits.
_IN_BF16, _IN_FP32 = ("conv2d", "linear"), ("nll_loss",)
_RULES = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")  # type: ignore[no-untyped-call]
_NO_RULE = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")  # type: ignore[no-untyped-call]
_NO_RULE.fallback(torch.library.fallthrough_kernel)  # type: ignore[no-untyped-call]


def _cast_before(name: str, dtype: torch.dtype) -> None:
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
    without = torch._C.DispatchKeySet(torch._C._dispatch_key_parse("AutocastPrivateUse1"))

    def cast(value: Any) -> Any:
        on_device = isinstance(value, Tensor) and value.device.type != "cpu" and value.is_floating_point()
        return value.to(dtype) if on_device else value

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(without):
            return operation(*map(cast, args), **kwargs)

    _RULES.impl(name, run)  # type: ignore[no-untyped-call]


for one in _IN_BF16:
    _cast_before(one, torch.bfloat16)
for one in _IN_FP32:
    _cast_before(one, torch.float32)
DEVICE = torch.device("pretended", 0)
CONFIG = TrialConfig(dataset="synthetic", width=2, batch_size=8)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
STEPS = 3


class HostRead(Exception):
    """An operation whose result the host waits for."""


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations on the device, and refuses those that bring something of it to the host."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = (list(_tensors(values)) for values in ((args, kwargs), result))
        on_device = any(tensor.device.type != "cpu" for tensor in given)
        if on_device and any(tensor.device.type == "cpu" and tensor.dim() for tensor in made):
            raise HostRead(str(func))
        if (
            (on_device or any(tensor.device.type != "cpu" for tensor in made))
            and not func.is_view
            and func.namespace == "aten"
        ):
            self.calls[func.name()] += 1
        return result


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


@contextmanager
def fake_tensors() -> Iterator[Watch]:
    """Within it tensors are fake; those that are kept from one epoch to the next are dropped before and afterwards."""
    augmentation._normalisation.cache_clear()
    try:
        with FakeTensorMode(), Watch() as watch:
            yield watch
    finally:
        augmentation._normalisation.cache_clear()


def _on_device(model: nn.Module) -> nn.Module:
    """As `model.to(DEVICE)`, which cannot put fake parameters in the place of real ones."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(_like(parameter))
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else _like(buffer)
    return model


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=DEVICE)


class Training:
    """What `train` puts on the device before its first step."""

    def __init__(self, config: TrialConfig = CONFIG) -> None:
        split = split_data(make_image_data(STEPS * config.batch_size, 20), config)
        self.batches = TrainingBatches(split.train, config, DEVICE)
        self.test = EvaluationBatches(split.test, DEVICE, 16)
        with _disable_current_modes():
            model = build_model(config.width, config.seed).to(memory_format=torch.channels_last)
        self.model = _on_device(model)
        self.probe = LayerProbe(self.model, [p.detach().clone() for p in self.model.parameters()], STEPS)
        optimizer = build_optimizer(self.model, config)
        optimizer.param_groups[0]["foreach"] = True  # as torch chooses on CUDA, but not for fake tensors
        self.engine = EagerEngine(self.model, optimizer, config, DEVICE, STEPS)

    def run(self, measured: tuple[int, ...] = (0, 1, 2)) -> None:
        assert take_steps(self.engine, self.batches.epoch(1), self.probe, measured) is not None


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_step_mixes_devices_or_is_read_by_the_host(precision: Precision) -> None:
    with fake_tensors():
        training = Training(replace(CONFIG, precision=precision))
        training.run()
        assert training.engine.losses.device == DEVICE
        for parameter in training.model.parameters():
            assert parameter.grad is not None
            assert parameter.grad.dtype == torch.float32
            assert parameter.grad.is_contiguous() == parameter.is_contiguous(), "else foreach takes its slow path"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_evaluation_mixes_no_devices(precision: Precision) -> None:
    """`evaluate` itself, up to its download of all losses at its end."""
    config = replace(CONFIG, precision=precision)
    with fake_tensors() as watch:
        training = Training(config)
        watch.calls.clear()
        with pytest.raises(HostRead, match=r"aten\.to"):
            evaluate(training.model, training.test, config)
        assert sum(n for name, n in watch.calls.items() if "conv" in name) == 2 * 20, (
            "two batches went through the model before"
        )


def test_the_noise_scale_mixes_no_devices() -> None:
    """Up to its one download, of two numbers, at its end."""
    with fake_tensors() as watch:
        training = Training()
        images, labels = torch.zeros(64, 3, 32, 32, device=DEVICE), torch.zeros(64, dtype=torch.int64, device=DEVICE)
        watch.calls.clear()
        with pytest.raises((HostRead, DataDependentOutputException)):
            measure_noise_scale(training.model, images, labels)
        assert watch.calls["aten::convolution_backward"] == 2 * 20


# Operations of a step that are no views, measured by these instruments: a number that grows is seen here before a device is slower for it.
INSTRUMENTS = {"gradient_alignment", "gradients", "updates", "weights"}
OPERATIONS = {("fp32", "plain"): 224, ("fp32", "measured"): 344, ("bf16", "plain"): 271, ("bf16", "measured"): 391}


def count_operations(precision: Precision, kind: str) -> int:
    """Of the third step, as the difference to two: the first has no momentum yet."""
    found = []
    for steps in (2, 3):
        with fake_tensors() as watch:
            training = Training(replace(CONFIG, precision=precision))
            batches = list(training.batches.epoch(1))[:steps]
            watch.calls.clear()
            take_steps(training.engine, batches, training.probe, range(steps) if kind == "measured" else ())
            found.append(watch.calls.total())
    return found[1] - found[0]


def test_the_number_of_operations_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = [one for one in TENSOR_INSTRUMENTS if one.name in INSTRUMENTS]
    assert len(shipped) == len(INSTRUMENTS)
    monkeypatch.setattr(probe, "TENSOR_INSTRUMENTS", shipped)
    kinds: tuple[tuple[Precision, str], ...] = tuple((p, kind) for p in PRECISIONS for kind in ("plain", "measured"))
    assert {kind: count_operations(*kind) for kind in kinds} == OPERATIONS


def test_bf16_is_where_cuda_has_it() -> None:
    """Convolutions and the last layer in bf16, batch statistics too as they follow them, loss and weights in fp32."""
    seen: dict[str, set[torch.dtype]] = {}

    class Dtypes(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            on_device = [t.dtype for t in _tensors(args) if t.device.type != "cpu" and t.is_floating_point()]
            seen.setdefault(func.name(), set()).update(on_device[:1])
            return func(*args, **(kwargs or {}))

    with fake_tensors(), Dtypes():  # type: ignore[no-untyped-call]
        Training(replace(CONFIG, precision="bf16")).run(())
    in_bf16 = {name for name, dtypes in seen.items() if dtypes == {torch.bfloat16}}
    assert {"aten::convolution", "aten::convolution_backward"} <= in_bf16
    assert seen["aten::_log_softmax"] == seen["aten::nll_loss_forward"] == {torch.float32}
    ruled = {
        name for name in seen if name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCUDA")
    }  # fmt: skip
    under_rules = {"aten::convolution", "aten::addmm"}  # of conv2d and linear
    elsewhere = {
        "aten::mm",
        "aten::sum.dim_IntList",
        "aten::sum",
    }  # backward, where autocast is off; counts are whole numbers
    assert ruled <= under_rules | elsewhere, "no rule of CUDA's is missing here"
    for name in (*_IN_BF16, *_IN_FP32):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "AutocastCUDA"), name


def host_read_in_a_step(training: Training) -> None:
    plain = training.engine.forward_backward

    def forward_backward(step: int, images: Tensor, labels: Tensor) -> None:
        plain(step, images, labels)
        float(training.engine.losses[step])

    training.engine.forward_backward = forward_backward  # type: ignore[method-assign]


def download_in_a_step(training: Training) -> None:
    plain = training.engine.update

    def update() -> None:
        plain()
        training.engine.losses.cpu()

    training.engine.update = update  # type: ignore[method-assign]


def host_read_in_an_instrument(training: Training) -> None:
    plain = training.probe.after_step

    def after_step() -> None:
        plain()
        training.probe._measured[0, 0].tolist()

    training.probe.after_step = after_step  # type: ignore[method-assign]


def labels_left_on_the_cpu(training: Training) -> None:
    plain = training.engine.forward_backward
    on_cpu = torch.zeros(CONFIG.batch_size, dtype=torch.int64)
    training.engine.forward_backward = lambda step, images, labels: plain(step, images, on_cpu)  # type: ignore[method-assign]


def a_boolean_selection(training: Training) -> None:
    plain = training.engine.forward_backward

    def forward_backward(step: int, images: Tensor, labels: Tensor) -> None:
        images[labels == 0].sum()  # how many there are decides a shape
        plain(step, images, labels)

    training.engine.forward_backward = forward_backward  # type: ignore[method-assign]


def initial_weights_on_the_cpu(training: Training) -> None:
    training.probe._initial.views = [view.to("cpu") for view in training.probe._initial.views]


MISTAKES: tuple[Callable[[Training], None], ...] = (
    host_read_in_a_step, download_in_a_step, host_read_in_an_instrument, labels_left_on_the_cpu, a_boolean_selection,
    initial_weights_on_the_cpu,
)  # fmt: skip


@pytest.mark.parametrize("make", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_seen(make: Callable[[Training], None]) -> None:
    with fake_tensors():
        training = Training()
        try:
            make(training)
        except HostRead:
            return  # the mistake itself copies to the host
        with pytest.raises((HostRead, RuntimeError)) as found:
            training.run()
    assert any(
        word in repr(found.value) + type(found.value).__name__
        for word in ("HostRead", "DataDependent", "DynamicOutput", "device")
    )


def test_draws_left_on_the_cpu_are_seen() -> None:
    images = torch.zeros(8, 32, 32, 3, dtype=torch.uint8)
    draws = draw_augmentation(8, CONFIG, 1)
    with fake_tensors():
        with pytest.raises(RuntimeError, match="device"):
            augment(torch.zeros(images.shape, dtype=torch.uint8, device=DEVICE), draw_augmentation(8, CONFIG, 1))
        assert (
            augment(
                torch.zeros(images.shape, dtype=torch.uint8, device=DEVICE), draw_augmentation(8, CONFIG, 1).to(DEVICE)
            ).device
            == DEVICE
        )
    assert augment(images, draws).device.type == "cpu"
