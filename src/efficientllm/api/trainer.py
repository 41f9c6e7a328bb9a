"""`efficientllm.MeasureCallback`: measures the optimiser steps of a `transformers.Trainer`."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from efficientllm.api.measure import MeasuredLoop, measure


class MeasureCallback(TrainerCallback):  # type: ignore[misc] # transformers is not typed here
    """Give it to a Trainer; its arguments are those of `efficientllm.measure`.

        callback = efficientllm.MeasureCallback("my model", tokens=8 * 1024, flops=6 * parameters * 8 * 1024)
        Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
        print(callback.measured)

    A step is an optimiser step, from the end of the one before: data loading, logging and callbacks are part of it, as
    they are for whoever waits for the training. Evaluation and saving fall into the step that follows them.

    Attributes:
        measured: the measured loop, once training has begun.
    """

    def __init__(self, name: str, **arguments: Any) -> None:
        self._arguments = (name, arguments)
        self.measured: MeasuredLoop | None = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the meters."""
        name, arguments = self._arguments
        self.measured = measure(name, **arguments)
        self.measured.__enter__()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """End an optimiser step."""
        if self.measured is not None:
            self.measured.step()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Judge and store."""
        if self.measured is not None:
            self.measured.__exit__(None, None, None)
