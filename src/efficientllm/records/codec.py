"""Records to bytes and back, with the schema's version."""

from __future__ import annotations

import msgspec

from efficientllm.records.measurement import SCHEMA_VERSION, Measurement
from efficientllm.records.series import Series
from efficientllm.records.window import Window


class _WindowOutline(Window, frozen=True, kw_only=True, rename={"series": "(passed over)"}):
    """A window as it is stored, but for its series: their key is one that it does not know, and is passed over."""

    series: tuple[Series, ...] = ()


class _Outline(Measurement, frozen=True, kw_only=True):
    windows: tuple[_WindowOutline, ...] = ()


_decoder = msgspec.json.Decoder(Measurement)
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


def _decoded(decoder: msgspec.json.Decoder[Measurement] | msgspec.json.Decoder[_Outline], data: bytes) -> Measurement:
    try:
        measurement = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CodecError(str(error)) from error
    if measurement.schema > SCHEMA_VERSION:
        raise CodecError(f"schema {measurement.schema} is newer than this software's {SCHEMA_VERSION}; update it")
    return measurement
