"""Base units inside, readable units on paper: the one place where GiB, ms, kWh and % exist.

Everywhere else a quantity is in its base unit and its name ends with it (`used_bytes`, `elapsed_s`, `energy_j`,
`power_w`, `tokens_per_s`; a ratio is a plain number).
"""

from __future__ import annotations

import math

GIB = 1024**3
_BINARY = ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
_DECIMAL = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_MANY_JOULES = 1e4
_SMALL = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def significant(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits and no exponent.

    >>> significant(1234.5), significant(0.012345), significant(99.96), significant(0.0)
    ('1234', '0.0123', '100', '0')
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    if decimals and len(text.replace(".", "").lstrip("-0")) > digits:
        text = f"{value:.{decimals - 1}f}"
    return text


def bytes_text(value: float, digits: int = 3) -> str:
    """Write bytes in binary units.

    >>> bytes_text(1536), bytes_text(3 * 1024**3), bytes_text(12)
    ('1.50 KiB', '3.00 GiB', '12 B')
    """
    for size, name in _BINARY:
        if abs(value) >= size:
            return f"{significant(value / size, digits)} {name}"
    return f"{value:.0f} B"


def seconds_text(value: float, digits: int = 3) -> str:
    """Write a duration in s, ms, µs or ns; above two minutes in minutes or hours.

    >>> seconds_text(0.00123), seconds_text(75), seconds_text(600), seconds_text(9000)
    ('1.23 ms', '75.0 s', '10.0 min', '2.50 h')
    """
    if abs(value) >= 7200:
        return f"{significant(value / 3600, digits)} h"
    if abs(value) >= 120:
        return f"{significant(value / 60, digits)} min"
    return _small(value, "s", digits)


def percent_text(ratio: float, digits: int = 3) -> str:
    """Write a ratio as a percentage.

    >>> percent_text(0.1234), percent_text(1.0)
    ('12.3 %', '100 %')
    """
    return f"{significant(100 * ratio, digits)} %"


def count_text(value: float, digits: int = 3) -> str:
    """Write a count with a decimal prefix.

    >>> count_text(4_200_000), count_text(999)
    ('4.20 M', '999')
    """
    for size, name in _DECIMAL:
        if abs(value) >= size:
            return f"{significant(value / size, digits)} {name}"
    return significant(value, digits)


def quantity_text(value: float, unit: str, digits: int = 3) -> str:
    """Write `value`, given in the base `unit`, as a person reads it.

    Units: `bytes`, `s`, `j`, `w`, `ratio` (as %), `factor` (as ×), `count`, `bits/byte`, `flop/s`, `bytes/s`,
    `tokens/s`, `samples/s`, `j/token`, `error` (a relative one, as a power of ten), `setting` (a number as somebody set
    it) …; an unknown unit is written as it is.

    >>> quantity_text(0.5, "ratio"), quantity_text(2048, "bytes/s"), quantity_text(0.012, "j/token")
    ('50.0 %', '2.00 KiB/s', '12.0 mJ/token')
    >>> quantity_text(2.1, "bits/byte"), quantity_text(1.5, "factor"), quantity_text(12345, "tokens/s")
    ('2.10', '1.50×', '12.3 k/s')
    >>> quantity_text(0.00000123, "error"), quantity_text(19_900, "j"), quantity_text(0.0008, "setting")
    ('1.2e-06', '19.9 kJ', '0.0008')
    """
    head, _, per = unit.partition("/")
    tail = f"/{per}" if per else ""
    if unit in ("bits/byte", "perplexity", "nats/token", "score"):
        return significant(value, digits)
    if unit == "error":
        return f"{value:.1e}"
    if unit == "setting":
        return f"{value:g}"
    if unit == "ratio":
        return percent_text(value, digits)
    if unit == "factor":
        return f"{significant(value, digits)}×"
    if head == "bytes":
        return bytes_text(value, digits) + tail
    if unit == "s":
        return seconds_text(value, digits)
    if head == "j" and abs(value) >= _MANY_JOULES:
        return f"{count_text(value, digits)}J{tail}"
    if head in ("s", "j", "w"):
        return _small(value, head if head == "s" else head.upper(), digits) + tail
    if head in ("tokens", "samples"):
        return f"{count_text(value, digits)}{tail}"
    if head == "flop":
        return f"{count_text(value, digits)}{'' if abs(value) >= 1e3 else ' '}FLOP{tail}"
    return f"{count_text(value, digits)}" + ("" if unit == "count" else f" {unit}")


def _small(value: float, name: str, digits: int) -> str:
    for size, prefix in _SMALL:
        if abs(value) >= size:
            return f"{significant(value / size, digits)} {prefix}{name}"
    return f"{significant(value / 1e-9, digits)} n{name}" if value else f"0 {name}"
