"""What the workload `serve` can be told: a server, the loads put on it, and the limits that a rate must meet."""

from __future__ import annotations

from typing import Annotated

import msgspec

from efficientllm.errors import UserError
from efficientllm.records.model_settings import Fraction, Length, ModelSettings, Positive, Rows

#: Requests a minute, whole, as coordinates are; a slow machine serves less than one a second.
PerMinute = Annotated[int, msgspec.Meta(ge=0, le=10**7)]
Slots = Annotated[int, msgspec.Meta(ge=0, le=4096)]


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One window of serving; either `concurrency` or `per_minute` is given.

    Attributes:
        concurrency: closed loop: so many requests are always under way, the next is sent when one has ended.
        per_minute: open loop: requests arrive at random (Poisson), so many a minute in the mean, ended or not.
        tokens: length of a prompt.
        new_tokens: tokens that each request asks for.
    """

    concurrency: Slots = 0
    per_minute: PerMinute = 0
    tokens: Length = 512
    new_tokens: Length = 128

    def __post_init__(self) -> None:
        """Refuse a load of both kinds, or of none."""
        if (self.concurrency > 0) == (self.per_minute > 0):
            raise ValueError("give a load either concurrency or per_minute (requests a minute)")

    def coordinates(self) -> dict[str, int]:
        """Return where it stands on the grid.

        >>> Load(per_minute=90, tokens=8, new_tokens=4).coordinates()
        {'per_minute': 90, 'tokens': 8, 'new_tokens': 4}
        """
        kind = {"concurrency": self.concurrency} if self.concurrency else {"per_minute": self.per_minute}
        return {**kind, "tokens": self.tokens, "new_tokens": self.new_tokens}


class RateSearch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The search for the highest rate of arrivals that meets limits.

    Attributes:
        ttft_p95_s: most that 95 % of the requests may wait for their first token.
        tpot_p95_s: most that 95 % of the requests may take for each further token.
        start_per_minute: the rate that is tried first.
        precision: the search ends when the lowest rate that failed is above the highest that held by this share.
        repeats: how often each rate is tried; one whose tries differ lies within the interval.
        tokens, new_tokens: as in a load.
    """

    ttft_p95_s: Positive
    tpot_p95_s: Positive
    start_per_minute: Annotated[int, msgspec.Meta(ge=1, le=10**7)] = 60
    precision: Positive = 0.1
    repeats: Rows = 2
    tokens: Length = 512
    new_tokens: Length = 128


class ServeSettings(ModelSettings, frozen=True, kw_only=True, tag_field="workload", tag="serve"):
    """A server that speaks OpenAI's protocol, under loads; the prompts are held-out text of `corpus`.

    Attributes:
        url: of a running server, such as `http://localhost:8000`.
        command: how to start one instead, with the placeholders {model}, {port} and {dtype}.
        model: folder or hub id for {model}; empty: what the stage of `from` left.
        served_name: the model's name in requests; empty: {model}, else the first that the server names.
        key_variable: environment variable that holds the server's key, which is not recorded; empty for none.
        loads: the windows.
        search: limits for the highest rate; null for no search.
        requests: requests that a window measures; p95 needs 200, p99 1,000.
        warmup_requests: requests that end before a window opens, and no fewer than are under way at once.
        window_limit_s: requests of a window that have not ended after this time count as failed.
        start_limit_s: longest wait for a started server.
        stall_s: longest wait for a connection, and between two pieces of a reply.
        failed_most: share of failed requests above which a window is invalid.
    """

    url: str = ""
    command: str = ""
    model: str = ""
    served_name: str = ""
    key_variable: str = ""
    loads: tuple[Load, ...] = (Load(concurrency=1), Load(concurrency=8))
    search: RateSearch | None = None
    requests: Rows = 200
    warmup_requests: Rows = 4
    window_limit_s: Positive = 600.0
    start_limit_s: Positive = 600.0
    stall_s: Positive = 60.0
    failed_most: Fraction = 0.02

    def __post_init__(self) -> None:
        """Fill the slots, and refuse two servers.

        Raises:
            UserError: both `url` and `command`, or too few requests for the p95 of a search.
        """
        super().__post_init__()
        if self.url and self.command:
            raise UserError(f"url {self.url!r} and a command: give the one that is to be measured.")
        if self.search is not None and self.requests < 200:
            raise UserError(f"requests {self.requests}: a search judges p95, which needs 200.")
