"""What a training says step by step, kept in order, so that a run that goes on can say it again."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from efficientllm.training.tensor_file import read_tensors


class CurveLog:
    """Values of several series in the order in which they were said, ten bytes each.

    Attributes:
        series: name and unit of each.
    """

    def __init__(self) -> None:
        self.series: tuple[tuple[str, str], ...] = ()
        self._numbers: dict[tuple[str, str], int] = {}
        self._which, self._values = array("h"), array("d")

    def add(self, name: str, unit: str, value: float) -> None:
        """Take down a value."""
        number = self._numbers.get((name, unit))
        if number is None:
            number = self._numbers[name, unit] = len(self.series)
            self.series = (*self.series, (name, unit))
        self._which.append(number)
        self._values.append(value)

    def __iter__(self) -> Iterator[tuple[str, str, float]]:
        """Yield name, unit and value in the order in which they were added."""
        for number, value in zip(self._which, self._values, strict=True):
            yield (*self.series[number], value)

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it as tensors."""
        return {
            "which": torch.from_numpy(np.array(self._which, dtype=np.int16)),
            "values": torch.from_numpy(np.array(self._values, dtype=np.float64)),
        }

    def load(self, path: Path, series: tuple[tuple[str, str], ...]) -> None:
        """Take over what another log held."""
        tensors = dict(read_tensors(path))
        self.series = series
        self._numbers = {of: number for number, of in enumerate(series)}
        self._which = array("h", tensors["which"].tolist())
        self._values = array("d", tensors["values"].tolist())
