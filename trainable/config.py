"""The complete configuration of one trial: every value that decides what is trained and what is recorded.

Imports neither torch nor Ray, so that command lines can validate their input at once. A trial is identified by the
hash of its configuration together with the fingerprint of its data (`trial_id`); a cell is the same configuration
without the seed (`cell_id`). A field that is added to TrialConfig counts in these only where it is not at its default, so
that trials made before it keep their ids: `_FIRST_FIELDS` is never extended (docs/compatibility.md).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from trainable.errors import IncompatibleVersionError
from trainable.fields import FieldValue as FieldValue
from trainable.fields import checked, parse_value, value_text
from trainable.fields import option as _option

if TYPE_CHECKING:
    from pydantic_core.core_schema import CoreSchema

Precision = Literal["fp32", "bf16", "published"]
Engine = Literal["eager", "compile", "graph", "auto"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "constant", "step", "linear"]
BranchScaling = Literal["none", "sqrt", "linear"]
PUBLISHED_MODEL = "resnet18"
_MODEL_FIELD = re.compile(r"model_fields\.[A-Za-z_]\w{0,63}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """One trial. The defaults are the published experiment 1; a value out of range raises ValueError naming the field."""

    dataset: str = _option(
        "cifar10", "images to learn: a known data set, `images` of yours, or package.module:function"
    )
    image_size: int = _option(32, "of dataset images: pixels a side that they are scaled to", low=8, high=512)
    batch_size: int = _option(64, "images per step", low=1, high=50_000)
    learning_rate: float = _option(
        0.15, "learning rate that the schedule starts from, after the warm-up", above=0, high=1_000
    )
    seed: int = _option(0, "decides initialisation, order of images and augmentation", low=0, high=2**31 - 1)
    epochs: int = _option(25, "passes over the training set; the schedule ends with them", low=1, high=100_000)
    warmup_epochs: int = _option(
        0, "epochs of linear warm-up before the schedule, which then takes the others; 0: none", low=0, high=99_999
    )
    schedule: Schedule = _option(
        "cosine", "learning rate over the epochs: cosine or linear to 0, constant, or in steps"
    )
    step_every_epochs: int | None = _option(
        None, "of schedule step: epochs after which the rate changes; none: a third of those after the warm-up", low=1
    )
    step_factor: float = _option(0.1, "of schedule step: what the rate is multiplied by", above=0, below=1)
    width: int = _option(64, "channels of the first stage; 64 is the published network", low=1, high=1_024)
    optimizer: Optimizer = _option("sgd", "sgd or adamw, as torch has them")
    momentum: float = _option(0.9, "momentum of SGD, or the first beta of AdamW", low=0, below=1)
    nesterov: bool = _option(False, "of sgd: Nesterov's momentum")
    beta2: float = _option(0.999, "of adamw: decay of the mean of squared gradients", low=0, below=1)
    weight_decay: float = _option(5e-4, "on every parameter: SGD's L2 penalty, or AdamW's decay", low=0, high=10)
    label_smoothing: float = _option(
        0.0, "part of a label that is spread over all classes, in training", low=0, below=1
    )
    crop_padding: int = _option(4, "black pixels around an image before its random crop", low=0, high=16)
    flip_probability: float = _option(0.5, "probability of a horizontal flip", low=0, high=1)
    color_jitter: float = _option(
        0.2, "brightness, contrast, saturation factors are drawn from 1 +- this", low=0, high=1
    )
    cutout: int = _option(0, "pixels a side of a square that is blanked in each image; 0: none", low=0, high=512)
    randaugment: int = _option(0, "operations of RandAugment on each image, on the CPU; 0: none", low=0, high=16)
    randaugment_magnitude: int = _option(9, "strength of RandAugment's operations", low=0, high=30)
    train_limit: int | None = _option(None, "use only so many training images, class-balanced", low=1)
    test_limit: int | None = _option(None, "use only so many test images, class-balanced; 0: never look at them", low=0)
    validation_size: int = _option(0, "training images held out for validation, class-balanced", low=0)
    log_every_steps: int = _option(50, "a step record every so many steps of an epoch", low=1)
    instrument_every_steps: int = _option(100, "layer records every so many steps of an epoch; 0: never", low=0)
    noise_scale_every_epochs: int = _option(1, "gradient noise scale every so many epochs; 0: never", low=0)
    batch_sharpness_every_epochs: int = _option(0, "batch sharpness every so many epochs; 0: never", low=0)
    hessian_trace_every_epochs: int = _option(0, "trace of the Hessian every so many epochs; 0: never", low=0)
    top_eigenvalue_every_epochs: int = _option(
        0, "largest eigenvalue of the Hessian every so many epochs; 0: never", low=0
    )
    precision: Precision = _option(
        "fp32",
        "fp32, bf16 autocast with fp32 weights, or published: fp32 with torch's defaults, TF32 where CUDA has it",
    )
    engine: Engine = _option(
        "eager",
        "what runs the steps: eager, compile, graph, or auto, the fastest that trains as eager does on the device",
    )
    model: str = _option(PUBLISHED_MODEL, "network to train: a shipped one, or package.module:function of yours")
    model_source: str = _option("", "hash of the source of a network of yours; follows from model")
    model_fields: tuple[tuple[str, FieldValue], ...] = ()  # by name; in `to_dict` each is a field `model_fields.NAME`
    branch_epoch: int = _option(
        0, "a branch goes on from the state that the trial without `branch_` fields has after so many epochs; 0: no branch",
        low=0, high=99_999,
    )  # fmt: skip
    branch_batch_size: int | None = _option(None, "images per step of a branch", low=1, high=50_000)
    branch_scaling: BranchScaling = _option(
        "none", "learning rate of a branch: times the ratio of batch sizes (linear), times its root (sqrt), or as it is"
    )
    branch_epochs: int = _option(1, "epochs that a branch trains", low=1, high=100_000)
    branch_images: int | None = _option(
        None, "images that a branch sees of each epoch, the first of its order; none: all that fill batches", low=1
    )

    def __post_init__(self) -> None:
        for spec in _scalar_fields(self):
            object.__setattr__(self, spec.name, checked(spec, _TYPES[spec.name], getattr(self, spec.name)))
        object.__setattr__(self, "model_fields", _checked_model_fields(self.model_fields))
        if self.train_limit is not None and self.train_limit - self.validation_size < self.batch_size:
            raise ValueError(
                f"train_limit={self.train_limit} less validation_size={self.validation_size} leaves no full batch of "
                f"batch_size={self.batch_size}: raise train_limit or lower batch_size"
            )
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs} leaves nothing of epochs={self.epochs} for the schedule"
            )
        if self.nesterov and self.optimizer == "sgd" and not self.momentum:
            raise ValueError("nesterov=true needs a momentum above 0")
        if self.engine == "graph" and self.optimizer != "sgd":
            raise ValueError(f"engine=graph knows SGD alone: optimizer={self.optimizer} needs eager, compile or auto")
        self._check_branch()

    def _check_branch(self) -> None:
        if not self.branch_epoch:
            if named := [name for name in BRANCH_FIELDS if getattr(self, name) != FIELDS[name].default]:
                raise ValueError(f"{named[0]} without branch_epoch: give the epoch after which the branch begins")
            return
        if self.branch_batch_size is None:
            raise ValueError("branch_epoch without branch_batch_size: give the images per step of the branch")
        if self.branch_images is not None and self.branch_images % self.branch_batch_size:
            raise ValueError(
                f"branch_images={self.branch_images} is no multiple of branch_batch_size={self.branch_batch_size}"
            )
        if self.last_epoch > self.epochs:
            raise ValueError(
                f"branch_epoch={self.branch_epoch} and branch_epochs={self.branch_epochs} end after epochs={self.epochs}"
            )
        _ = self.as_trained  # refuses a batch or a rate that no trial may have

    @property
    def parent(self) -> TrialConfig:
        """The trial that a branch goes on from; of another trial itself."""
        defaults: dict[str, Any] = {name: FIELDS[name].default for name in BRANCH_FIELDS}
        return replace(self, **defaults)

    @property
    def as_trained(self) -> TrialConfig:
        """How the steps are taken: of a branch its parent with the branch's batch size and learning rate; else itself."""
        if self.branch_batch_size is None:
            return self
        ratio = self.branch_batch_size / self.batch_size
        factor = {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[self.branch_scaling]
        return replace(self.parent, batch_size=self.branch_batch_size, learning_rate=self.learning_rate * factor)

    @property
    def last_epoch(self) -> int:
        """The epoch after which it is complete; epochs of a branch count on from its parent's."""
        return self.branch_epoch + self.branch_epochs if self.branch_epoch else self.epochs

    @property
    def scored_on(self) -> Literal["test", "val", ""]:
        """The images that an epoch's scores are of: the test set unless it is not looked at, then the held-out ones."""
        return "test" if self.test_limit != 0 else "val" if self.validation_size else ""

    @property
    def without_effect(self) -> dict[str, str]:
        """The fields that are not at their default and change nothing, each with a line that says why."""
        return {
            name: f"{name}={value_text(getattr(self, name))} changes nothing with {other}={value_text(getattr(self, other))}"
            for name, other, counts in _ONLY_WITH
            if getattr(self, name) != FIELDS[name].default and not counts(getattr(self, other))
        }

    def to_dict(self) -> dict[str, FieldValue]:
        """Every field with its value, ready for JSON; those of the model are called `model_fields.NAME`."""
        own = {f"model_fields.{name}": value for name, value in self.model_fields}
        return {**{spec.name: getattr(self, spec.name) for spec in _scalar_fields(self)}, **own}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialConfig:
        """The configuration with these fields set and the defaults for the rest; unknown fields raise ValueError."""
        for name in values:
            check_field_name(name)
        return cls(**_with_model_fields(values))

    @classmethod
    def from_stored(cls, values: Mapping[str, Any]) -> TrialConfig:
        """The configuration that a file holds. Errors: as `complete_fields`, and ValueError for values that cannot be."""
        return cls(**_with_model_fields(complete_fields(values)))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        """In what pydantic reads, a configuration is what `from_stored` makes of it."""
        from pydantic_core.core_schema import no_info_plain_validator_function

        return no_info_plain_validator_function(cls.from_stored)


def _scalar_fields(config: TrialConfig | type[TrialConfig]) -> list[dataclasses.Field[Any]]:
    """All fields but those of the model, which only the model knows."""
    return [spec for spec in dataclasses.fields(config) if spec.name != "model_fields"]


FIELDS: dict[str, dataclasses.Field[Any]] = {spec.name: spec for spec in _scalar_fields(TrialConfig)}
BRANCH_FIELDS = tuple(name for name in FIELDS if name.startswith("branch_"))
_FIRST_FIELDS = frozenset({
    "dataset", "batch_size", "learning_rate", "seed", "epochs", "warmup_epochs", "width", "momentum", "weight_decay",
    "crop_padding", "flip_probability", "color_jitter", "train_limit", "test_limit", "validation_size", "log_every_steps",
    "instrument_every_steps", "noise_scale_every_epochs", "precision",
})  # fmt: skip
_ONLY_WITH: tuple[
    tuple[str, str, Callable[[Any], bool]], ...
] = (  # a field, and what another one must be for it to count
    ("nesterov", "optimizer", lambda optimizer: optimizer == "sgd"),
    ("beta2", "optimizer", lambda optimizer: optimizer == "adamw"),
    ("step_every_epochs", "schedule", lambda schedule: schedule == "step"),
    ("step_factor", "schedule", lambda schedule: schedule == "step"),
    ("randaugment_magnitude", "randaugment", lambda operations: operations > 0),
    ("image_size", "dataset", lambda dataset: dataset == "images"),
)
_TYPES: dict[str, Any] = typing.get_type_hints(TrialConfig)


def is_model_field(name: str) -> bool:
    """True for the name of a field of the model, `model_fields.depth` say; which ones it has, the model knows."""
    return _MODEL_FIELD.fullmatch(name) is not None


def flatten(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of TOML in which the fields of the model, a table of their own, are called `model_fields.NAME`. Errors: ValueError."""
    own = table.get("model_fields", {})
    if not isinstance(own, Mapping):
        raise ValueError("model_fields is not a table of fields; write model_fields.NAME = VALUE")
    flat = {name: value for name, value in table.items() if name != "model_fields"}
    return flat | {f"model_fields.{name}": value for name, value in own.items()}


def check_field_name(name: str) -> None:
    """Raise ValueError naming the nearest field where `name` is not a field of TrialConfig."""
    if name not in FIELDS and not is_model_field(name):
        near = difflib.get_close_matches(name, FIELDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"fields are {', '.join(FIELDS)}"
        raise ValueError(f"unknown field {name!r}: {hint}")


def complete_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration in a file, with or without its seed; fields later than the file are at their default.

    Errors: ValueError naming a field that every version wrote and the file lacks; IncompatibleVersionError naming one that
    this version does not know.
    """
    if not isinstance(values, Mapping):
        raise ValueError("not a configuration")
    if unknown := sorted(name for name in map(str, values) if name not in FIELDS and not is_model_field(name)):
        raise IncompatibleVersionError(
            f"a configuration field {unknown[0][:80]!r} that only a newer version of this project knows"
        )
    if missing := sorted(_FIRST_FIELDS - set(values) - {"seed"}):
        raise ValueError(f"a configuration without {missing[0]}")
    if several := sorted(name for name, value in values.items() if isinstance(value, (list, dict))):
        raise ValueError(f"a configuration whose {several[0][:80]} is not one value")
    return {**{name: spec.default for name, spec in FIELDS.items() if name not in _FIRST_FIELDS}, **values}


def parse_overrides(texts: Iterable[str], epochs: str | None) -> dict[str, FieldValue]:
    """The fields of each `--set field=value` and of `--epochs`, which is one more. Errors: ValueError."""
    return dict(map(parse_override, [*texts, *([] if epochs is None else [f"epochs={epochs}"])]))


def parse_override(text: str) -> tuple[str, FieldValue]:
    """`field=value` as typed on a command line -> the field's name and its checked value. Errors: ValueError."""
    name, equals, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not name or not value:
        raise ValueError(f"{text!r} is not field=value")
    check_field_name(name)
    return name, parse_value(value) if is_model_field(name) else checked(FIELDS[name], _TYPES[name], parse_value(value))


def model_name(config: Mapping[str, Any]) -> str:
    """What the network of a configuration is called beside others of its study: `width 8` is the published one."""
    own = {
        name.partition(".")[2]: value for name, value in config.items() if is_model_field(name) and value is not None
    }
    model, width = str(config.get("model", PUBLISHED_MODEL)), config["width"]
    told = [] if model == PUBLISHED_MODEL else [f"{model} {config.get('model_source', '')[:8]}".rstrip()]
    told += [f"{name} {value}" for name, value in sorted(own.items())]
    if ":" not in model or width != FIELDS["width"].default:
        told.append(f"width {width}")
    return ", ".join(told)


def trial_id(config: TrialConfig, data_fingerprint: str) -> str:
    """16 hex digits: the SHA-256 of the configuration and the data it trains on."""
    return _digest({"config": _identity(config), "data": data_fingerprint}, 16)


def cell_id(config: TrialConfig) -> str:
    """10 hex digits: the SHA-256 of the configuration without its seed, shared by the seeds of one cell."""
    return _digest({name: value for name, value in _identity(config).items() if name != "seed"}, 10)


def _identity(config: TrialConfig) -> dict[str, FieldValue]:
    """The fields that make a trial the one it is: the first ones always, later ones where they are not at their default."""
    later_defaults = {f.name: f.default for f in _scalar_fields(config) if f.name not in _FIRST_FIELDS}
    return {
        name: value
        for name, value in config.to_dict().items()
        if name not in later_defaults or value != later_defaults[name]
    }


def _digest(content: Mapping[str, Any], length: int) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


def _with_model_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of TrialConfig: fields of the model gathered; one that is None is of another model in the same study."""
    own = {name: value for name, value in values.items() if is_model_field(name)}
    rest = {name: value for name, value in values.items() if name not in own}
    given = tuple((name.partition(".")[2], value) for name, value in own.items() if value is not None)
    return {**rest, "model_fields": (*rest.get("model_fields", ()), *given)}


def _checked_model_fields(pairs: Any) -> tuple[tuple[str, FieldValue], ...]:
    """Sorted by name, so that the order in which they were given is no part of a configuration."""
    for name, value in pairs:
        number = isinstance(value, (int, float)) and abs(value) < 1e300
        if not number and not (isinstance(value, str) and len(value) <= 200):
            raise ValueError(f"model_fields.{name}={value!r} is not a finite number, a short text, true or false")
    return tuple(sorted(pairs))
