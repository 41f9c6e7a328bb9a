"""Measure, on your own hardware, which efficiency technique of language models to use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efficientllm.api.load import load
    from efficientllm.api.measure import measure
    from efficientllm.api.run import run
    from efficientllm.api.trainer import MeasureCallback

__version__ = "0.1.0"
__all__ = ["MeasureCallback", "__version__", "load", "measure", "run"]

#: Public name -> the module that holds it; loaded at its first use, so that importing the package costs nothing.
_HOMES = {"load": "api.load", "measure": "api.measure", "run": "api.run", "MeasureCallback": "api.trainer"}


def __getattr__(name: str) -> Any:
    """Load a public name where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'efficientllm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"efficientllm.{_HOMES[name]}"), name)
