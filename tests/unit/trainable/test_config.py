"""Configurations: what is allowed, what is refused and with which words, and how trials are identified."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.made_up_inputs import try_inputs
from trainable.config import BRANCH_FIELDS, FIELDS, TrialConfig, cell_id, parse_override, trial_id

FIRST_FIELDS = (  # the others were added later, and count only where they are not at their default
    "dataset", "batch_size", "learning_rate", "seed", "epochs", "warmup_epochs", "width", "momentum", "weight_decay",
    "crop_padding", "flip_probability", "color_jitter", "train_limit", "test_limit", "validation_size", "log_every_steps",
    "instrument_every_steps", "noise_scale_every_epochs", "precision",
)  # fmt: skip


def test_the_published_trials_keep_their_ids() -> None:
    """As written down when there were no other fields."""
    assert trial_id(TrialConfig(), "a" * 64) == "0b13b0d905824437"
    assert cell_id(TrialConfig()) == "5609359e19"


def test_defaults_are_the_published_experiment_1() -> None:
    config = TrialConfig()
    assert (config.batch_size, config.learning_rate, config.epochs, config.width) == (64, 0.15, 25, 64)
    assert (config.momentum, config.weight_decay) == (0.9, 5e-4)
    assert (config.log_every_steps, config.instrument_every_steps) == (50, 100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widht=3", "did you mean width"),
        ("colour=red", "fields are dataset, image_size"),
        ("width", "is not field=value"),
        ("width=", "is not field=value"),
        ("=3", "is not field=value"),
        ("epochs=2.5", "is not a whole number >= 1"),
        ("epochs=true", "is not a whole number"),
        ("epochs=none", "is not a whole number"),
        ("learning_rate=nan", "is not a number > 0"),
        ("learning_rate=0", "is not a number > 0"),
        ("learning_rate=1e400", "is not a number > 0"),
        ("momentum=1", "is not a number >= 0 and < 1"),
        ("precision=fp8", "is not one of fp32, bf16"),
        ("optimizer=adam", "is not one of sgd, adamw"),
        ("nesterov=1", "is not true or false"),
        ("schedule=cos", "is not one of cosine, constant, step, linear"),
        ("step_factor=1", "is not a number > 0 and < 1"),
        ("train_limit=0", "is not a whole number >= 1 or none"),
        ("seed=2147483648", "is not a whole number >= 0 and <= 2147483647"),
    ],
)
def test_bad_overrides_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("+", r"\+")) as caught:
        parse_override(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("width=16", ("width", 16)),
        (" learning_rate = 1e-1 ", ("learning_rate", 0.1)),
        ("train_limit=none", ("train_limit", None)),
        ("epochs=3.0", ("epochs", 3)),
        ("dataset=synthetic", ("dataset", "synthetic")),
        ("nesterov=True", ("nesterov", True)),
    ],
)
def test_overrides_get_the_type_of_their_field(text: str, expected: tuple[str, object]) -> None:
    name, value = parse_override(text)
    assert (name, value) == expected
    assert type(value) is type(expected[1])


def test_a_limit_that_leaves_no_full_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no full batch"):
        TrialConfig(train_limit=100, validation_size=50, batch_size=64)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nesterov": True, "momentum": 0.0}, "nesterov=true needs a momentum above 0"),
        ({"engine": "graph", "optimizer": "adamw"}, "engine=graph knows SGD alone: optimizer=adamw needs eager"),
        ({"warmup_epochs": 25}, "leaves nothing of epochs=25 for the schedule"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrialConfig(**values)


def test_fields_without_effect_are_told() -> None:
    config = TrialConfig(optimizer="adamw", nesterov=True, step_factor=0.5, step_every_epochs=3, beta2=0.9)
    assert list(config.without_effect.values()) == [
        "nesterov=true changes nothing with optimizer=adamw",
        "step_every_epochs=3 changes nothing with schedule=cosine",
        "step_factor=0.5 changes nothing with schedule=cosine",
    ]
    assert list(TrialConfig(beta2=0.9).without_effect) == ["beta2"]
    assert TrialConfig(schedule="step", step_factor=0.5, nesterov=True).without_effect == {}


def test_ids_are_hashes_of_the_canonical_configuration() -> None:
    config = TrialConfig(seed=3)
    counted = {name: config.to_dict()[name] for name in FIRST_FIELDS}
    canonical = json.dumps({"config": counted, "data": "abc"}, sort_keys=True, separators=(",", ":"))
    assert trial_id(config, "abc") == hashlib.sha256(canonical.encode()).hexdigest()[:16]


def test_every_field_and_the_data_change_the_trial_and_only_the_seed_leaves_the_cell() -> None:
    plain, branch = TrialConfig(), TrialConfig(branch_epoch=1, branch_batch_size=64)
    other = {
        "branch_epoch": 2, "branch_batch_size": 128, "branch_scaling": "linear", "branch_images": 640,
        "schedule": "linear", "step_every_epochs": 3, "optimizer": "adamw", "nesterov": True,
        "dataset": "synthetic", "precision": "bf16", "train_limit": 1000, "test_limit": 1000, "engine": "graph",
        "model": "vit", "model_source": "0123",
    }  # fmt: skip
    for name in FIELDS:
        base = branch if name in BRANCH_FIELDS else plain  # which there are together only
        value = other.get(name, getattr(base, name) + 1 if isinstance(getattr(base, name), int) else 0.25)
        changed = TrialConfig.from_dict({**(base.to_dict() if base == branch else {}), name: value})
        assert trial_id(changed, "a") != trial_id(base, "a"), name
        assert (cell_id(changed) == cell_id(base)) == (name == "seed"), name
    assert trial_id(plain, "a") != trial_id(plain, "b")


def test_equal_numbers_of_different_type_are_the_same_trial() -> None:
    assert trial_id(TrialConfig(momentum=0), "a") == trial_id(TrialConfig(momentum=0.0), "a")
    assert trial_id(TrialConfig.from_dict({"batch_size": 64.0}), "a") == trial_id(TrialConfig(), "a")


def test_configuration_survives_json() -> None:
    config = TrialConfig(learning_rate=0.1 + 0.2, train_limit=777)
    assert TrialConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@try_inputs(500)
@given(st.text(max_size=40) | st.builds("{}={}".format, st.sampled_from(sorted(FIELDS)), st.text(max_size=20)))
def test_no_override_ends_in_anything_but_a_value_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        name, value = parse_override(text)
        assert name in FIELDS
        assert parse_override(f"{name}={value}") == (name, value)


def test_config_imports_neither_torch_nor_ray_nor_numpy() -> None:
    code = "import sys, trainable.config; print([m for m in ('torch', 'ray', 'numpy', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
