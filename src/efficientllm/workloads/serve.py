"""Serving: any OpenAI-compatible server under loads, the highest rate that meets limits, and quality through it."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

import msgspec
import numpy as np

from efficientllm.data.prepare import Prepared, judged_rows, prepare
from efficientllm.devices._contract import Device, SensorError
from efficientllm.engines._endpoint_client import Endpoint, check_url, find_dialect, served_models
from efficientllm.engines._endpoint_score import score_text
from efficientllm.engines._endpoint_server import LaunchedServer, Place, find_place
from efficientllm.errors import Unsupported, UserError
from efficientllm.records.serve_settings import Load, RateSearch, ServeSettings
from efficientllm.records.window import ELSEWHERE, Work
from efficientllm.units import percent_text
from efficientllm.workloads._contract import Job, WorkloadEntry
from efficientllm.workloads.cards import copy_cards
from efficientllm.workloads.rate_search import search_rate
from efficientllm.workloads.serving import Seen, Server, make_prompts, measure_load

#: Servers that take their memory when they start, by what they call themselves in `/v1/models` or by their command.
_RESERVE = ("vllm", "sglang", "llama-server", "llamacpp", "trtllm", "lmdeploy")
#: A server whose memory moves by less between idle and load may be another of them; that alone does not tell.
_RESERVED_CHANGE = 0.01


def run(job: Job) -> None:
    """Measure a server that runs, or start one and end it.

    Windows: a `serve` for each load; `search` for each rate that was tried, and `capacity` with what they found;
    `quality`, which is absent with its reason where the server gives no log-probabilities.

    Raises:
        UserError: neither `url` nor `command`.
        EndpointError: the server does not start, cannot be reached, or takes no request.
    """
    settings, recorder = job.trial.settings, job.recorder
    assert isinstance(settings, ServeSettings)
    if not settings.url and not settings.command:
        raise UserError(
            "serve needs a server: give url=http://HOST:PORT, or command='… {model} … {port}' to start one."
        )
    model = settings.model or (str(job.parent_artifact) if job.parent_artifact else "")
    with recorder.phase("data"):
        prepared = prepare(_with_tokenizer(settings, model), job.cache, None)
    recorder.data(prepared.facts)
    if job.parent_artifact is not None:
        copy_cards(recorder, settings)
    recorder.baseline_memory()
    with contextlib.ExitStack() as stack:
        with recorder.phase("load"):
            url, launched = check_url(settings.url) if settings.url else "", None
            if not url:
                launched = stack.enter_context(LaunchedServer(settings.command, model=model, dtype=settings.dtype))
                launched.wait(settings.start_limit_s)
                url = launched.url
            endpoint = find_dialect(_endpoint(settings, prepared, url, model if launched else ""))
        _tell_dialect(job, endpoint)
        _measure(job, settings, prepared, endpoint, launched)


def _measure(
    job: Job, settings: ServeSettings, prepared: Prepared, endpoint: Endpoint, launched: LaunchedServer | None
) -> None:
    recorder = job.recorder
    watched: set[int] = set()

    def server() -> Server:
        place = Place(pids=launched.pids()) if launched else find_place(endpoint.url)
        for pid in sorted(set(place.pids) - watched):  # it may have started more of them since
            recorder.watch(pid)
        watched.update(place.pids)
        return Server(endpoint, place, settings, recorder)

    idle_bytes = _held_bytes(job.device, server().place)
    for number, load in enumerate(settings.loads):
        seed = job.trial.seed + 1000 * number
        prompts = make_prompts(prepared, load.tokens, settings.requests + _spare(settings, load), seed)
        measure_load(server(), prompts, load, seed=seed)
    if settings.search is not None:
        _search(job, settings, settings.search, prepared, server())
    _tell_reserved(job, settings, endpoint, server().place, idle_bytes)
    _judge(job, settings, prepared, endpoint, server().place)


def _spare(settings: ServeSettings, load: Load) -> int:
    return 2 * max(settings.warmup_requests, load.concurrency)


def _with_tokenizer(settings: ServeSettings, model: str) -> ServeSettings:
    """Return settings with the tokenizer of the model's folder, if it has one and no other was asked for."""
    folder = Path(model).expanduser()
    if settings.tokenizer == "bpe" and model and (folder / "tokenizer.json").is_file():
        return msgspec.structs.replace(settings, tokenizer=str(folder))
    return settings


def _endpoint(settings: ServeSettings, prepared: Prepared, url: str, model: str) -> Endpoint:
    key = os.environ.get(settings.key_variable, "") if settings.key_variable else ""
    if settings.key_variable and not key:
        raise UserError(f"key_variable: the environment has no {settings.key_variable!r}. Set it, or leave it out.")

    def count_tokens(text: str) -> int:
        return len(prepared.tokenizer.encode_batch([text])[0])

    named = settings.served_name or model
    return Endpoint(url, named, settings.stall_s, key=key, count_tokens=count_tokens)


def _tell_dialect(job: Job, endpoint: Endpoint) -> None:
    dialect = endpoint.dialect
    if dialect.path != "completions":
        text = "the server has no /v1/completions: prompts go through its chat template, which adds tokens"
        job.recorder.caution("chat", text)
    if "ignore_eos" not in dialect.extras:
        text = "the server does not take ignore_eos: a reply may end before it has all its tokens"
        job.recorder.caution("end_of_text", text)


def _search(job: Job, settings: ServeSettings, search: RateSearch, prepared: Prepared, server: Server) -> None:
    """Find the highest rate whose p95 latencies hold, and tell it in a window `capacity`."""
    tries = 0

    def holds(per_minute: int) -> bool:
        nonlocal tries
        tries += 1
        load = Load(per_minute=per_minute, tokens=search.tokens, new_tokens=search.new_tokens)
        seed = job.trial.seed + 7919 * tries
        prompts = make_prompts(prepared, load.tokens, settings.requests + _spare(settings, load), seed)
        seen = measure_load(
            server, prompts, load, seed=seed, name="search", enough=lambda seen: is_lost(seen, search, settings)
        )
        return meets(seen, search, settings)

    found = search_rate(holds, start=search.start_per_minute, precision=search.precision, repeats=search.repeats)
    coordinates = {"tokens": search.tokens, "new_tokens": search.new_tokens}
    with job.recorder.window("capacity", work=Work(), coordinates=coordinates, adaptive=False) as window:
        window.absent(ELSEWHERE, "this window holds what the search found, and lasts no time")
        window.figure("tried_rates", len(found.tries))
        if found.low:
            window.figure("rate_low_per_s", found.low / 60.0)
        else:
            window.absent("rate_low_per_s", f"not even {min(found.tries)} requests a minute met the limits")
        if found.high is not None:
            window.figure("rate_high_per_s", found.high / 60.0)
        else:
            window.absent("rate_high_per_s", "no rate that was tried failed each time")


def meets(seen: Seen, search: RateSearch, settings: ServeSettings) -> bool:
    """Whether a load's p95 latencies are within the limits, and hardly a request failed."""
    complete = len(seen.request_s) + seen.num_failed == settings.requests
    if not complete or seen.num_failed > settings.failed_most * settings.requests or not seen.tpot_s:
        return False
    # the rule of 200 samples for a p95 is checked where settings are read
    ttft_s, tpot_s = float(np.percentile(seen.ttft_s, 95)), float(np.percentile(seen.tpot_s, 95))
    return ttft_s <= search.ttft_p95_s and tpot_s <= search.tpot_p95_s


def is_lost(seen: Seen, search: RateSearch, settings: ServeSettings) -> bool:
    """Whether so many requests were too slow already that the rest cannot bring p95 below the limits."""
    most = 0.05 * settings.requests + 1
    return (
        sum(value > search.ttft_p95_s for value in seen.ttft_s) > most
        or sum(value > search.tpot_p95_s for value in seen.tpot_s) > most
    )


def _held_bytes(device: Device, place: Place) -> float | None:
    try:
        return device.sensor("process_memory_bytes", place.pids).read() if place.pids else None
    except SensorError:
        return None


def _tell_reserved(
    job: Job, settings: ServeSettings, endpoint: Endpoint, place: Place, idle_bytes: float | None
) -> None:
    """Say whether the server's memory is what it reserved, not what its work needs, and how we know."""
    said = " ".join([settings.command, *(str(one.get("owned_by", "")) for one in served_models(endpoint))]).lower()
    known = next((name for name in _RESERVE if name in said), "")
    now_bytes = _held_bytes(job.device, place)
    if idle_bytes:
        job.recorder.figure("server_idle_bytes", idle_bytes)
    change = abs(now_bytes / idle_bytes - 1) if now_bytes and idle_bytes else None
    if known:
        job.recorder.figure("memory_preallocated", 1)
        text = f"memory is preallocated, no measure of what the work needs: {known} reserves it when it starts"
        job.recorder.caution("preallocated", text)
    elif change is not None and change < _RESERVED_CHANGE:
        text = f"after all loads the server held what it held idle, within {percent_text(change)}: it reserved that"
        job.recorder.caution("memory_unmoved", f"{text} before, or its work needs little beside it")


def _judge(job: Job, settings: ServeSettings, prepared: Prepared, endpoint: Endpoint, place: Place) -> None:
    """Score held-out text through the server, if it gives log-probabilities of a prompt."""
    rows_RT, _ = judged_rows(prepared.heldout, settings)
    texts = [prepared.tokenizer.decode(row_T.tolist()).strip("\ufffd") for row_T in rows_RT]
    nats, tokens, scored_bytes = 0.0, 0, 0
    work = Work(tokens=settings.sequence_tokens, samples=1)
    with job.recorder.attempt("quality", {}), job.recorder.window("quality", work=work, adaptive=False) as window:
        if place.why_not:
            window.absent(ELSEWHERE, place.why_not)
        for number, text in enumerate(texts):
            try:
                with window.step():
                    score = score_text(endpoint, text)
            except Unsupported as error:
                window.absent("heldout_bits_per_byte", str(error))
                return
            nats, tokens = nats + score.nats, tokens + score.tokens
            scored_bytes += score.scored_bytes
            job.recorder.progress(number + 1, len(texts), "held-out loss")
        window.figure("heldout_tokens", tokens)
        window.figure("heldout_bytes", scored_bytes)
        window.figure("heldout_nats_per_token", nats / tokens)
        window.figure("heldout_perplexity", math.exp(min(nats / tokens, 700.0)))
        window.figure("heldout_bits_per_byte", nats / math.log(2) / scored_bytes)


ENTRY = WorkloadEntry(title="Any OpenAI-compatible server under loads", run=run)
