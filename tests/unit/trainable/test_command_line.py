"""`python -m trainable` on a machine with a GPU, as far as that can be seen without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.images import make_image_data
from trainable import trial
from trainable.__main__ import main
from trainable.config import TrialConfig
from trainable.data import data_set as data
from trainable.records.trial_state import TrialState
from trainable.trial import Placement


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says that it sees one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def test_a_gpu_that_is_not_there_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda:99"]) == 2
    assert capsys.readouterr().err == "error: --device cuda:99: the last that torch sees here is cuda:0\n"


@pytest.mark.parametrize(("device", "share", "ids"), [("cuda", 1.0, "3"), ("cuda:0", 1.0, "3"), ("cpu", 0.0, None)])
def test_the_records_say_whether_the_trial_had_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, share: float, ids: str | None
) -> None:
    placements: list[Placement] = []

    def keep(config: TrialConfig, _data: object, _folder: Path, placement: Placement, **_: object) -> TrialState:
        placements.append(placement)
        return TrialState(config, "data", status="completed")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr(trial, "run_trial", keep)
    monkeypatch.setattr(data, "load_data", lambda *_, **__: make_image_data())
    assert main(["--device", device, "--threads", "1", "--out", str(tmp_path)]) == 0
    assert placements == [Placement(device, num_threads=1, gpu_share=share, gpu_ids=ids)]
