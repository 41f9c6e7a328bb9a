"""The client sees the times and faults that a real server was set to have."""

from __future__ import annotations

import json
import statistics

import pytest
from tests.speaking_server import speaking

from efficientllm.engines._endpoint_client import Endpoint, check_url, find_dialect
from efficientllm.engines._endpoint_score import score_text
from efficientllm.engines._endpoint_stream import EndpointError, empty_reply, read_stream
from efficientllm.errors import Unsupported
from efficientllm.workloads.serving import tpot_of


def words(text):
    return len(text.split())


def test_times_of_a_reply_are_those_of_its_stream():
    with speaking(first_s=0.1, each_s=0.02) as (url, _):
        endpoint = find_dialect(Endpoint(url))
        replies = [endpoint.ask("the prompt is long", 6) for _ in range(4)]
    for reply in replies:
        assert not reply.error and reply.text == " a" * 6
        assert (reply.tokens, reply.counted_by, reply.prompt_tokens, reply.finish) == (6, "usage", 4, "length")
        assert reply.at_s == sorted(reply.at_s) and reply.at_s[-1] <= reply.end_s
        assert reply.at_s[0] - reply.intended_s >= 0.1
    # no sleep is shorter than asked for; how much longer is the machine's business, within reason
    assert statistics.median(reply.at_s[0] - reply.sent_s for reply in replies) < 0.4
    whole = [reply for reply in replies if len(reply.at_s) == 6]
    assert whole and 0.019 <= statistics.median(tpot_of(reply, None) for reply in whole) < 0.1


def test_pieces_of_several_tokens_are_no_tokens_of_their_own():
    with speaking(each_s=0.03, tokens_a_piece=4) as (url, _):
        reply = find_dialect(Endpoint(url)).ask("x", 12)
    assert len(reply.at_s) == 3 and reply.tokens == 12
    assert tpot_of(reply, None) is None  # nobody says how many came first
    assert tpot_of(reply, words) == pytest.approx((reply.at_s[-1] - reply.at_s[0]) / 8)


def test_what_comes_together_is_one_arrival_and_its_times_are_not_made_up():
    def event(text, finish=None):
        return b"data: " + json.dumps({"choices": [{"text": text, "finish_reason": finish}]}).encode() + b"\n\n"

    reply = empty_reply()
    first, rest = event(" a")[:20], event(" a")[20:]  # an event may be cut anywhere
    arrivals = [(1.0, first), (2.0, rest + event(" b")), (2.00001, event(" c")), (3.0, event(" d", "length"))]
    read_stream(arrivals, reply, "m")
    assert (reply.at_s, reply.pieces) == ([2.0, 3.0], [" a b c", " d"])
    reply.tokens = 4
    assert tpot_of(reply, words) == 1.0


def test_a_server_without_usage_has_its_tokens_counted_here():
    with speaking(usage=False) as (url, _):
        endpoint = find_dialect(Endpoint(url, count_tokens=words))
        reply = endpoint.ask("x", 5)
    assert (reply.tokens, reply.counted_by) == (5, "tokenizer")


def test_the_fullest_request_that_a_server_takes_is_found():
    with speaking() as (url, behaviour):
        endpoint = find_dialect(Endpoint(url))
        assert endpoint.model == "m" and endpoint.dialect.path == "completions"
        asked = behaviour.bodies[-1]
        assert asked["ignore_eos"] and asked["min_tokens"] == asked["max_tokens"] == 2
        assert asked["temperature"] == 0 and asked["stream_options"] == {"include_usage": True}
        endpoint.generate(["x"], 3)
        assert "ignore_eos" not in behaviour.bodies[-1]  # an answer may end where it ends
    with speaking(strict=True) as (url, behaviour):
        assert find_dialect(Endpoint(url)).dialect.extras == ()
    with speaking(chat_only=True) as (url, behaviour):
        endpoint = find_dialect(Endpoint(url))
        assert endpoint.dialect.path == "chat/completions"
        assert endpoint.ask("hello", 3).text == " a a a"
        assert behaviour.bodies[-1]["messages"] == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("refuse", "answered 503: overloaded"),
        ("stall", "stalled: nothing came for 0.3 s"),
        ("break", "broke in the middle"),
        ("end", "pieces, without a finish reason"),
        ("garbage", "no JSON object: '{not json'"),
        ("error", "error: out of cache"),
        ("named", "asked for model 'm', the server answers as 'other'"),
    ],
)
def test_each_fault_is_one_clear_line(fault, said):
    with speaking(each_s=0.02) as (url, behaviour):
        endpoint = find_dialect(Endpoint(url, stall_s=0.3))
        behaviour.every = fault
        reply = endpoint.ask("x", 6)
        assert said in reply.error and "\n" not in reply.error
        assert reply.end_s >= reply.sent_s
        behaviour.every = ""
        assert not endpoint.ask("x", 6).error


def test_a_server_that_is_not_there_or_is_another_one_is_said():
    with pytest.raises(EndpointError, match=r"127.0.0.1:9 cannot be reached: .*refused"):
        find_dialect(Endpoint("http://127.0.0.1:9"))
    with pytest.raises(EndpointError, match="no server's address"):
        check_url("localhost:8000")
    with speaking() as (url, _), pytest.raises(EndpointError, match=r"asked for model 'big'.*answers as 'm'"):
        find_dialect(Endpoint(url, model="big"))


def test_text_is_scored_where_the_server_tells_log_probabilities():
    with speaking(logprobs=True) as (url, _):
        score = score_text(find_dialect(Endpoint(url)), "one two three four")
    assert (score.nats, score.tokens, score.scored_bytes) == (6.0, 3, len(" two three four"))
    with speaking() as (url, _), pytest.raises(Unsupported, match="no log-probabilities"):
        score_text(find_dialect(Endpoint(url)), "one two")
