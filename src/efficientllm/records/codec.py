"""Records to bytes and back, with the schema's version."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec

from efficientllm.errors import EfficientLLMError
from efficientllm.records.measurement import SCHEMA_VERSION, Measurement
from efficientllm.records.series import Series
from efficientllm.records.window import Window


class _WindowOutline(Window, frozen=True, kw_only=True, rename={"series": "(passed over)"}):
    """A window as it is stored, but for its series: their key is one that it does not know, and is passed over."""

    series: tuple[Series, ...] = ()


class _CompactSeries(Series, frozen=True, kw_only=True):
    """A series whose numbers stand in arrays: a quarter of the memory of tuples, indexed and sliced like them."""

    at_s: array  # type: ignore[assignment, type-arg]
    values: array  # type: ignore[assignment, type-arg]


class _CompactWindow(Window, frozen=True, kw_only=True):
    series: tuple[_CompactSeries, ...] = ()


class _Compact(Measurement, frozen=True, kw_only=True):
    windows: tuple[_CompactWindow, ...] = ()


class _Outline(Measurement, frozen=True, kw_only=True):
    windows: tuple[_WindowOutline, ...] = ()


def _compacted(kind: type, numbers: Any) -> Any:
    """Put a list of numbers into an array, refusing what a tuple of numbers would be refused for."""
    if not isinstance(numbers, list) or not set(map(type, numbers)) <= {float, int}:
        raise ValueError("Expected `array` of `float`")
    return kind("d", numbers)


_decoder = msgspec.json.Decoder(Measurement)
_compact_decoder = msgspec.json.Decoder(_Compact, dec_hook=_compacted)
_outline_decoder = msgspec.json.Decoder(_Outline)


class CodecError(ValueError):
    """Bytes that are no measurement of a schema that this version knows."""


def encode(measurement: Measurement) -> bytes:
    """Write a measurement as JSON, the same bytes for the same record."""
    return msgspec.json.encode(measurement, order="deterministic")


def decode(data: bytes) -> Measurement:
    """Read a measurement.

    Raises:
        CodecError: not JSON, a field of the wrong type (with its path), or a schema newer than this software.
    """
    return _decoded(_decoder, data)


def decode_outline(data: bytes) -> Measurement:
    """Read a measurement without its series, three times as fast: enough to sort records, not to make metrics of.

    All of the text is parsed and all fields but the series are checked, as `decode` does.

    Raises:
        CodecError: as `decode`, but for a series' own fields.

    >>> from efficientllm.records.examples import example_measurement
    >>> [window.series for window in decode_outline(encode(example_measurement())).windows]
    [()]
    """
    return _decoded(_outline_decoder, data)


def decode_compact(data: bytes) -> Measurement:
    """Read a measurement whose series stand in arrays of doubles, for many measurements in memory at once.

    All that only reads them (length, index, slice, sums) finds the same numbers; it cannot be encoded again.

    Raises:
        CodecError: as `decode`.

    >>> from efficientllm.records.examples import example_measurement
    >>> decode_compact(encode(example_measurement(step_s=(0.5, 0.25)))).windows[0].series[0].values
    array('d', [0.5, 0.25])
    """
    return _decoded(_compact_decoder, data)


def _decoded(decoder: msgspec.json.Decoder[Any], data: bytes) -> Measurement:
    try:
        measurement: Measurement = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(str(error)) from error
    except EfficientLLMError as error:  # settings that no recipe could give: their own checks refuse them
        raise CodecError(f"settings that make no sense: {error}") from error
    if measurement.schema > SCHEMA_VERSION:
        raise CodecError(f"schema {measurement.schema} is newer than this software's {SCHEMA_VERSION}; update it")
    return measurement
