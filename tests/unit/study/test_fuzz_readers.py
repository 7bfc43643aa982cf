"""Everything that reads what a person or a foreign study folder may hand in, with thousands of made-up inputs: accepted,
or refused with the one error that the command lines print as a line; never anything else.

Most inputs are valid content in which a few values, names or characters were replaced: pure noise would be refused at the
first character and test nothing behind it.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import random
import tomllib
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.claims.claim import ClaimsError
from analysis.claims.claims_file import parse_claims
from analysis.records.study_folder import StudyFolderError
from analysis.records.study_json import StudyInfo, parse_study, read_json
from study.folder.study_record import extend_study, find_changes
from study.spec.errors import SpecError
from study.spec.grid_file import list_grids, parse_grid, parse_seeds
from study.spec.study_spec import build_spec
from study.storage.folder_lock import LOCK_FILE, FolderLock
from study.storage.study_lock import StudyLockedError
from tests.support.made_up_inputs import try_inputs
from tests.support.studies import build_cell, build_study
from trainable.config import FIELDS, TrialConfig, parse_override
from trainable.records.checkpoint import Checkpoint
from trainable.records.tables import TrialRecords, build_table
from trainable.records.trial_state import TrialState, TrialStateError, read_state, write_state

STUDY = build_study(
    [build_cell("a", batch_size=64), replace(build_cell("b", batch_size=128), published={"gap": 0.1})], (0, 1), 50_000, {},
    {"attempts": ({"started_at": "then", "command": ["a"]},), "accepted_changes": ({"at": "then", "changes": []},)},
)  # fmt: skip
ASKED = build_study([build_cell("a", batch_size=64)], (0, 5), 50_000, {}, {})
GRIDS = [(resources.files("study.grids") / f"{name}.toml").read_text() for name in list_grids()]
CLAIMS = (resources.files("analysis.claims") / "worksheet.toml").read_text()
_PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from([0, -1, 2**31, 2**63, 2**200, 1e308, 1e-320, "", "..", "/", "\0", "nan", "NaN", 10**400, math.nan, -math.inf])
)  # fmt: skip
JSON = st.recursive(
    _PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
CHANGES = st.lists(st.tuples(st.randoms(use_true_random=False), JSON), min_size=1, max_size=3)


def change(content: Any, where: random.Random, value: Any) -> None:
    """Replace, remove or add one value somewhere in nested dicts and lists."""
    while True:
        if isinstance(content, dict):
            if not content or where.random() < 0.05:
                content[str(value)[:20]] = value
                return
            key: Any = where.choice(list(content))
        elif content:
            key = where.randrange(len(content))
        else:
            return
        if isinstance(content[key], (dict, list)) and content[key] and where.random() < 0.8:
            content = content[key]
            continue
        if where.random() < 0.2:
            del content[key]
        else:
            content[key] = value
        return


def changed(content: Any, changes: list[tuple[random.Random, Any]]) -> Any:
    """A copy with some values replaced."""
    content = copy.deepcopy(content)
    for where, value in changes:
        change(content, where, value)
    return content


@try_inputs(3000)
@given(CHANGES)
def test_study_json(changes: list[tuple[random.Random, Any]]) -> None:
    content = changed(json.loads(STUDY.to_json()), changes)
    try:
        study = parse_study(content, Path("study.json"))
    except StudyFolderError as error:
        message = str(error)
    else:
        message = "study.json: accepted"
        fields = set(FIELDS) - {"seed"}
        assert set(study.factors) <= fields
        assert all(fields <= set(cell.config) for cell in study.cells)
        find_changes(study, ASKED)
        extended = extend_study(study, ASKED, accept_changes=True)
        written = json.loads(extended.to_json())
        assert isinstance(parse_study(written, Path("study.json")), StudyInfo), "what is written can be read again"
    assert message.startswith("study.json: ")
    assert "\n" not in message


@try_inputs(1000)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode) | JSON.map(lambda v: json.dumps(v).encode()))
def test_study_json_of_any_content(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = made_folder(tmp_path_factory) / "study.json"
    path.write_bytes(content)
    with pytest.raises(StudyFolderError):
        parse_study(read_json(path), path)


@try_inputs(2000)
@given(changes=CHANGES, keep_id=st.booleans())
def test_trial_json(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[random.Random, Any]], keep_id: bool
) -> None:
    folder = made_folder(tmp_path_factory)
    state = TrialState(
        config=TrialConfig(), data_fingerprint="d", status="failed", reason="why", failures=("why",), attempts=1,
        hardware="cpu", num_threads=1, gpu_share=0.5, gpu_ids="0,1", timing_exclusive=True, wall_time_s=1.5,
    )  # fmt: skip
    content = changed({"trial_id": state.trial_id, **asdict(state)}, changes)
    with contextlib.suppress(Exception):  # so that more than the check of the id is reached
        if keep_id:
            values = {**content, "config": TrialConfig.from_dict(content["config"])}
            content["trial_id"] = TrialState(values["config"], values["data_fingerprint"]).trial_id
    (folder / "trial.json").write_text(json.dumps(content))
    try:
        read = read_state(folder)
    except TrialStateError:
        return
    assert read is not None
    build_table("trials", [read.to_row()])
    write_state(folder, read)
    assert read_state(folder) == read


@try_inputs(2000)
@given(st.text(max_size=40) | st.tuples(st.sampled_from([*FIELDS, "widht", ""]), JSON).map(lambda p: f"{p[0]}={p[1]}"))
def test_overrides(text: str) -> None:
    try:
        name, value = parse_override(text)
    except ValueError:
        return
    assert name in FIELDS
    with contextlib.suppress(ValueError):
        TrialConfig.from_dict({name: value})


@try_inputs(500)
@given(st.text(max_size=20) | st.lists(st.integers(), max_size=4).map(lambda seeds: ",".join(map(str, seeds))))
def test_seeds(text: str) -> None:
    with contextlib.suppress(SpecError):
        assert all(0 <= seed < 2**31 for seed in parse_seeds(text))


@try_inputs(1500)
@given(st.sampled_from(GRIDS), CHANGES)
def test_grid_files(text: str, changes: list[tuple[random.Random, Any]]) -> None:
    with contextlib.suppress(SpecError):
        build_spec(parse_grid(write_toml(changed(tomllib.loads(text), changes)), "grid.toml")).trial_configs()


@try_inputs(500)
@given(st.sampled_from(GRIDS), st.integers(0, 2000), st.text(max_size=6), st.integers(0, 20))
def test_grid_files_with_other_characters(text: str, place: int, new: str, cut: int) -> None:
    with contextlib.suppress(SpecError):
        build_spec(parse_grid(text[:place] + new + text[place + cut :], "grid.toml"))


@try_inputs(500)
@given(CHANGES)
def test_claims_files(changes: list[tuple[random.Random, Any]]) -> None:
    content = tomllib.loads(CLAIMS)
    content["claim"] = content["claim"][:3]
    with contextlib.suppress(ClaimsError):
        parse_claims(write_toml(changed(content, changes)).encode(errors="surrogatepass"), "claims.toml")


@try_inputs(500)
@given(st.integers(0, 5000), st.binary(max_size=6), st.integers(0, 20))
def test_claims_files_with_other_characters(place: int, new: bytes, cut: int) -> None:
    text = CLAIMS[:5000].encode()
    with contextlib.suppress(ClaimsError):
        parse_claims(text[:place] + new + text[place + cut :], "claims.toml")


@try_inputs(300)
@given(CHANGES)
def test_the_lock_of_another_driver(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[random.Random, Any]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "lock"
    with FolderLock(folder):
        content = json.loads((folder / LOCK_FILE).read_text())
    folder.mkdir(exist_ok=True)
    (folder / LOCK_FILE).write_text(json.dumps(changed(content, changes)))
    with contextlib.suppress(StudyLockedError), FolderLock(folder):
        pass
    (folder / LOCK_FILE).unlink(missing_ok=True)


def made_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all inputs, of which hypothesis makes thousands; nobody else's, as the base of all tests' folders would be."""
    folder = tmp_path_factory.getbasetemp() / "made-up-files"
    folder.mkdir(exist_ok=True)
    return folder


def small_checkpoint() -> bytes:
    """A whole checkpoint of a model of one tensor."""
    import torch

    epochs = build_table("epochs", [{"trial_id": "t", "epoch": 1, "train_loss": 0.5}])
    records = TrialRecords(epochs, TrialRecords.empty().steps, TrialRecords.empty().layers)
    return Checkpoint(TrialConfig(), "d", 1, {"w": torch.zeros(3)}, {"state": {}}, records).to_bytes()


CHECKPOINT = small_checkpoint()


@try_inputs(700)
@given(
    st.lists(st.tuples(st.integers(0, len(CHECKPOINT) - 1), st.binary(max_size=4)), min_size=1, max_size=4),
    st.booleans(),
)
def test_checkpoints(changes: list[tuple[int, bytes]], cut: bool) -> None:
    """The digest in the name is the attacker's to choose, so the content has to be refused by itself."""
    content = bytearray(CHECKPOINT)
    for place, new in changes:
        content[place : place + len(new)] = new
    whole = bytes(content[: changes[0][0]] if cut else content)
    with contextlib.suppress(ValueError):
        read = Checkpoint.from_bytes(whole)
        assert hashlib.sha256(read.to_bytes()).digest()
        assert isinstance(read.diverged, bool)


def write_toml(content: dict[str, Any]) -> str:
    """Nested dicts as TOML of inline values; what TOML cannot say becomes text that is none, which is a case too."""
    return "\n".join(f"{json.dumps(str(key))} = {_inline(value)}" for key, value in content.items())


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(inner) for inner in value) + "]"
    return json.dumps(value) if isinstance(value, (bool, str)) else repr(value)
