"""What a served model's next-token distributions are compared with: the precision of the recipe's baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from efficientllm.records.choice import Choice

_AXIS = "precision"


def reference_precision(baseline: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> Any:
    """Return the value of the axis `precision` that the baseline names, or None where it names none.

    >>> reference_precision({"precision": "bf16"}, {"precision": ("bf16", {"name": "int4", "group": 64})})
    'bf16'
    """
    wanted = baseline.get(_AXIS)
    return next((value for value in axes.get(_AXIS, ()) if value is not None and _label(value) == str(wanted)), None)


def _label(value: Any) -> str:
    if isinstance(value, dict):
        options = {key: option for key, option in value.items() if key != "name"}
        return Choice(name=str(value.get("name")), options=options).label()
    return str(value)
