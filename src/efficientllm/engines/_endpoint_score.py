"""What a server thinks of a text: the log-probabilities of a prompt's own tokens, where it gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from efficientllm.engines._endpoint_client import Endpoint, Refused
from efficientllm.errors import Unsupported

NO_LOGPROBS = "the server gives no log-probabilities of a prompt (neither echo with logprobs nor prompt_logprobs)"


@dataclass(frozen=True)
class TextScore:
    """The loss of a text.

    Attributes:
        nats: summed over the scored tokens: all of the server's tokens but the first.
        tokens: how many those are.
        scored_bytes: UTF-8 bytes that they stand for.
    """

    nats: float
    tokens: int
    scored_bytes: int


def score_text(endpoint: Endpoint, text: str) -> TextScore:
    """Score a text by `echo`, else by `prompt_logprobs`.

    Raises:
        Unsupported: the server gives neither.
        EndpointError: it cannot be reached.
    """
    plain = {"model": endpoint.model, "prompt": text, "max_tokens": 1, "temperature": 0}
    for extra in ({"echo": True, "logprobs": 1}, {"prompt_logprobs": 1}):
        try:
            answer = endpoint.post("/v1/completions", {**plain, **extra})
        except Refused:
            continue
        choice = (answer.get("choices") or [{}])[0] if isinstance(answer, dict) else {}
        found = _of_echo(choice, text) or _of_prompt(choice, text)
        if found is not None:
            return found
    raise Unsupported(NO_LOGPROBS)


def _of_echo(choice: dict[str, Any], text: str) -> TextScore | None:
    told = choice.get("logprobs") or {}
    tokens, values = told.get("tokens") or [], told.get("token_logprobs") or []
    if not tokens or len(tokens) != len(values) or values[0] is not None:
        return None  # without echo only the new token is told, and that has a value
    # a first token that is no text of ours is a mark of the server's own (<s>): then all of the text is scored
    first = str(tokens[0]) if text.startswith(str(tokens[0])) else ""
    at, scored = len(first), []
    for token, value in zip(tokens[1:], values[1:], strict=True):
        if at >= len(text):
            break  # the token that it had to generate
        scored.append(float(value))
        at += len(token)
    return _sum(scored, text, first)


def _of_prompt(choice: dict[str, Any], text: str) -> TextScore | None:
    told = choice.get("prompt_logprobs") or []
    # the likeliest tokens stand behind the prompt's own one
    own = [next(iter(at.values())) for at in told if isinstance(at, dict) and at]
    if not own or not all(isinstance(one, dict) and "logprob" in one for one in own):
        return None
    spelled = "".join(str(one.get("decoded_token") or "") for one in own)
    first = text[: len(text) - len(spelled)] if spelled and text.endswith(spelled) else ""
    return _sum([float(one["logprob"]) for one in own], text, first)


def _sum(values: list[float], text: str, first: str) -> TextScore | None:
    if not values:
        return None
    return TextScore(nats=-sum(values), tokens=len(values), scored_bytes=len(text.encode()) - len(first.encode()))
