"""A streamed reply of an OpenAI-compatible server: what arrived when, and how it ended.

    bytes ── arrivals ── lines ── `data: {…}` ── text, finish reason, usage

What comes together is one arrival, however many events are in it: when a server made each of them nobody can tell from
outside. Reads that follow each other at once came together too: they were waiting in the buffer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from efficientllm.errors import EfficientLLMError

_QUOTED = 160
#: A read from the buffer takes some 10 µs; no server makes tokens of one reply so fast.
TOGETHER_S = 1e-4


class EndpointError(EfficientLLMError):
    """A server that cannot be used, or a reply that is none; `str()` of it is one line for the reader."""


@dataclass(kw_only=True)
class Reply:
    """One request and what came of it; times are of `time.perf_counter()`.

    Attributes:
        index: number of the request within its load.
        intended_s: when it was to be sent; in a closed loop the same as `sent_s`.
        sent_s: when the client began to send it: connecting included.
        at_s: arrivals that held text.
        pieces: the text of each of them.
        end_s: when the reply was over, or had failed.
        tokens: tokens in the reply, 0 where nobody counted.
        counted_by: `usage` (the server), `tokenizer` (ours), or empty.
        prompt_tokens: tokens of the prompt as the server counts them, 0 where it does not say.
        finish: the server's reason for the end (`length`, `stop`).
        error: why it failed, empty if it did not.
    """

    index: int = 0
    intended_s: float = 0.0
    sent_s: float = 0.0
    at_s: list[float]
    pieces: list[str]
    end_s: float = 0.0
    tokens: int = 0
    counted_by: str = ""
    prompt_tokens: int = 0
    finish: str = ""
    error: str = ""

    @property
    def text(self) -> str:
        """The whole reply."""
        return "".join(self.pieces)


def empty_reply(index: int = 0, intended_s: float = 0.0) -> Reply:
    """Return the reply to a request that is yet to be sent."""
    return Reply(index=index, intended_s=intended_s, at_s=[], pieces=[])


def read_stream(arrivals: Iterable[tuple[float, bytes]], reply: Reply, asked: str) -> None:
    """Fill a reply from what arrives.

    Args:
        arrivals: (time, bytes), as they come.
        reply: to be filled.
        asked: the model's name in the request.

    Raises:
        EndpointError: the stream holds no reply, an error, another model's reply, or ends in the middle.
    """
    rest, done, last_s = b"", False, -1.0
    for at_s, data in arrivals:
        *lines, rest = (rest + data).split(b"\n")
        text = ""
        for line in lines:
            event = _event_of(line)
            done = done or event is _DONE
            if isinstance(event, dict):
                text += _take(event, reply, asked)
        if text and reply.at_s and at_s - last_s < TOGETHER_S:
            reply.pieces[-1] += text
        elif text:
            reply.at_s.append(at_s)
            reply.pieces.append(text)
        last_s = at_s
    if rest.strip() and not done:
        raise EndpointError(f"the stream broke off within a line: {quoted(rest)}")
    if not (done or reply.finish):
        what = f"after {len(reply.at_s)} pieces" if reply.at_s else "before the first piece"
        raise EndpointError(f"the stream ended {what}, without a finish reason or [DONE]")
    if not reply.at_s:
        raise EndpointError("the stream held no text")


_DONE = object()


def _event_of(line: bytes) -> object:
    """Return a line's event, `_DONE`, or None for a line that carries none (a comment, an empty line)."""
    line = line.strip()
    if not line or line.startswith((b":", b"event:", b"id:", b"retry:")):
        return None
    if not line.startswith(b"data:"):
        raise EndpointError(f"the stream held a line that is no event: {quoted(line)}")
    body = line[5:].strip()
    if body == b"[DONE]":
        return _DONE
    try:
        event = json.loads(body)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise EndpointError(f"the stream held an event that is no JSON object: {quoted(body)}")
    return event


def _take(event: dict[str, Any], reply: Reply, asked: str) -> str:
    """Take an event's usage and finish reason into the reply; return its text."""
    if event.get("error"):
        raise EndpointError(f"the server ended the stream with an error: {error_text(event)}")
    named = str(event.get("model") or asked)
    if not same_model(asked, named):
        raise EndpointError(f"asked for model {asked!r}, the server answers as {named!r}: set served_name")
    usage = event.get("usage") or {}
    if usage.get("completion_tokens"):
        reply.tokens, reply.counted_by = int(usage["completion_tokens"]), "usage"
        reply.prompt_tokens = int(usage.get("prompt_tokens") or 0)
    choices = event.get("choices") or [{}]
    choice = choices[0] if isinstance(choices, list) and isinstance(choices[0], dict) else {}
    reply.finish = str(choice.get("finish_reason") or reply.finish)
    delta = choice.get("delta") or {}
    return str(choice.get("text") or delta.get("content") or delta.get("reasoning_content") or "")


def same_model(asked: str, named: str) -> bool:
    """Whether a server's name for its model is the one that was asked for: a revision or a path may differ.

    >>> same_model("org/m", "org/m@main"), same_model("/models/m", "m"), same_model("m-7b", "m-1b")
    (True, True, False)
    """
    short = [name.partition("@")[0].rstrip("/") for name in (asked, named)]
    return short[0] == short[1] or any(a.endswith(f"/{b}") for a, b in (short, short[::-1]))


def error_text(body: object) -> str:
    """Return what an error's body says, short.

    >>> error_text({"error": {"message": "no such model"}}), error_text({"detail": "bad field"})
    ('no such model', 'bad field')
    """
    while isinstance(body, dict):
        body = next((body[key] for key in ("error", "message", "detail") if body.get(key)), str(body))
    return quoted(str(body)).strip("'\"")


def quoted(data: bytes | str) -> str:
    """Return the first line of something foreign, so that it fits into a message."""
    text = data.decode("utf-8", errors="replace") if isinstance(data, bytes) else data
    first = (text.strip().splitlines() or [""])[0]
    return repr(first[:_QUOTED] + ("…" if len(first) > _QUOTED else ""))
