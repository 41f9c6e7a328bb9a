"""What can go wrong, as one tree.

    EfficientLLMError
    ├── UserError            wrong use: one line, exit code 2
    │   ├── UnknownNameError     a name that no folder holds, with the nearest one
    │   │   └── NoSuchFileError      a path of a user's own that leads to no file
    │   ├── RecipeError          a recipe that cannot be read or makes no sense, with file and key
    │   ├── DataError            a corpus, tokenizer or text that cannot be used
    │   └── ResultsError         a results folder or file that cannot be read or written
    ├── DeviceBusy           somebody else works on the device; nothing was measured; exit code 1
    ├── Interrupted          the user stopped it; what was measured is stored; exit code 130
    └── TrialEnd             a trial ends, for a reason that is itself a result
        ├── Unsupported          this combination, or this device, cannot do it
        ├── Diverged             the loss became NaN or exploded
        └── Disagrees            a fast path does not give what its reference gives

A message says what is wrong (with the value), where (file and key, or trial) and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EfficientLLMError(Exception):
    """The root of every error that this package raises on purpose."""


class UserError(EfficientLLMError):
    """Wrong use: printed as one line without a traceback, exit code 2."""


class UnknownNameError(UserError):
    """A name that is not in its folder.

    >>> str(UnknownNameError("mixer", "mla2", ["gqa", "mha", "mla"], where="attention.yaml: axes.mixer"))
    "unknown mixer 'mla2' in attention.yaml: axes.mixer. Did you mean 'mla'? Known: gqa, mha, mla."
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], where: str = "") -> None:
        known = sorted(known)
        place = f" in {where}" if where else ""
        super().__init__(f"unknown {kind} {name!r}{place}. {did_you_mean(name, known)}Known: {', '.join(known)}.")
        self.kind, self.name, self.known = kind, name, known


class NoSuchFileError(UnknownNameError):
    """A user's own file that is not there.

    >>> str(NoSuchFileError("mixer", "./mx.py", "no such file", "Give a .py file", ["mha"], where="a.yaml: axes.mixer"))
    "mixer './mx.py' in a.yaml: axes.mixer: no such file. Give a .py file, or one of: mha."
    """

    def __init__(self, kind: str, name: str, what: str, give: str, known: Iterable[str], where: str = "") -> None:
        super().__init__(kind, name, known, where)
        place = f" in {where}" if where else ""
        self.args = (f"{kind} {name!r}{place}: {what}. {give}, or one of: {', '.join(self.known)}.",)


class RecipeError(UserError):
    """A recipe that cannot be read or makes no sense."""


class DataError(UserError):
    """A corpus, a tokenizer or a text that cannot be used."""


class ResultsError(UserError):
    """A results folder or file that cannot be read or written."""


class DeviceBusy(EfficientLLMError):
    """Somebody else works on the device, so that what it reaches cannot be measured now."""


class Interrupted(EfficientLLMError):
    """The user stopped a run: what was measured until then is stored."""


class TrialEnd(EfficientLLMError):
    """Ends a trial for a reason that is itself a result; `str()` of it is the recorded reason."""

    outcome = "crashed"


class Unsupported(TrialEnd):
    """This combination, or this device, cannot do what the trial asks."""

    outcome = "unsupported"


class Diverged(TrialEnd):
    """The loss became NaN or exploded at `step`."""

    outcome = "diverged"

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} at step {step}")
        self.step = step


class Disagrees(TrialEnd):
    """A fast path does not give what its reference gives: whatever is measured of it means nothing."""

    outcome = "invalid"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `"Did you mean 'x'? "` for the nearest known name, or an empty string.

    >>> did_you_mean("learning_rte", ["learning_rate", "tokens"])
    "Did you mean 'learning_rate'? "
    >>> did_you_mean("zzz", ["tokens"]), did_you_mean("qualty", ["architecture/quality"])
    ('', "Did you mean 'architecture/quality'? ")
    """
    whole = {word: word for word in known}
    # an entry of a folder is found by its last part too, behind whole words that are as near
    parts = {**{word.rpartition("/")[2]: word for word in whole}, **whole}
    nearest = difflib.get_close_matches(name, parts, n=1, cutoff=0.6)
    return f"Did you mean {parts[nearest[0]]!r}? " if nearest else ""
