"""Every trial is trained to its end."""

from __future__ import annotations

from study.spec.pruners import Pruner

PRUNER = Pruner(name="none", meaning="every trial is trained to its end", build=None)
