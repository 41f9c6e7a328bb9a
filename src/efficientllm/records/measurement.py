"""A measurement: the outcome of one trial in one environment, with all that was seen."""

from __future__ import annotations

import msgspec

from efficientllm.records.card import Card
from efficientllm.records.environment import Environment
from efficientllm.records.trial import Trial
from efficientllm.records.window import Caution, Window

#: Version of the stored form; `records.codec` reads this one and every earlier one.
#: History: 1 = first; 2 = settings with `preset` and `match`, `ModelFacts.adjusted`.
SCHEMA_VERSION = 2

#: How a trial or a window can end. All but the last two count as done when a study resumes.
OUTCOMES = ("ok", "oom", "unsupported", "diverged", "invalid", "crashed", "interrupted")

#: Under this word `ModelFacts.implementations` names the number format of the model's arithmetic, where a precision of
#: the weights decides it and not the settings' `dtype`.
ARITHMETIC = "arithmetic"


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The model's counts, exact and from shapes.

    Attributes:
        parameters_total: stored parameters, tied ones once.
        parameters_active: those that one token uses.
        parameters_embedding: of the total, the token embedding (and the head, if not tied).
        weight_bytes: resident size of the weights as this trial held them.
        disk_bytes: size of the saved weights, 0 if nothing was saved.
        adjusted: what `match` chose and held to, empty where it changed nothing: `shape.mlp_width`, `mixer.latent_rank`
            … the values chosen; `target.parameters_total` … the count of the plain model that they were chosen for.
        cache_bytes_per_token: growth of the decode state a token and a sequence.
        state_bytes: constant decode state a sequence.
        train_flops_per_token: model FLOPs of forward and backward at the training length.
        implementations: slot -> how it computes on this device, where it has several ways (`mlp`: `grouped`).
        parameters_trained: those that training changes; 0 in inference, and in records older than fine-tuning.
    """

    parameters_total: int
    parameters_active: int
    parameters_embedding: int
    weight_bytes: int
    disk_bytes: int = 0
    adjusted: dict[str, float] = {}
    cache_bytes_per_token: float = 0.0
    state_bytes: int = 0
    train_flops_per_token: float = 0.0
    implementations: dict[str, str] = {}
    parameters_trained: int = 0


class DataFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The text's identity and size.

    Attributes:
        corpus: the reader's name; `corpus_sha256` covers the text of both splits.
        tokenizer_sha256: hash of the tokenizer's file.
        train_tokens, heldout_tokens: in the packed files.
        heldout_bytes: UTF-8 bytes that the held-out tokens stand for.
        details: what the reader adds (Python version, number of files, path).
    """

    corpus: str
    corpus_sha256: str
    tokenizer_sha256: str
    train_tokens: int
    heldout_tokens: int
    heldout_bytes: int
    details: dict[str, str] = {}


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """What the device was measured to reach, copied from its calibration into every later record.

    Attributes:
        matmul_peak_flop_per_s, matmul_sustained_flop_per_s: by dtype.
        read_bytes_per_s, copy_bytes_per_s: large working sets; a copy counts what it reads and what it writes.
        link_bytes_per_s: one direction, to the slowest linked of the other devices; 0 where there is none.
        launch_s: time of the smallest operation.
        idle_power_w: without a context, None where power is not told.
        calibration: id of the measurement they come from.
    """

    matmul_peak_flop_per_s: dict[str, float] = {}
    matmul_sustained_flop_per_s: dict[str, float] = {}
    read_bytes_per_s: float = 0.0
    copy_bytes_per_s: float = 0.0
    link_bytes_per_s: float = 0.0
    launch_s: float = 0.0
    idle_power_w: float | None = None
    calibration: str = ""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One trial in one environment: the truth that is stored, one file each.

    Attributes:
        id: `<trial id>-<environment id>-<attempt>`.
        outcome: one of `OUTCOMES`; `reason` says why when it is not `ok`.
        invalid_codes: codes of the physics checks that failed.
        started_at: wall-clock time in UTC, for people; no duration is made of it.
        phases_s: seconds of start-up parts (`import`, `load`, `warmup` …).
        figures: single numbers of the whole trial.
        absent: quantity -> why nowhere in this trial.
        cards: slot -> card of the technique in it.
    """

    id: str
    trial: Trial
    environment: Environment
    outcome: str
    reason: str = ""
    invalid_codes: tuple[str, ...] = ()
    started_at: str = ""
    schema: int = SCHEMA_VERSION
    software_version: str = ""
    windows: tuple[Window, ...] = ()
    model: ModelFacts | None = None
    data: DataFacts | None = None
    ceilings: Ceilings | None = None
    cards: dict[str, Card] = {}
    phases_s: dict[str, float] = {}
    figures: dict[str, float] = {}
    absent: dict[str, str] = {}
    cautions: tuple[Caution, ...] = ()

    def find(self, name: str, **coordinates: int) -> Window | None:
        """Return the first window of this name whose coordinates include the given ones, or None."""
        for window in self.windows:
            if window.name == name and coordinates.items() <= window.coordinates.items():
                return window
        return None
