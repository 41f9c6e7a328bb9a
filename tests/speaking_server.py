"""A real HTTP server that speaks the streaming protocol with set delays, and with faults; also a program.

python speaking_server.py --port 8000 --model m
"""

from __future__ import annotations

import argparse
import contextlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Behaviour:
    """How the server answers.

    Attributes:
        faults: number of a request -> what goes wrong with it: `refuse`, `stall`, `break`, `garbage`, `error`, `named`.
    """

    model: str = "m"
    first_s: float = 0.03
    each_s: float = 0.01
    at_once: int = 10**6
    tokens_a_piece: int = 1
    early: int = 0
    usage: bool = True
    chat_only: bool = False
    strict: bool = False
    logprobs: bool = False
    pause_at: int = -1
    pause_s: float = 0.0
    faults: dict[int, str] = field(default_factory=dict)
    every: str = ""
    bodies: list = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        return

    def do_GET(self):
        b = self.server.behaviour
        models = {"data": [{"id": b.model, "owned_by": "test"}]}
        self._json(200, models if self.path == "/v1/models" else {"status": "ok"})

    def do_POST(self):
        b, slots = self.server.behaviour, self.server.slots
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(b.bodies)
            b.bodies.append(body)
        if b.chat_only and "chat" not in self.path:
            return self._json(404, {"detail": "Not Found"})
        if b.strict and {"ignore_eos", "stream_options"} & set(body):
            return self._json(422, {"detail": "Unexpected fields in the request: {'ignore_eos'}"})
        if not body.get("stream"):
            return self._scored(b, body)
        fault = b.every or b.faults.get(number, "")
        if fault == "refuse":
            return self._json(503, {"error": {"message": "overloaded"}})
        if number == b.pause_at:
            self.server.pause_until = time.perf_counter() + b.pause_s
        with contextlib.suppress(OSError), slots:
            self._stream(b, body, fault)
        return None

    def _stream(self, b, body, fault):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        time.sleep(max(0.0, self.server.pause_until - time.perf_counter()))
        wanted = min(body["max_tokens"], b.early or 10**9)
        done, number = 0, 0
        time.sleep(b.first_s)
        while done < wanted:
            if number and b.each_s:
                time.sleep(b.each_s)
            if number == 2 and fault:
                return self._go_wrong(fault)
            part = min(b.tokens_a_piece, wanted - done)
            self._event(b.model if fault != "named" else "other", " a" * part)
            done, number = done + part, number + 1
        last = {"choices": [{"index": 0, "text": "", "finish_reason": "length"}], "model": b.model}
        if b.usage:
            last["usage"] = {"completion_tokens": done, "prompt_tokens": len(str(body.get("prompt")).split())}
        self._chunk(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
        self._chunk(b"")
        return None

    def _go_wrong(self, fault):
        if fault == "stall":
            time.sleep(1.5)
        elif fault == "garbage":
            self._chunk(b"data: {not json\n\n")
        elif fault == "error":
            self._chunk(b'data: {"error": {"message": "out of cache"}}\n\n')
        elif fault == "end":
            self._chunk(b"")
        self.close_connection = True

    def _event(self, model, text):
        chat = "chat" in self.path
        choice = {"index": 0, "finish_reason": None, **({"delta": {"content": text}} if chat else {"text": text})}
        self._chunk(f"data: {json.dumps({'model': model, 'choices': [choice]})}\n\n".encode())

    def _chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _scored(self, b, body):
        choice = {"text": " a", "finish_reason": "length"}
        if b.logprobs and body.get("echo"):
            words = body["prompt"].split(" ")
            tokens = [words[0], *(f" {word}" for word in words[1:]), " a"]
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": [None, *[-2.0] * (len(tokens) - 1)]}
        self._json(200, {"model": b.model, "choices": [choice]})

    def _json(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    request_queue_size = 256

    def __init__(self, behaviour, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.behaviour, self.lock, self.pause_until = behaviour, threading.Lock(), 0.0
        self.slots = threading.Semaphore(behaviour.at_once)

    def handle_error(self, *_):
        return


@contextlib.contextmanager
def speaking(**given):
    """Run a server in a thread; give its URL and its behaviour, which may be changed."""
    with Server(Behaviour(**given)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", server.behaviour
        server.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--model", default="m")
    parser.add_argument("--last-words", default="")
    given = parser.parse_args()
    if given.last_words:
        raise SystemExit(given.last_words)
    Server(Behaviour(model=given.model, first_s=0.005, each_s=0.002, logprobs=True), given.port).serve_forever()
