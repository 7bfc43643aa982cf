"""The command lines as a user types them: bad input is one clear line, status 2 and nothing written; one trial without Ray."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import tomllib
from importlib import resources
from pathlib import Path

import pytest

import study.run
import trainable.__main__
from study.__main__ import COMMANDS
from tests.support.data_folders import write_shards

pytestmark = pytest.mark.end_to_end
REPOSITORY = Path(__file__).parents[2]
TINY = (
    "--set",
    "dataset=synthetic",
    "--set",
    "width=1",
    "--epochs",
    "2",
    "--set",
    "train_limit=64",
    "--set",
    "test_limit=10",
)


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(folder / "cache"), **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "empty").mkdir()
    (folder / "file").write_text("no folder")
    (folder / "bad.toml").write_text('name = "bad"\n[grid]\nbatch_size = [0]\n')
    (folder / "broken.toml").write_text("name = [")
    write_shards(folder / "truncated")
    shard = next((folder / "truncated").glob("train-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:100])
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "papr"], "no grid named 'papr': did you mean paper?"),
        (["--grid", "missing.toml"], "grid file missing.toml: No such file or directory"),
        (["--grid", "broken.toml"], "grid file broken.toml: "),
        (["--grid", "bad.toml"], "batch_size=0 is not a whole number >= 1"),
        (["--grid", "demo", "--set", "widht=8"], "unknown field 'widht': did you mean width?"),
        (["--grid", "demo", "--set", "width=0"], "width=0 is not a whole number >= 1"),
        (["--grid", "demo", "--set", "batch_size=8"], "the grid studies batch_size itself"),
        (["--grid", "demo", "--set", "train_limit=99999"], "train_limit"),
        (["--grid", "demo", "--set", "test_limit=99999"], "test_limit"),
        (["--grid", "demo", "--epochs", "many"], "epochs='many' is not a whole number"),
        (["--grid", "demo", "--seeds", "0"], "--seeds '0'"),
        (["--grid", "demo", "--name", "../out"], "study name '../out'"),
        (["--grid", "demo", "--gpus-per-trial", "99"], "--gpus-per-trial 99: "),
        (["--grid", "demo", "--max-concurrent", "0"], "--max-concurrent 0"),
        (["--grid", "demo", "--calibrate", "--address", "127.0.0.1:1"], "--calibrate times this machine"),
        (["--grid", "demo", "--results", "file"], "--results file: "),
        (["--grid", "demo", "--results", "/proc/results"], "--results /proc/results: "),
        (["--grid", "paper", "--data", "nowhere"], "nowhere"),
        (["--grid", "paper", "--data", "empty"], "empty"),
        (["--grid", "paper", "--data", "truncated"], "train-"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_written(
    workplace: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
    before = files_in(workplace)
    assert study.run.main(arguments) == 2
    check_error(capfd.readouterr().err, message)
    assert files_in(workplace) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "study.run", "--grid", "papr"], "no grid named 'papr': did you mean paper?"),
        (["-m", "study.run", "--grid", "demo", "--results", "/proc/results"], "--results /proc/results: "),
        (["-m", "study.run", "--grid", "paper", "--data", "truncated"], "train-"),
        (["-m", "trainable", "--data", "truncated"], "train-"),
    ],
)
def test_a_process_says_no_more_than_that_line(workplace: Path, arguments: list[str], message: str) -> None:
    """Early, late, and after the data was looked at: nothing of an import or of the interpreter's end stands beside it."""
    before = files_in(workplace)
    done = run(workplace, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    check_error(done.stderr, message)
    assert files_in(workplace) == before


def files_in(workplace: Path) -> list[Path]:
    return sorted(path for path in workplace.rglob("*") if "cache" not in path.parts)


def check_error(said: str, message: str) -> None:
    """One line, which is the message."""
    lines = said.splitlines()
    assert len(lines) == 1, said
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_a_plan_runs_nothing(workplace: Path) -> None:
    done = run(
        workplace, "-m", "study.run", "--grid", "factorial", "--set", "dataset=synthetic", "--plan", "--seeds", "3"
    )
    assert done.returncode == 0, done.stderr
    assert "4 cells x 3 seeds" in done.stdout
    assert "12 trials" in done.stdout
    assert not (workplace / "results").exists()


def test_a_grid_is_read_once(workplace: Path) -> None:
    """From a pipe that has one reader, as of a shell's <(...): what is planned cannot differ from what was checked."""
    pipe = workplace / "pipe.toml"
    os.mkfifo(pipe)
    text = resources.files("study.grids").joinpath("demo.toml").read_text()
    writer = threading.Thread(target=pipe.write_text, args=(text,), daemon=True)
    writer.start()
    done = run(workplace, "-m", "study.run", "--grid", str(pipe), "--plan")
    assert done.returncode == 0, done.stderr
    writer.join(10)
    assert "demo" in done.stdout


def test_one_trial_without_ray(workplace: Path) -> None:
    """`trainable` must run where Ray, Optuna and wandb are not installed: here they cannot be imported."""
    blocked = "import sys, runpy; sys.modules.update(dict.fromkeys(['ray', 'optuna', 'wandb', 'fvcore']));"
    program = f"{blocked} sys.argv = ['trainable', *sys.argv[1:]]; runpy.run_module('trainable', run_name='__main__')"
    done = run(workplace, "-c", program, *TINY, "--threads", "1")
    assert done.returncode == 0, done.stderr
    epochs = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert len(epochs) == 2
    assert all("train" in line and "test" in line and "images/s" in line for line in epochs)


def test_one_trial_keeps_its_folder_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*TINY, "--threads", "1", "--out", str(tmp_path / "kept")]
    assert trainable.__main__.main(command) == 0
    assert "completed" in capsys.readouterr().out
    assert trainable.__main__.main(command) == 0
    assert "epoch" not in capsys.readouterr().out.replace("epochs", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "widht=8"], "did you mean width?"),
        (["--epochs", "many"], "epochs='many' is not a whole number"),
        (["--data", "nowhere"], "nowhere"),
        (["--device", "tpu9"], "--device tpu9"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--threads", "0"], "--threads 0"),
    ],
)
def test_one_trial_with_bad_input(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert trainable.__main__.main(arguments) == 2
    check_error(capfd.readouterr().err, message)


def study_script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the script `study` does that an installation leaves in bin/, by the entry point of pyproject.toml."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["study"].partition(":")
    program = f"import sys; from {module} import {function}; sys.argv[0] = '/venv/bin/study'; sys.exit({function}())"
    return run(folder, "-c", program, *arguments)


def test_study_lists_its_commands_without_importing_them(workplace: Path) -> None:
    done = study_script(workplace, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: study COMMAND")
    assert all(f"\n  {name}  " in re.sub(" {2,}", "  ", done.stdout) for name in COMMANDS)
    assert len(done.stdout.splitlines()) == len(COMMANDS) + 5
    loaded = run(workplace, "-X", "importtime", "-m", "study", "--help").stderr
    assert "difflib" in loaded
    assert not re.search(r"\b(argparse|numpy|torch|ray|pandas)\b", loaded)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_of_study_is_called_as_the_user_called_it(workplace: Path, command: str) -> None:
    done = study_script(workplace, command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: study {command} [-h]")
    assert "python -m study" not in done.stdout


def test_study_runs_as_a_module_too(workplace: Path) -> None:
    assert run(workplace, "-m", "study", "run", "--help").stdout.startswith("usage: python -m study run [-h]")
    assert run(workplace, "-m", "study.run", "--help").stdout.startswith("usage: python -m study.run [-h]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["statsu"], "no command 'statsu': did you mean status?"),
        (["qqq"], "no command 'qqq': there are run, serve, submit, status"),
        ([], "no command given: there are run, serve, submit, status"),
        (["run", "--grid", "papr"], "did you mean paper?"),
        (["report", "nowhere"], "nowhere"),
        (["compare", "nowhere", "nowhere"], "nowhere"),
        (["sync", "nowhere"], "nowhere"),
    ],
)
def test_study_with_bad_input(workplace: Path, arguments: list[str], message: str) -> None:
    done = study_script(workplace, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr
