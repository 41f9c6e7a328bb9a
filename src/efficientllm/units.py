"""Base units inside, readable units on paper: the one place where GiB, ms, kWh and % exist.

Everywhere else a quantity is in its base unit and its name ends with it (`used_bytes`, `elapsed_s`, `energy_j`,
`power_w`, `tokens_per_s`; a ratio is a plain number).
"""

from __future__ import annotations

import math
import re

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


def parse_quantity(text: str, unit: str) -> float:
    """Read what a person writes of a quantity whose base unit is `unit`; a bare number is in the base unit.

    Raises:
        ValueError: no number, or a unit that is not one of this quantity; the message names those that are.

    >>> parse_quantity("24GiB", "bytes") == 24 * GIB, parse_quantity("30 ms", "s"), parse_quantity("5 %", "ratio")
    (True, 0.03, 0.05)
    >>> parse_quantity("12.5k", "tokens/s"), parse_quantity("3 mJ", "j/token"), parse_quantity("2.1", "bits/byte")
    (12500.0, 0.003, 2.1)
    """
    number = re.match(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)", text)
    if number is None:
        raise ValueError(f"{text!r} begins with no number")
    word = text[number.end() :].strip()
    sizes = _sizes_of(unit)
    if word not in sizes:
        known = ", ".join(name for name in sizes if name) or "none"
        raise ValueError(f"{text!r}: {word!r} is no unit of it; known: {known}")
    return float(number.group(1)) * sizes[word]


def _sizes_of(unit: str) -> dict[str, float]:
    """Return how large each unit is in which a quantity can be written, in its base unit."""
    head, slash, per = unit.partition("/")
    if unit in ("bits/byte", "perplexity", "nats/token", "score", "error", "setting"):
        return {"": 1.0, unit: 1.0}
    if head == "ratio":
        return {"": 1.0, "%": 0.01}
    if head == "factor":
        return {"": 1.0, "×": 1.0, "x": 1.0}
    if head == "bytes":
        names = {"": 1.0, "B": 1.0} | {name: float(size) for size, name in _BINARY}
        names |= {f"{prefix}B": size for size, prefix in _DECIMAL}
    elif head == "s":
        names = {"": 1.0, "min": 60.0, "h": 3600.0} | {f"{prefix}s": size for size, prefix in _SMALL}
    elif head in ("j", "w"):
        base = head.upper()
        names = {"": 1.0} | {f"{prefix}{base}": size for size, prefix in (*_SMALL, *_DECIMAL)}
        names |= {"Wh": 3.6e3, "kWh": 3.6e6} if head == "j" else {}
    else:
        names = {"": 1.0} | {prefix: size for size, prefix in _DECIMAL}
        names |= {f"{prefix}FLOP": size for prefix, size in list(names.items())} if head == "flop" else {}
    return names | {f"{name}{slash}{per}": size for name, size in names.items()} if slash else names


def _small(value: float, name: str, digits: int) -> str:
    for size, prefix in _SMALL:
        if abs(value) >= size:
            return f"{significant(value / size, digits)} {prefix}{name}"
    return f"{significant(value / 1e-9, digits)} n{name}" if value else f"0 {name}"
