"""CMA-ES in Optuna keeps its state as a pickle in the journal, and a study folder may come from someone else.

Before a journal is used with that sampler every stored state is read here by an unpickler that knows the few names such a
state is made of and refuses all others, so nothing else is ever executed.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import optuna

from analysis.records.study_folder import StudyFolderError

_KNOWN = {
    ("cmaes._cma", "CMA"),
    ("cmaes", "CMA"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.random._pickle", "__randomstate_ctor"),
    ("numpy.random._pickle", "__bit_generator_ctor"),
    ("numpy.random._mt19937", "MT19937"),
    ("_codecs", "encode"),
}


class _KnownNames(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def check_stored_optimizers(study: optuna.Study, path: Path) -> None:
    """Refuse a journal with a stored state that is something else. Errors: StudyFolderError."""
    for trial in study.get_trials(deepcopy=False):
        parts = {key: value for key, value in trial.system_attrs.items() if "optimizer" in key}
        if not parts:
            continue
        try:
            ordered = sorted(parts, key=lambda key: int(key.rpartition(":")[2]))
            _KnownNames(io.BytesIO(bytes.fromhex("".join(parts[key] for key in ordered)))).load()
        except Exception as error:  # noqa: BLE001 - a hostile pickle may raise anything
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise StudyFolderError(
                f"{path}: the sampler's state in trial {trial.number} is not one of CMA-ES ({reason}); remove the journal"
            ) from None
