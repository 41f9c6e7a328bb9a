"""Training and quality: tokens accounted for, a loss that begins where ignorance begins, bits per byte that can be."""

from __future__ import annotations

import math

from efficientllm.physics.finding import Finding, impossible
from efficientllm.records.finetune_settings import FinetuneSettings
from efficientllm.records.measurement import Measurement
from efficientllm.records.model_settings import ModelSettings
from efficientllm.records.settings import PretrainSettings, VerifySettings
from efficientllm.records.training_settings import TrainingSettings
from efficientllm.records.window import Window
from efficientllm.units import significant

#: An untrained model knows nothing: its loss is ln(vocabulary), a little more where its logits have some spread, and
#: never noticeably less.
_FIRST_LOSS_LOW, _FIRST_LOSS_HIGH = 0.95, 1.25
#: A model that sees its own targets comes near 0; none reaches a tenth of a good compressor on unseen text.
_BPB_OF_BZ2, _BPB_LEAST = 0.1, 0.05
#: A trained model may be worse than a uniform guess, but not by so much.
_BPB_OF_UNIFORM = 2.0
_AGREE = 0.01


def tokens_accounted(measurement: Measurement, window: Window) -> list[Finding]:
    """Tokens fed = steps times tokens a step = the budget, to the last step (`tokens_unaccounted`).

    Of a run that went on from a checkpoint the curve holds all steps, the measured segment only those since.
    """
    fed = measurement.figures.get("tokens_fed")
    settings, per_step = measurement.trial.settings, window.work.tokens
    if fed is None or window.name not in ("curve", "train") or not per_step:
        return []
    series = window.find("loss") if window.name == "curve" else window.find("step_s")
    seen = per_step * len(series.values) if series else 0
    before = measurement.figures.get("resumed_step", 0.0) * per_step if window.name == "train" else 0.0
    if seen > fed - before or (window.name == "curve" and seen != fed):
        since = f" since step {measurement.figures['resumed_step']:.0f}" if before else ""
        text = f"its steps hold {seen} tokens, but {fed - before:.0f} were fed{since}"
        return impossible(window, "tokens_unaccounted", text)
    done = measurement.outcome == "ok"
    if done and isinstance(settings, TrainingSettings) and abs(fed - settings.tokens) >= per_step:
        return impossible(window, "tokens_unaccounted", f"{fed:.0f} tokens were fed of a budget of {settings.tokens}")
    return []


def first_loss_is_ignorant(measurement: Measurement, window: Window) -> list[Finding]:
    """From scratch, the loss at step 0 lies near ln(vocabulary) (`first_loss_off`)."""
    loss, vocab_tokens = measurement.figures.get("first_loss"), _vocab_tokens(measurement)
    scratch = isinstance(measurement.trial.settings, PretrainSettings | VerifySettings) and not measurement.trial.parent
    if window.name != "train" or loss is None or vocab_tokens is None or not scratch:
        return []
    expected = math.log(vocab_tokens)
    if _FIRST_LOSS_LOW * expected <= loss <= _FIRST_LOSS_HIGH * expected:
        return []
    text = f"loss {significant(loss)} at step 0, but an untrained model over {vocab_tokens} tokens has about "
    return impossible(window, "first_loss_off", f"{text}{significant(expected)} nats/token")


def bits_per_byte_are_possible(measurement: Measurement, window: Window) -> list[Finding]:
    """Held-out bits per byte are neither those of a leak nor worse than guessing (`bits_per_byte_absurd`).

    Responses to instructions have no least: a prompt may say all of its response (copying), and a model that has
    learned the task tells it for nothing. What was pretrained may be forgotten without limit by fine-tuning.
    """
    bits = window.figures.get("heldout_bits_per_byte")
    if bits is None:
        return []
    bz2 = measurement.figures.get("bz2_bits_per_byte", 0.0)
    told = isinstance(measurement.trial.settings, FinetuneSettings) and window.name == "quality"
    least = 0.0 if told else max(_BPB_LEAST, _BPB_OF_BZ2 * bz2)
    most = math.inf if window.name == "forgetting_after" else _worst_bits(measurement, window)
    if not math.isfinite(bits) or bits < least:
        text = f"{bits:.3g} bits/byte on unseen text; below {least:.2g} the model has seen its answers"
        return impossible(window, "bits_per_byte_absurd", text)
    if bits > most and not measurement.figures.get("random_weights"):
        text = f"{bits:.3g} bits/byte, twice as bad as a uniform guess over the vocabulary"
        return impossible(window, "bits_per_byte_absurd", text)
    return []


def quality_agrees_with_itself(measurement: Measurement, window: Window) -> list[Finding]:
    """Bits per byte follow from nats per token, tokens and bytes (`quality_mismatch`)."""
    figures = window.figures
    names = ("heldout_bits_per_byte", "heldout_nats_per_token", "heldout_tokens", "heldout_bytes")
    if not all(figures.get(name, 0.0) > 0 for name in names):
        return []
    bits, nats, tokens, num_bytes = (figures[name] for name in names)
    derived = nats * tokens / num_bytes / math.log(2)
    if abs(derived - bits) <= _AGREE * bits:
        return []
    text = f"{bits:.4g} bits/byte, but nats, tokens and bytes give {derived:.4g}"
    return impossible(window, "quality_mismatch", text)


def loss_above_entropy(measurement: Measurement, window: Window) -> list[Finding]:
    """On a task of known entropy no model is better than it (`loss_below_entropy`).

    Reads the trial's figure `task_entropy_nats_per_token`, which a task of random tokens sets.
    """
    entropy = measurement.figures.get("task_entropy_nats_per_token")
    nats = window.figures.get("heldout_nats_per_token")
    if entropy is None or nats is None or nats >= (1 - _AGREE) * entropy:
        return []
    text = f"{nats:.4g} nats/token on a task whose entropy is {entropy:.4g}"
    return impossible(window, "loss_below_entropy", text)


def _vocab_tokens(measurement: Measurement) -> int | None:
    """The size of the vocabulary: as the trial says, else as asked for where the tokenizer is trained here."""
    told = measurement.figures.get("vocab_tokens")
    settings = measurement.trial.settings
    if told is not None:
        return int(told)
    if not isinstance(settings, ModelSettings) or settings.tokenizer != "bpe":
        return None
    return settings.vocab_tokens


def _worst_bits(measurement: Measurement, window: Window) -> float:
    tokens, num_bytes = window.figures.get("heldout_tokens"), window.figures.get("heldout_bytes")
    vocab_tokens = _vocab_tokens(measurement)
    if not (tokens and num_bytes and vocab_tokens):
        return math.inf
    return _BPB_OF_UNIFORM * math.log2(vocab_tokens) * tokens / num_bytes
