"""Inference measures each point of its grids for itself, and a point that cannot be had is only that point's outcome."""

import resource
from pathlib import Path

import pytest
import torch

from efficientllm import registry
from efficientllm.bench.assemble import sort_out
from efficientllm.engines import _exact
from efficientllm.engines.native import NativeEngine
from efficientllm.errors import Disagrees
from efficientllm.meters.marks import Marks
from efficientllm.records import events
from efficientllm.records.choice import Choice
from efficientllm.records.grid import Generation, Grid
from efficientllm.records.measurement import ARITHMETIC
from efficientllm.records.protocol import Protocol
from efficientllm.records.settings import InferenceSettings
from efficientllm.records.trial import make_trial
from efficientllm.workloads import _inference_windows, inference
from efficientllm.workloads._contract import Job

SHAPE = {"num_layers": 1, "width": 64, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32, "mlp_width": 96}
QUICK = Protocol(name="smoke", min_window_s=0.0, max_window_s=0.02, warmup_steps=1, warmup_max_s=0.01)


@pytest.fixture
def measured(text, tmp_path):
    """Measure settings in this process; return what was said of it."""

    def run(**given):
        given = {"prefill": (), "decode": (), "shape": SHAPE, **given}
        settings = InferenceSettings(
            corpus=Choice(name=str(text / "corpus")), vocab_tokens=320, sequence_tokens=32, heldout_tokens=256, **given
        )
        trial = make_trial(settings=settings, protocol=QUICK, device="cpu", seed=0, repeat=0)
        device = registry.load("device", "cpu").open("")
        marks = Marks(tmp_path / "events", device, QUICK)
        inference.run(
            Job(
                trial=trial,
                environment="",
                checkpoints=None,
                device=device,
                recorder=marks,
                artifact=None,
                parent_artifact=None,
                cache=text,
                threads=1,
            )
        )
        marks.close()
        return sort_out(events.decode_events(Path(tmp_path / "events").read_bytes())[0])

    return run


def engine_of():
    settings = InferenceSettings(shape=SHAPE, vocab_tokens=320)
    entry = registry.load("engine", "native")
    return entry.open(settings, folder=None, vocab_tokens=320, seed=0, device="cpu", threads=0)


def outcomes(told):
    """Return (name, batch) -> outcome and reason."""
    return {
        (opened.name, opened.coordinates.get("batch")): (told.closed[i].outcome, told.closed[i].reason)
        for i, opened in told.opened.items()
    }


def values(told, window, name):
    return [value for part in told.series[window, name, 0] for value in part.values]


def test_whole_requests_are_timed_as_a_whole_with_the_times_of_their_tokens_inside(measured):
    told = measured(generate=(Generation(batch=2, tokens=16, new_tokens=5),))
    window = next(i for i, opened in told.opened.items() if opened.name == "generate")
    assert told.opened[window].coordinates == {"batch": 2, "tokens": 16, "new_tokens": 5}
    assert told.opened[window].work.tokens == 10
    steps, first, others = (values(told, window, name) for name in ("step_s", "ttft_s", "inter_token_s"))
    assert len(first) == len(steps) and len(others) == 4 * len(steps)
    for i, step_s in enumerate(steps):
        inside_s = first[i] + sum(others[4 * i : 4 * i + 4])
        assert 0 < inside_s <= step_s  # parts of the step, and never what the step was made of
        assert inside_s > 0.5 * step_s


def test_a_single_token_has_no_time_after_it_and_says_so(measured):
    told = measured(generate=(Generation(batch=1, tokens=8, new_tokens=1),))
    window = next(i for i, opened in told.opened.items() if opened.name == "generate")
    assert values(told, window, "ttft_s")
    assert (window, "inter_token_s", 0) not in told.series
    assert told.missing[window]["inter_token_s"] == "one token has none after it"


def test_a_request_is_the_prompts_work_and_one_decode_for_each_token_after_the_first():
    engine = engine_of()
    work = _inference_windows.request_work(engine, Generation(batch=3, tokens=20, new_tokens=3))
    prompt, one, two = engine.prefill_work(3, 20), engine.decode_work(3, 20), engine.decode_work(3, 21)
    assert work.model_flops == prompt.model_flops + one.model_flops + two.model_flops
    assert work.moved_bytes == prompt.moved_bytes + one.moved_bytes + two.moved_bytes
    assert (work.tokens, work.samples) == (9, 3)


def test_requests_give_the_tokens_that_the_engine_generates(measured, monkeypatch):
    fed, prompts = [], []
    prefill, decode = NativeEngine.prefill, NativeEngine.decode

    def look_at_prompt(self, tokens_BT):
        fed.clear()
        prompts.append(tokens_BT.clone())
        return prefill(self, tokens_BT)

    def look_at_token(self, tokens_B):
        fed.append(tokens_B.clone())
        return decode(self, tokens_B)

    monkeypatch.setattr(NativeEngine, "prefill", look_at_prompt)
    monkeypatch.setattr(NativeEngine, "decode", look_at_token)
    measured(generate=(Generation(batch=2, tokens=16, new_tokens=5),))
    fed_Bn, prompt_BT = torch.stack(fed, dim=1), prompts[-1]
    assert torch.equal(engine_of().generate(prompt_BT, 5)[:, :4], fed_Bn)


def test_a_point_beyond_the_memory_is_oom_gives_its_memory_back_and_the_grid_goes_on(measured):
    """A real limit: the first point has room for its keys but not for its values, the second needs what they took."""
    shape = {**SHAPE, "num_heads": 1, "head_dim": 64}
    measured(shape=shape, decode=(Grid(batch=1, tokens=32),))  # libraries take their own before the limit is set
    row_bytes = 2 * 64 * 4 * (1 + 64)  # keys and values of one row of one token, with room for decode, in float32
    too_many, many = 1_000_000_000 // row_bytes, 500_000_000 // row_bytes
    before = resource.getrlimit(resource.RLIMIT_AS)
    held_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held_bytes + 800_000_000, before[1]))
    try:
        told = measured(shape=shape, decode=tuple(Grid(batch=b, tokens=1) for b in (too_many, many, 1)))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    found = outcomes(told)
    assert found["decode", too_many][0] == "oom", found
    assert "memory" in found["decode", too_many][1]
    assert found["decode", many][0] == found["decode", 1][0] == "ok", found
    assert found["quality", None][0] == "ok"


def test_a_prompt_beyond_the_positions_is_unsupported_in_one_line_and_the_grid_goes_on(measured):
    told = measured(
        shape={**SHAPE, "max_positions": 128},
        position=Choice(name="learned"),
        prefill=(Grid(batch=1, tokens=64), Grid(batch=2, tokens=256)),
        generate=(Generation(batch=3, tokens=120, new_tokens=9), Generation(batch=4, tokens=16, new_tokens=2)),
    )
    found = outcomes(told)
    assert found["prefill", 1][0] == found["generate", 4][0] == "ok"
    for point, needed in ((("prefill", 2), 256), (("generate", 3), 129)):
        outcome, reason = found[point]
        assert outcome == "unsupported"
        assert f"{needed} tokens exceed the 128 positions" in reason
        assert "\n" not in reason


@pytest.mark.parametrize(("precision", "said"), [("fp32", "float32"), ("bf16", "bfloat16"), (None, None)])
def test_the_record_says_in_which_number_format_a_precision_computes(measured, precision, said):
    told = measured(precision=Choice(name=precision) if precision else None, decode=(Grid(batch=1, tokens=8),))
    assert told.model.implementations.get(ARITHMETIC) == said


def held(told):
    """Return (batch, tokens) -> error, divergence and error of rounding alone, of the arithmetic windows."""
    names = ("arithmetic_error_ratio", "arithmetic_divergence_nats", "arithmetic_rounding_ratio")
    return {
        tuple(opened.coordinates.values()): tuple(told.figures[i][name] for name in names)
        for i, opened in told.opened.items()
        if opened.name == "arithmetic"
    }


@pytest.mark.parametrize("engine", ["native", "transformers", "transformers_static"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_held_to_float32_arithmetic_on_the_same_weights(engine, dtype, measured):
    options = {"compiled": False} if engine == "transformers_static" else {}
    points = (Grid(batch=1, tokens=12), Grid(batch=3, tokens=2))
    found = held(measured(engine=Choice(name=engine, options=options), dtype=dtype, arithmetic=points))
    assert list(found) == [(1, 12), (3, 2)]
    for error, nats, alone in found.values():
        if dtype == "float32":
            assert 0 < error <= 1e-5 and abs(nats) <= 1e-6 and alone == 0
        else:
            assert 1e-3 < error < 3e-2 and 1e-3 < alone < 3e-2, "bfloat16 rounds on either side, to about the same end"


@pytest.mark.parametrize(("precision", "options"), [("int8", {}), ("int4", {"group": 32}), ("nf4", {"block": 32})])
def test_what_a_format_loses_is_on_both_sides_of_its_arithmetic(precision, options, measured):
    choice = Choice(name=precision, options=options)
    found = held(measured(precision=choice, dtype="bfloat16", arithmetic=(Grid(batch=2, tokens=9),)))
    error, _, alone = found[2, 9]
    assert 1e-3 < error < 3e-2 and 1e-3 < alone < 3e-2


@pytest.mark.parametrize("way", ["prefill", "decode"])
@pytest.mark.parametrize(("dtype", "off"), [("float32", 1.001), ("bfloat16", 1.2)])
def test_an_engine_that_computes_something_else_is_invalid(way, dtype, off, measured, monkeypatch):
    right = getattr(NativeEngine, way)
    monkeypatch.setattr(NativeEngine, way, lambda self, tokens: right(self, tokens) * off)
    with pytest.raises(
        Disagrees, match=r"logits of 2 rows are 0\.\d+ and .* nats from float32 .*; rounding explains 0\.0"
    ):
        measured(dtype=dtype, arithmetic=(Grid(batch=2, tokens=9),))


def test_eight_bit_floats_are_rounded_with_a_scale_a_row():
    x = torch.tensor([[1.0, 0.3, -0.01], [1e-3, 1e-4, 0.0]])
    found = _exact.rounded(x, torch.float8_e4m3fn)
    assert found[:, 0].tolist() == pytest.approx(x[:, 0].tolist()) and 0 < (found - x).abs().max() < 0.3 / 16
    assert torch.equal(_exact.rounded(x, torch.bfloat16), x.bfloat16().float())


def test_a_coded_cache_is_not_held_to_arithmetic_that_has_none(measured):
    found = outcomes(measured(cache=Choice(name="kv_int8"), arithmetic=(Grid(batch=2, tokens=9),)))
    outcome, reason = found["arithmetic", 2]
    assert outcome == "unsupported" and "kv_int8 is rounded on purpose" in reason
