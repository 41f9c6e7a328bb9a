"""Records to bytes and back, with the schema's version."""

from __future__ import annotations

import msgspec

from efficientllm.errors import EfficientLLMError
from efficientllm.records.measurement import SCHEMA_VERSION, Measurement

_decoder = msgspec.json.Decoder(Measurement)


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
    try:
        measurement = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(str(error)) from error
    except EfficientLLMError as error:  # settings that no recipe could give: their own checks refuse them
        raise CodecError(f"settings that make no sense: {error}") from error
    if measurement.schema > SCHEMA_VERSION:
        raise CodecError(f"schema {measurement.schema} is newer than this software's {SCHEMA_VERSION}; update it")
    return measurement
