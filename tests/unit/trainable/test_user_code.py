"""Code of the user's: found beside the grid file, checked by its signature, hashed, and never taken from a study folder."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trainable.config import TrialConfig, trial_id
from trainable.model import build_network
from trainable.models import complete_config
from trainable.user_code import (
    UserCodeError,
    provide,
    provided,
    read_sources,
    resolve,
    source_hash,
    user_lines_told,
)

NET = """
import torch
from torch import nn

def build(num_classes, input_shape, *, depth: int = 1, rate=0.5, bias=True):
    size = torch.Size(input_shape).numel()
    return nn.Sequential(nn.Flatten(), *(nn.Linear(size, size) for _ in range(depth)), nn.Linear(size, num_classes, bias=bias))
"""
_numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path) -> Iterator[str]:
    """The name of a module in tmp_path that no other test has imported."""
    name = f"net{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text(NET)
    yield name
    sys.modules.pop(name, None)


def _complete(folder: Path, **fields: object) -> TrialConfig:
    return complete_config(TrialConfig.from_dict({"width": 64, **fields}), (folder,))


def test_a_network_of_the_users_is_built_from_the_text_that_was_read(tmp_path: Path, module: str) -> None:
    config = _complete(tmp_path, model=f"{module}:build", **{"model_fields.depth": 2})
    assert dict(config.model_fields) == {"depth": 2, "rate": 0.5, "bias": True}
    (tmp_path / f"{module}.py").unlink()
    before = torch.random.get_rng_state()
    first, again = (build_network(config, 10, (3, 4, 4)) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert [len(p) for p in first.parameters()] == [48, 48, 48, 48, 10, 10]
    assert all(map(torch.equal, first.parameters(), again.parameters()))


def test_source_and_fields_are_part_of_the_id_and_the_published_network_has_neither(
    tmp_path: Path, module: str
) -> None:
    plain = _complete(tmp_path, model=f"{module}:build")
    assert _complete(tmp_path, model=f"{module}:build", **{"model_fields.rate": 0.5}) == plain
    assert _complete(tmp_path, model=f"{module}:build", **{"model_fields.rate": 1}) != plain
    (tmp_path / f"{module}.py").write_text(NET + "\n# another source")
    changed = _complete(tmp_path, model=f"{module}:build")
    assert trial_id(changed, "data") != trial_id(plain, "data")
    assert trial_id(TrialConfig(), "data") == trial_id(_complete(tmp_path, model="resnet18"), "data")
    with pytest.raises(ValueError, match=f"its source is {changed.model_source} here, not {plain.model_source}"):
        build_network(plain, 10, (3, 4, 4))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_fields.dept": 2}, "model_fields.dept: NET:build has no field 'dept'; did you mean depth?"),
        ({"model_fields.depth": "two"}, "model_fields.depth='two' is not a whole number, which NET:build takes"),
        ({"model_fields.bias": 1}, "model_fields.bias=1 is not true or false"),
        ({"width": 32}, "width=32: NET:build has no parameter width"),
        ({"model": "NET:built"}, "NET:built: NET has no function built; did you mean build?"),
        ({"model": "no_such_module_here:build"}, "there is no module no_such_module_here beside the grid file"),
        ({"model": "resnet81"}, "did you mean resnet18?"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    tmp_path: Path, module: str, fields: dict[str, object], said: str
) -> None:
    asked = {"model": "NET:build", **fields}
    asked["model"] = str(asked["model"]).replace("NET", module)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says is looked at below
        _complete(tmp_path, **asked)
    assert said.replace("NET", module) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_name_the_users_own_line(tmp_path: Path, module: str) -> None:
    file = tmp_path / f"{module}.py"
    file.write_text("def build(num_classes, input_shape):\n    raise RuntimeError('on purpose')\n")
    provide(read_sources(f"{module}:build", [tmp_path]))
    file.unlink()  # as on another machine
    with pytest.raises(UserCodeError) as caught, user_lines_told():
        resolve(f"{module}:build")(10, (3, 4, 4))
    assert str(caught.value) == f"{file}:2 (raise RuntimeError('on purpose')): RuntimeError: on purpose"
    file.write_text("import torch\nimport no_such_package_here\n")
    with pytest.raises(UserCodeError, match=f"{file}:2 .*only the file that is named travels"):
        _complete(tmp_path, model=f"{module}:build")
    file.write_text("def build(:\n")
    with pytest.raises(UserCodeError, match=f"{file}:1: SyntaxError"):
        _complete(tmp_path, model=f"{module}:build")


def test_nothing_is_imported_from_a_study_folder(tmp_path: Path, module: str) -> None:
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(UserCodeError, match="lies in a study folder"):
        read_sources(f"{module}:build", [tmp_path])
    (tmp_path / "report").mkdir()
    (tmp_path / f"{module}.py").rename(tmp_path / "report" / f"{module}.py")
    with pytest.raises(UserCodeError, match="lies in a study folder"):
        read_sources(f"{module}:build", [tmp_path / "report"])


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    for name in ("random", "torch"):
        (tmp_path / f"{name}.py").write_text(NET)
        with pytest.raises(UserCodeError, match=f"another module is called {name}"):
            read_sources(f"{name}:build", [tmp_path])


def test_a_module_in_a_package_is_hashed_with_its_packages(tmp_path: Path) -> None:
    package = tmp_path / f"package{next(_numbers)}"
    package.mkdir()
    (package / "net.py").write_text(NET)
    reference = f"{package.name}.net:build"
    provide(read_sources(reference, [tmp_path]))
    bare = source_hash(reference)
    assert {source.module for source in provided()} >= {package.name, f"{package.name}.net"}
    (package / "__init__.py").write_text("SCALE = 2\n")
    provide(read_sources(reference, [tmp_path]))
    assert source_hash(reference) != bare
    assert len(source_hash("torch.optim.sgd:SGD")) == 16  # an installed one
