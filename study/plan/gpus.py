"""The NVIDIA GPUs of this machine: counted as NVML and CUDA_VISIBLE_DEVICES show them, and claimed by one study at a time.

A claim is an advisory lock (flock) on a file per device in the machine's temporary folder; it ends with its process, however
that ends. Studies in different containers, or with different $TMPDIR, do not see each other's claims. Numbers are those of
NVML and nvidia-smi (PCI order); Ray and torch are given UUIDs, which mean the same device to everyone. Imports neither torch
nor Ray.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
_LOCK_FOLDER = "training-dynamics-gpus"
_ABSENT = (
    "NVMLError_LibraryNotFound",
    "NVMLError_DriverNotLoaded",
    "NVMLError_NoPermission",
)  # no NVIDIA GPU to speak of


class GpuTakenError(OSError):
    """Fewer GPUs are free than a study needs; the message says what to do."""


@dataclass(frozen=True)
class Gpu:
    """A GPU, or an instance of one in MIG mode, which CUDA treats as a device of its own."""

    uuid: str  # GPU-... or MIG-..., as CUDA_VISIBLE_DEVICES takes it
    name: str
    busy: bool = False  # another program computes on it
    instances: tuple[Gpu, ...] | None = None  # of a GPU in MIG mode; None: it is not
    peak_tflops: float | None = None  # fp32 of its ordinary cores, from their number and highest clock
    capability: tuple[int, int] = (0, 0)  # CUDA compute capability

    @property
    def devices(self) -> tuple[Gpu, ...]:
        """What CUDA can train on: the GPU itself, or in MIG mode its instances."""
        return (self,) if self.instances is None else self.instances


@dataclass(frozen=True)
class GpuInventory:
    """The devices that a study may use now, how many are taken by other studies, and why there are not more."""

    free: tuple[Gpu, ...] = ()
    num_taken: int = 0
    reason: str | None = None


def inspect_gpus(*, shared: bool) -> GpuInventory:
    """What NVML lists, CUDA_VISIBLE_DEVICES leaves and no other study has claimed, for itself or as `shared`; idle ones first."""
    installed, problem = list_gpus()
    variable = os.environ.get(VISIBLE_DEVICES)
    visible = select_visible(installed, variable)
    free = [gpu for gpu in visible if _is_free(gpu, shared)]
    taken, reason = len(visible) - len(free), problem
    if installed and not visible:
        reason = f"{VISIBLE_DEVICES}={variable} shows none of {len(installed)}" if variable is not None else (
            "MIG mode is on, but no instances have been made; see nvidia-smi mig"
        )  # fmt: skip
    elif taken:
        reason = f"{taken} of {len(visible)} {'is' if taken == 1 else 'are'} taken by other studies"
    return GpuInventory(tuple(sorted(free, key=lambda gpu: gpu.busy)), taken, reason)


def list_gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs that NVML lists, in its order, and why it lists none although there may be some."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return (), None if type(error).__name__ in _ABSENT else f"NVML, the driver's library, says: {error}"
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return tuple(_read_gpu(pynvml, handle) for handle in handles), None
    except pynvml.NVMLError as error:  # a GPU that has fallen off its bus, say: none of them can be relied on
        return (), f"NVML, the driver's library, says: {error}"
    finally:
        pynvml.nvmlShutdown()


def select_visible(installed: Sequence[Gpu], variable: str | None) -> tuple[Gpu, ...]:
    """The devices that the value of CUDA_VISIBLE_DEVICES leaves, in its order; all where it is not set.

    As CUDA reads it: numbers, or UUIDs of GPUs or of MIG instances, which may be shortened; the first that means nothing ends the
    list, a repetition leaves none. A number or UUID of a GPU in MIG mode means its first instance.
    """
    if variable is None:
        return tuple(device for gpu in installed for device in gpu.devices)
    found: list[Gpu] = []
    kind = variable.strip()[:4]
    for entry in variable.split(","):
        device = _find(installed, entry.strip(), kind)
        if device is None:
            break
        if device in found:
            return ()
        found.append(device)
    return tuple(found)


@contextmanager
def claimed_gpus(candidates: Sequence[Gpu], number: int, *, shared: bool) -> Iterator[tuple[Gpu, ...]]:
    """`number` of the candidates for this process alone, or with `shared` for all that claim them so; given back at the end.

    Errors: GpuTakenError where not so many are free.
    """
    with ExitStack() as claims:
        claimed: list[Gpu] = []
        for gpu in candidates:
            if len(claimed) == number:
                break
            if (descriptor := _lock(gpu, shared=shared)) is not None:
                claims.callback(os.close, descriptor)
                claimed.append(gpu)
        if len(claimed) < number:
            raise GpuTakenError(
                f"{len(claimed)} of the {number} GPUs needed are free now: another study has begun on them"
            )
        yield tuple(claimed)


def _find(installed: Sequence[Gpu], entry: str, kind: str) -> Gpu | None:
    """The device that one entry means, in a list whose first entry is of `kind`."""
    if kind not in ("GPU-", "MIG-"):
        number = re.match(r"[+-]?\d+", entry)  # CUDA reads as far as it is a number: "1x" is 1
        index = int(number[0]) if number else -1
        matching = [installed[index]] if 0 <= index < len(installed) else []
    elif not entry.startswith(kind):
        return None
    else:
        known = [gpu for gpu in installed if kind == "GPU-"] or [i for gpu in installed for i in gpu.instances or ()]
        matching = [gpu for gpu in known if gpu.uuid.startswith(entry)]
    return matching[0].devices[0] if len(matching) == 1 and matching[0].devices else None


def _read_gpu(nvml: Any, handle: Any) -> Gpu:
    instances: tuple[Gpu, ...] | None = None
    if _ask(nvml, False, lambda: nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE):
        found = [_ask(nvml, None, lambda i=i: nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, i))
                 for i in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))]  # fmt: skip
        instances = tuple(_read_device(nvml, instance) for instance in found if instance is not None)
    return _read_device(nvml, handle, instances)


def _read_device(nvml: Any, handle: Any, instances: tuple[Gpu, ...] | None = None) -> Gpu:
    cores = _ask(nvml, None, lambda: nvml.nvmlDeviceGetNumGpuCores(handle))
    clock_mhz = _ask(nvml, None, lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))
    return Gpu(
        uuid=nvml.nvmlDeviceGetUUID(handle),
        name=nvml.nvmlDeviceGetName(handle),
        busy=bool(_ask(nvml, [], lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))),
        instances=instances,
        peak_tflops=2 * cores * clock_mhz / 1e6 if cores and clock_mhz else None,
        capability=tuple(_ask(nvml, (0, 0), lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))),
    )


def _ask(nvml: Any, otherwise: Any, question: Any) -> Any:
    """What NVML answers, or `otherwise` where the device or its driver does not know."""
    try:
        return question()
    except nvml.NVMLError:
        return otherwise


def _is_free(gpu: Gpu, shared: bool) -> bool:
    descriptor = _lock(gpu, shared=shared)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


def _lock(gpu: Gpu, *, shared: bool) -> int | None:
    """An open file whose lock claims the device; None where another process has claimed it."""
    folder = Path(tempfile.gettempdir()) / _LOCK_FOLDER
    path = folder / f"{re.sub('[^A-Za-z0-9-]', '-', gpu.uuid)}.lock"
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        folder.chmod(0o1777)  # for the studies of all users
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
