"""Stores what was measured, and what can be said of it where that fails: a full disk ends a trial, not a study."""

from __future__ import annotations

import contextlib

import msgspec

from efficientllm.errors import ResultsError
from efficientllm.records.measurement import Measurement
from efficientllm.store.folder import Study


def store(study: Study, measurement: Measurement) -> Measurement:
    """Write a measurement and return what is told of its trial from now on.

    One that cannot be written whole has lost its evidence, so that its figures are worth nothing: it becomes `crashed`
    with the reason, and is written without its windows if there is room for that much. Otherwise nothing is stored, and
    the next run of the study measures the trial again, as after any crash.
    """
    try:
        study.write(measurement)
    except ResultsError as error:
        measurement = msgspec.structs.replace(
            measurement, outcome="crashed", reason=f"measured, but not stored: {error}", windows=(), cautions=()
        )
        with contextlib.suppress(ResultsError):  # no room for even that: what is returned says so all the same
            study.write(measurement)
    return measurement
