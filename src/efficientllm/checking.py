"""Runs the checks of a folder on one entry, as `efficientllm check` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from efficientllm.errors import EfficientLLMError, UserError

E = TypeVar("E")


def run_checks(checks: Mapping[str, Callable[[E], None]], entry: E) -> list[tuple[str, str | None]]:
    """Run all checks and return (what was checked, None or how it failed).

    An entry that cannot even be built fails its checks with the error's text; other errors are reported the same way,
    for this is what a person runs on a file that is not finished.
    """
    results: list[tuple[str, str | None]] = []
    for name, function in checks.items():
        try:
            function(entry)
        except (AssertionError, EfficientLLMError) as error:
            results.append((name, (str(error) or type(error).__name__).partition("\n")[0]))
        except Exception as error:  # noqa: BLE001 - the file under test may raise anything, and hears of it
            results.append((name, f"{type(error).__name__}: {error}".partition("\n")[0]))
        else:
            results.append((name, None))
    return results


def hold_refused(call: Callable[[], object], what: str) -> None:
    """Hold a call to be refused, in one line; `what` is what it was given."""
    try:
        call()
    except UserError as error:
        hold_one_line(error, what)
    else:
        raise AssertionError(f"{what} gives no error")


def hold_one_line(error: UserError, what: str) -> None:
    """Hold an error to be one line, as a user reads it."""
    assert "\n" not in str(error), f"the error of {what} is more than one line"
