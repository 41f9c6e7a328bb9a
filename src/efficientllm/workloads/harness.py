"""Any task of lm-evaluation-harness, asked of an engine of ours: the harness asks, the engine tells likelihoods.

The package (extra `evals`) is imported here alone, when a task is asked for.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from efficientllm.data.questions._contract import HarnessTask
from efficientllm.data.tokenizer import Tokenizer
from efficientllm.engines._contract import Engine
from efficientllm.engines._logits import Continued, continuation_nats
from efficientllm.errors import DataError, Unsupported, did_you_mean
from efficientllm.workloads._contract import OpenWindow
from efficientllm.workloads.generation import generate_after, until_end

#: What counts as right or wrong of an item, the preferred one first.
_RIGHT = ("acc_norm", "acc", "exact_match", "em")
#: Tokens of a text that are predicted at once, and that stand before them, where a whole text is scored.
_ROLLING_TOKENS = 1024
_ROWS_AT_ONCE = 16
_NEW_TOKENS = 256


class EngineRequests:
    """What the harness may ask of a model, answered by an engine; `as_model` makes the harness' own kind of it."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self._engine, self._tokenizer = engine, tokenizer

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return for each (context, continuation) its log-likelihood, and whether greedy decoding gives it."""
        return self._likelihoods([self._continued(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Return the log-likelihood of each whole text, in pieces that each see what came just before."""
        end, found = self._tokenizer.end_of_text, []
        for (text,) in (request.args for request in requests):
            ids = [end, *self._tokenizer.encode_batch([text])[0]]
            pieces = [
                (ids[max(0, start - _ROLLING_TOKENS) : start], ids[start : start + _ROLLING_TOKENS])
                for start in range(1, len(ids), _ROLLING_TOKENS)
            ]
            found.append(sum(value for value, _ in self._likelihoods(pieces)))
        return found

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return what greedy decoding gives after each context, up to what should end it."""
        asked = [request.args for request in requests]
        prompts = [ids or [self._tokenizer.end_of_text] for ids in self._tokenizer.encode_batch([c for c, _ in asked])]
        most = max((int(how.get("max_gen_toks", _NEW_TOKENS)) for _, how in asked), default=_NEW_TOKENS)
        said = []
        given = generate_after(self._engine, prompts, most, lambda done, total: None)
        for (_, how), ids in zip(asked, given, strict=True):
            own = until_end(ids, self._tokenizer.end_of_text)[: int(how.get("max_gen_toks", _NEW_TOKENS))]
            said.append(cut_at(self._tokenizer.decode(own), how.get("until") or []))
        return said

    def as_model(self, base: type) -> Any:
        """Return an instance of the harness' base class that answers as this does."""
        answers = {name: self._answering(name) for name in ("loglikelihood", "loglikelihood_rolling", "generate_until")}
        return type("EngineModel", (base,), answers)()

    def _answering(self, name: str) -> Callable[..., Any]:
        return lambda _model, requests, **_more: getattr(self, name)(requests)

    def _continued(self, context: str, continuation: str) -> Continued:
        """Return both in tokens; space at the context's end belongs to what follows, as tokenizers have it."""
        kept = context.rstrip()
        before, after = self._tokenizer.encode_batch([kept, context[len(kept) :] + continuation])
        return before or [self._tokenizer.end_of_text], after

    def _likelihoods(self, continued: Sequence[Continued]) -> list[tuple[float, bool]]:
        order = sorted(range(len(continued)), key=lambda i: len(continued[i][0]) + len(continued[i][1]))
        found: list[tuple[float, bool]] = [(0.0, True)] * len(continued)
        for start in range(0, len(order), _ROWS_AT_ONCE):
            some = order[start : start + _ROWS_AT_ONCE]
            told = continuation_nats(self._engine, [continued[i] for i in some])
            for i, (nats, greedy) in zip(some, told, strict=True):
                found[i] = -nats, greedy
        return found


def ask_harness(task: HarnessTask, engine: Engine, tokenizer: Tokenizer, most: int, window: OpenWindow) -> list[bool]:
    """Run a task, say its own figures in a window, and return which items are right; empty where it judges otherwise.

    Raises:
        Unsupported: the package is not installed.
        DataError: it has no such task.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.api.model import LM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise Unsupported(
            f"questions lm_eval need lm-evaluation-harness ({error}): pip install 'efficientllm[evals]'"
        ) from error
    manager = TaskManager(include_path=task.folder or None, include_defaults=not task.folder)
    if task.task not in manager.all_tasks:
        hint = did_you_mean(task.task, manager.all_tasks)
        raise DataError(f"lm-evaluation-harness has no task {task.task!r} in {task.folder or 'its own folder'}. {hint}")
    with window.step():
        told = simple_evaluate(
            model=EngineRequests(engine, tokenizer).as_model(LM),
            tasks=[task.task],
            num_fewshot=task.shots if task.shots >= 0 else None,
            limit=most,
            bootstrap_iters=0,
            task_manager=manager,
        )
    for name, value in _figures(told["results"].get(task.task, {})):
        window.figure(f"lm_eval_{name}", value)
    samples = [sample for name in sorted(told["samples"]) for sample in told["samples"][name]]
    return _items(samples, window)


def cut_at(text: str, ends: str | Sequence[str]) -> str:
    r"""Return a text up to the first of what ends it.

    >>> cut_at("4\n\nNext", ["\n\n", "."])
    '4'
    """
    places = [text.find(end) for end in ([ends] if isinstance(ends, str) else ends) if end and end in text]
    return text[: min(places)] if places else text


def _figures(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in results.items():
        name, _, filtered = key.partition(",")
        if isinstance(value, int | float) and math.isfinite(value) and not isinstance(value, bool) and filtered:
            yield name if filtered == "none" else f"{name}_{filtered}", float(value)


def _items(samples: Sequence[Mapping[str, Any]], window: OpenWindow) -> list[bool]:
    """Return which items are right, and say what no skill would get of them."""
    key = next((key for key in _RIGHT if samples and all(key in sample for sample in samples)), "")
    if not key:
        window.absent("accuracy_ratio", "the task's items are not right or wrong; see its own figures lm_eval_…")
        return []
    numbers = [len(sample["arguments"]) for sample in samples]
    window.figure("chance_ratio", statistics.fmean(1 / n if n > 1 else 0.0 for n in numbers))
    window.figure(
        "commonest_answer_ratio", Counter(str(s["target"]) for s in samples).most_common(1)[0][1] / len(samples)
    )
    return [float(sample[key]) > 0.5 for sample in samples]
