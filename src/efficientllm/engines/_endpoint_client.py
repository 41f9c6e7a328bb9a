"""A client of any OpenAI-compatible server: one streamed completion at a time, a new connection for each.

Making the connection is within a request's time. `find_dialect` tries what the server takes, from the most exact
request to the plainest: those that refuse a field they do not know get a request without it.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from efficientllm.engines._endpoint_stream import EndpointError, Reply, empty_reply, error_text, quoted, read_stream

_READ_BYTES = 65536
#: Answers that say "not in this form": the next dialect is tried.
_REFUSALS = (400, 404, 405, 422, 501)
_EXTRAS: tuple[tuple[str, ...], ...] = (("stream_options", "ignore_eos", "min_tokens"), ("stream_options",), ())

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Dialect:
    """How a server wants to be asked.

    Attributes:
        path: `completions` or `chat/completions`.
        extras: fields beyond the plain ones that it takes.
    """

    path: str = "completions"
    extras: tuple[str, ...] = ()


@dataclass(frozen=True)
class Endpoint:
    """A server's address and how to speak with it.

    Attributes:
        url: scheme, host and port, with a path before `/v1` if there is one.
        model: the model's name in requests.
        stall_s: longest wait for the connection and for each further piece.
        key: sent as a bearer token, if not empty.
        count_tokens: counts a reply's tokens where the server does not.
        dialect: how it wants to be asked.
    """

    url: str
    model: str = ""
    stall_s: float = 60.0
    key: str = ""
    count_tokens: CountTokens | None = None
    dialect: Dialect = Dialect()

    def get(self, path: str) -> Any:
        """Return the JSON of a GET, None if its body is none.

        Raises:
            EndpointError: the server refuses, stalls or answers with an error.
        """
        return self._json("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON of a POST; raises as `get`."""
        return self._json("POST", path, body)

    def ask(self, prompt: str, new_tokens: int, reply: Reply | None = None, *, whole: bool = True) -> Reply:
        """Stream one completion; whatever goes wrong stands in the reply's `error`.

        Args:
            prompt: text.
            new_tokens: most tokens of the reply.
            reply: to be filled; its `intended_s` is kept, if it has one.
            whole: whether the server is asked to go on beyond an end of text.
        """
        reply = reply or empty_reply()
        reply.sent_s = time.perf_counter()
        reply.intended_s = reply.intended_s or reply.sent_s
        try:
            self._stream(self._body(prompt, new_tokens, whole), reply)
        except EndpointError as error:
            reply.error = str(error)
        reply.end_s = time.perf_counter()
        if not reply.tokens and self.count_tokens is not None and not reply.error:
            reply.tokens, reply.counted_by = self.count_tokens(reply.text), "tokenizer"
        return reply

    def generate(self, prompts: Sequence[str], new_tokens: int, concurrency: int = 8) -> list[str]:
        """Return the greedy continuation of each prompt, up to the model's own end.

        Raises:
            EndpointError: a request failed.
        """
        with ThreadPoolExecutor(concurrency) as pool:
            replies = list(pool.map(lambda prompt: self.ask(prompt, new_tokens, whole=False), prompts))
        failed = next((reply.error for reply in replies if reply.error), "")
        if failed and failed != "the stream held no text":  # to end at once is an answer
            raise EndpointError(f"{self.url}: {failed}")
        return [reply.text for reply in replies]

    def _body(self, prompt: str, new_tokens: int, whole: bool) -> dict[str, Any]:
        chat = self.dialect.path.startswith("chat")
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        known = {"stream_options": {"include_usage": True}, "ignore_eos": True, "min_tokens": new_tokens}
        extras = {key: known[key] for key in self.dialect.extras if whole or key == "stream_options"}
        return {"model": self.model, **asked, "max_tokens": new_tokens, "temperature": 0, "stream": True, **extras}

    def _stream(self, body: dict[str, Any], reply: Reply) -> None:
        connection, response = self._send("POST", f"/v1/{self.dialect.path}", body)
        try:
            read_stream(self._arrivals(response), reply, self.model)
        finally:
            connection.close()

    def _arrivals(self, response: http.client.HTTPResponse) -> Iterator[tuple[float, bytes]]:
        while True:
            try:
                data = response.read1(_READ_BYTES)
            except TimeoutError as error:
                raise EndpointError(f"the stream stalled: nothing came for {self.stall_s:g} s") from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise EndpointError(f"the stream broke in the middle: {_say(error)}") from error
            if not data:
                return
            yield time.perf_counter(), data

    def _json(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        connection, response = self._send(method, path, body)
        try:
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise EndpointError(f"{self.url}{path} broke off: {_say(error)}") from error
        finally:
            connection.close()
        try:
            return json.loads(data)
        except ValueError:
            return None

    def _send(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request; return connection and response of a server that agreed."""
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.stall_s)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, parts.path.rstrip("/") + path, data, headers)
            response = connection.getresponse()
            if response.status != 200:
                raise Refused(response.status, f"{path} answered {response.status}: {_said(response.read())}")
        except TimeoutError as error:
            connection.close()
            raise EndpointError(f"{self.url} gave no answer for {self.stall_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise EndpointError(f"{self.url} cannot be reached: {_say(error)}") from error
        except EndpointError:
            connection.close()
            raise
        return connection, response


class Refused(EndpointError):
    """An answer other than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def check_url(url: str) -> str:
    """Return a server's address without a `/v1` at its end.

    Raises:
        EndpointError: it is no address.

    >>> check_url("http://localhost:8000/v1/")
    'http://localhost:8000'
    """
    parts = urlsplit(url)
    try:
        port_is_one = parts.port is None or parts.port > 0
    except ValueError:
        port_is_one = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_one:
        raise EndpointError(f"url {url!r} is no server's address. Give one such as http://localhost:8000.")
    return url.rstrip("/").removesuffix("/v1")


def served_models(endpoint: Endpoint) -> list[dict[str, Any]]:
    """Return what `/v1/models` lists, empty where it is not served."""
    try:
        listed = endpoint.get("/v1/models")
    except Refused:
        return []
    models = listed.get("data") if isinstance(listed, dict) else None
    return [one for one in models or [] if isinstance(one, dict)] if isinstance(models, list) else []


def find_dialect(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint with its model's name and the fullest form of request that the server takes.

    Raises:
        EndpointError: it cannot be reached, or takes none; the message quotes its first answer and names its models.
    """
    names = [str(one.get("id")) for one in served_models(endpoint)]
    if not endpoint.model:
        if not names:
            raise EndpointError(f"{endpoint.url} does not say which models it serves. Give served_name.")
        endpoint = replace(endpoint, model=names[0])
    first = ""
    for path in ("completions", "chat/completions"):
        for extras in _EXTRAS:
            tried = replace(endpoint, dialect=Dialect(path, extras))
            try:
                tried._stream(tried._body("The", 2, True), empty_reply())
            except Refused as error:
                first = first or str(error)
                if error.status not in _REFUSALS:
                    raise EndpointError(f"{endpoint.url}: {error}") from error
                continue
            except EndpointError as error:
                if "held no text" not in str(error):  # two tokens may be half a character
                    raise EndpointError(f"{endpoint.url}: {error}") from error
            return tried
    served = f" It serves: {', '.join(names[:8])}." if names else ""
    raise EndpointError(f"{endpoint.url}: {first} (asked for model {endpoint.model!r}).{served}")


def _say(error: BaseException) -> str:
    return quoted(str(error) or type(error).__name__).strip("'\"")


def _said(data: bytes) -> str:
    try:
        return error_text(json.loads(data))
    except ValueError:
        return quoted(data)
