"""Fine-tuning as a whole: a checkpoint made here, a task that can be learned, every method, judged before and after."""

import json
import subprocess
import sys

import pytest
import torch

from efficientllm.bench.job import JobFile
from efficientllm.bench.worker import run_job
from efficientllm.data.samples import Encoded
from efficientllm.devices.choose import open_device
from efficientllm.meters.marks import Marks
from efficientllm.models import checkpoint
from efficientllm.models.build import build_decoder
from efficientllm.records import events
from efficientllm.records.choice import Choice
from efficientllm.records.protocol import PROTOCOLS
from efficientllm.records.settings import FinetuneSettings, InferenceSettings
from efficientllm.records.trial import make_trial
from efficientllm.training.loop import TrainLoop
from efficientllm.workloads import finetune
from efficientllm.workloads.responses import is_right

SMALL = {"num_layers": 2, "width": 64, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32, "mlp_width": 96}


def settings_of(text, **more):
    fields = {
        "tokens": 64 * 4 * 24,
        "micro_batch": 4,
        "sequence_tokens": 64,
        "heldout_tokens": 512,
        "vocab_tokens": 320,
    }
    fields |= {"instructions": Choice(name="copying"), "learning_rate": 3e-3, "heldout_samples": 32}
    return FinetuneSettings(shape=SMALL, corpus=Choice(name=str(text / "corpus")), **{**fields, **more})


def run(settings, text, folder, parent="", artifact="", checkpoints=""):
    """Run a trial in this process; return its end and what it told: figures, absences, series."""
    folder.mkdir(parents=True, exist_ok=True)
    trial = make_trial(settings=settings, protocol=PROTOCOLS["smoke"], device="cpu", seed=0, repeat=0)
    device = open_device("cpu")
    marks = Marks(folder / "events.jsonl", device, trial.protocol)
    job = JobFile(
        trial=trial, cache=str(text / "cache"), threads=1, parent_artifact=str(parent), artifact=str(artifact),
        checkpoints=str(checkpoints),
    )  # fmt: skip
    end = run_job(job, marks, device)
    marks.close()
    said, _ = events.decode_events((folder / "events.jsonl").read_bytes())
    names = {e.window: e.name for e in said if isinstance(e, events.Opened)}
    figures = {(names.get(e.window), e.name): e.value for e in said if isinstance(e, events.Figure)}
    models = [e.model for e in said if isinstance(e, events.Facts) and e.model is not None]
    if models:
        figures[None, "trained_parameters"] = models[-1].parameters_trained
    series = {}
    for event in said:
        if isinstance(event, events.Values):
            series.setdefault((names[event.window], event.name), []).extend(event.values)
    return end, figures, series


@pytest.fixture(scope="module")
def base(text, tmp_path_factory):
    """A checkpoint whose weights are first ones: small, but it is there."""
    folder = tmp_path_factory.mktemp("base") / "model"
    settings = settings_of(text)
    from efficientllm.data.prepare import prepare

    prepared = prepare(settings, text / "cache", None)
    vocab_tokens = prepared.tokenizer.vocab_tokens
    checkpoint.save(
        build_decoder(settings, vocab_tokens=vocab_tokens, seed=0, device="cpu"),
        settings, folder, prepared.tokenizer.path,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def tuned(text, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    settings = settings_of(text, method=Choice(name="lora", options={"rank": 8}), answers=8, evaluate_every=8)
    return run(settings, text, folder, parent=base, artifact=folder / "artifact"), folder / "artifact"


def test_a_trial_tells_loss_quality_forgetting_and_what_was_trained(tuned):
    (end, figures, series), _ = tuned
    assert end.outcome == "ok", end
    losses = series["curve", "loss"]
    assert len(losses) == 24 and sum(losses[-4:]) < sum(losses[:4]) - 0.4
    assert figures["quality", "judged_samples"] == 32 and figures["quality", "asked_samples"] == 8
    assert 0 <= figures["quality", "exact_responses_ratio"] <= 1
    assert figures["forgetting_before", "heldout_nats_per_token"] > 0
    rise = (
        figures["forgetting_after", "heldout_nats_per_token"] - figures["forgetting_before", "heldout_nats_per_token"]
    )
    assert figures[None, "forgetting_nats_per_token"] == pytest.approx(rise)
    layer = 8 * ((64 + 64) + 2 * (64 + 32) + (64 + 64) + 3 * (64 + 96))
    assert figures[None, "trained_parameters"] == 2 * layer
    # the optimiser's two moments of each weight, and its count of steps, are predicted as they are told
    assert figures[None, "predicted_optimizer_bytes"] == figures[None, "optimizer_bytes"]
    assert figures[None, "predicted_peak_bytes"] > figures[None, "predicted_weights_bytes"] > 0
    assert 4 * 2 * layer < figures[None, "adapter_bytes"] < 4 * 2 * layer + 8192
    assert figures[None, "tokens_fed"] == 64 * 4 * 24
    assert series["curve", "heldout_step"] == [8, 16, 24]
    assert 0 < figures[None, "unigram_bits_per_byte"] < 8
    assert figures[None, "commonest_answer_ratio"] == figures[None, "commonest_response_ratio"] == 0
    assert (None, "bz2_bits_per_byte") not in figures  # the corpus' lines are not those of responses


def test_what_it_leaves_is_a_plain_model_with_its_adapter_beside_it(tuned, text, tmp_path):
    (_, figures, _), artifact = tuned
    assert json.loads((artifact / "config.json").read_text())["model_type"] == "llama"
    assert (artifact / "adapter" / "adapter_config.json").exists()
    settings = InferenceSettings(
        **{name: getattr(settings_of(text), name) for name in ("shape", "corpus", "vocab_tokens", "heldout_tokens")},
        sequence_tokens=64, prefill=(), decode=(),
    )  # fmt: skip
    end, judged, _ = run(settings, text, tmp_path, parent=artifact)
    assert end.outcome == "ok", end
    merged, adapted = judged["quality", "heldout_nats_per_token"], figures["forgetting_after", "heldout_nats_per_token"]
    assert merged == pytest.approx(adapted, rel=1e-4)


def test_random_weights_have_no_quality_and_say_so(text, tmp_path):
    end, figures, _ = run(settings_of(text, method=Choice(name="freeze")), text, tmp_path)
    assert end.outcome == "ok", end
    assert figures[None, "random_weights"] == 1
    assert ("quality", "heldout_bits_per_byte") not in figures and ("forgetting_before", "x") not in figures


def test_a_model_folder_brings_its_own_shape_and_tokenizer(text, base, tmp_path):
    settings = settings_of(text, tokens=64 * 4 * 4)
    given = {name: getattr(settings, name) for name in ("corpus", "instructions", "tokens", "micro_batch")}
    given |= {"sequence_tokens": 64, "heldout_tokens": 512, "heldout_samples": 16}
    end, figures, _ = run(FinetuneSettings(model=str(base), method=Choice(name="full"), **given), text, tmp_path)
    assert end.outcome == "ok", end
    decoder = checkpoint.load(base)
    assert figures[None, "trained_parameters"] == sum(p.numel() for p in decoder.parameters())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"model": "/no/such/folder"}, "no such folder"),
        ({"method": Choice(name="lora", options={"rnk": 3})}, "unknown option 'rnk'"),
        ({"method": Choice(name="freeze", options={"blocks": 9})}, "the model has 2"),
        ({"sequence_tokens": 8, "forgetting": False}, "sequence_tokens"),
    ],
)
def test_bad_input_is_one_line(text, base, tmp_path, more, words):
    if "model" in more:
        settings = FinetuneSettings(instructions=Choice(name="copying"), **more)
    else:
        settings = settings_of(text, **more)
    end, _, _ = run(settings, text, tmp_path, parent="" if "model" in more else base)
    assert end.outcome != "ok" and words in end.reason and "\n" not in end.reason.strip(), end


def test_an_answer_is_right_if_the_response_ends_with_it():
    sample = Encoded(torch.zeros(1).numpy(), torch.zeros(1).numpy() > 0, 0, "3 + 4 = 7\n#### 7", "7")
    assert is_right("I think\n#### 7\n", sample) and not is_right("#### 17", sample) and not is_right("", sample)


def test_looks_and_answers_drop_nothing(text, base, tmp_path):
    """With dropout the same weights would be judged differently at each look."""
    method = Choice(name="lora", options={"rank": 4, "dropout": 0.5})
    settings = settings_of(text, method=method, tokens=64 * 4 * 2, learning_rate=1e-9, warmup_ratio=0.0)
    end, figures, _ = run(settings, text, tmp_path, parent=base)
    assert end.outcome == "ok", end
    assert abs(figures[None, "forgetting_nats_per_token"]) < 1e-6
    full = settings_of(text, method=Choice(name="full"), tokens=64 * 4 * 2, learning_rate=1e-9, warmup_ratio=0.0)
    _, plain, _ = run(full, text, tmp_path / "full", parent=base)
    loss = "quality", "heldout_nats_per_token"
    assert figures[loss] == pytest.approx(plain[loss], abs=1e-5)


def test_weights_in_the_hosts_memory_are_unsupported_and_say_so(text, base, tmp_path):
    end, _, _ = run(settings_of(text, offload="weights"), text, tmp_path, parent=base)
    assert end.outcome == "unsupported" and "fine-tuning runs on one device" in end.reason


def test_the_library_of_a_method_is_no_memory_of_the_method(text, base, tmp_path, monkeypatch):
    """What the process holds before the model is noted once peft is there: it takes more than a small model.

    So does what torch loads at an optimiser's first step, and with peft already: else `full` would seem to need it.
    """
    order = []
    noted, loaded = Marks.baseline_memory, finetune.load_method
    monkeypatch.setattr(Marks, "baseline_memory", lambda marks: (order.append("baseline"), noted(marks)))
    monkeypatch.setattr(finetune, "load_method", lambda choice: (order.append("library"), loaded(choice)))
    monkeypatch.setattr(finetune, "load_compiler", lambda: order.append("training"))
    end, _, _ = run(settings_of(text, tokens=64 * 4 * 4), text, tmp_path, parent=base)
    assert end.outcome == "ok" and order == ["library", "training", "baseline"]


@pytest.mark.parametrize(("method", "there"), [("lora", True), ("freeze", False)])
def test_loading_a_method_loads_the_library_that_it_stands_on(method, there):
    script = "import sys; from efficientllm.adapters.attach import load_method as load\n"
    script += "from efficientllm.records.choice import Choice\n"
    script += f"load(Choice(name={method!r})); print('peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(there)


STOPPED = {
    "lora_plus": {"method": Choice(name="lora_plus", options={"rank": 4, "ratio": 8.0, "dropout": 0.1})},
    "over 4 bits": {
        "method": Choice(name="lora_plus", options={"rank": 4, "ratio": 8.0}),
        "base_precision": Choice(name="nf4"),
    },
    "vera": {"method": Choice(name="vera", options={"rank": 8})},
    "full": {"method": Choice(name="full")},
}


@pytest.mark.parametrize("case", STOPPED)
def test_a_run_that_goes_on_from_a_checkpoint_ends_as_the_run_that_was_not_stopped(
    case, text, base, tmp_path, monkeypatch
):
    settings = settings_of(text, tokens=64 * 4 * 10, checkpoint_every=4, answers=4, **STOPPED[case])
    end, calm, undisturbed = run(settings, text, tmp_path / "calm", parent=base)
    assert end.outcome == "ok", end
    step, kept = TrainLoop.step, tmp_path / "kept"

    def stopping(loop):
        if loop.steps_done == 6:
            raise RuntimeError("stopped here")
        return step(loop)

    with monkeypatch.context() as patched:
        patched.setattr(TrainLoop, "step", stopping)
        end, _, _ = run(settings, text, tmp_path / "stopped", parent=base, checkpoints=kept)
    assert end.outcome == "crashed" and "stopped here" in end.reason
    end, figures, series = run(settings, text, tmp_path / "resumed", parent=base, checkpoints=kept)
    assert end.outcome == "ok" and figures[None, "resumed_step"] == 4, end
    assert series["curve", "loss"] == undisturbed["curve", "loss"] and len(series["curve", "loss"]) == 10
    for name in ("heldout_nats_per_token", "exact_responses_ratio", "exact_answers_ratio"):
        assert figures["quality", name] == calm["quality", name]
    assert figures["forgetting_before", "heldout_nats_per_token"] == calm["forgetting_before", "heldout_nats_per_token"]
    assert figures[None, "forgetting_nats_per_token"] == calm[None, "forgetting_nats_per_token"]


def test_a_checkpoint_of_other_instructions_is_refused(text, base, tmp_path):
    file, kept = tmp_path / "data.jsonl", tmp_path / "kept"

    def write(word):
        lines = (json.dumps({"prompt": f"say {word} {i}", "response": f"{word} {i % 7}"}) for i in range(200))
        file.write_text("\n".join(lines))

    settings = settings_of(text, tokens=64 * 4 * 6, checkpoint_every=4, instructions=Choice(name=str(file)))
    write("this")
    run(settings, text, tmp_path / "one", parent=base, checkpoints=kept)
    assert list(kept.iterdir())
    write("that")
    end, figures, series = run(settings, text, tmp_path / "other", parent=base, checkpoints=kept)
    assert end.outcome == "ok" and (None, "resumed_step") not in figures, end
    assert len(series["curve", "loss"]) == 6
