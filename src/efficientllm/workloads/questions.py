"""Questions that a model answers, each set in a window `task_NAME`: by the likeliest choice, or in its own words.

A choice's likelihood is that of its tokens after the question. Its sum favours short choices; divided by the choice's
bytes it does not, and that is what counts; the other stands beside it. Every item's answer is kept, so that trials are
compared item by item.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from efficientllm.data.chat import PlainTemplate, Template, Turns, template_of
from efficientllm.data.instructions._contract import Sample, pair
from efficientllm.data.questions._contract import HarnessTask, Question, Questions, floor_of, sha256_of
from efficientllm.data.questions_reader import Asked, asked_of, open_questions
from efficientllm.data.tokenizer import Tokenizer
from efficientllm.engines._contract import Engine
from efficientllm.engines._logits import Continued, continuation_nats
from efficientllm.records.choice import Choice
from efficientllm.records.settings import InferenceSettings
from efficientllm.records.window import Work
from efficientllm.stats.power import smallest_detectable_drop
from efficientllm.workloads._contract import OpenWindow, Recorder
from efficientllm.workloads.generation import generate_after, until_end
from efficientllm.workloads.harness import ask_harness

_ROWS_AT_ONCE = 16
#: Tokens that a model's own words may have beyond those of the longest right answer.
_SPARE_TOKENS = 4


@dataclass(frozen=True)
class Examiner:
    """Asks one engine.

    Attributes:
        engine, tokenizer: who is asked, in whose tokens.
        folder: of the model.
        settings, recorder: of the trial.
    """

    engine: Engine
    tokenizer: Tokenizer
    folder: Path | None
    settings: InferenceSettings
    recorder: Recorder

    def ask(self) -> None:
        """Ask each set of questions in its window; one that cannot be asked leaves the others as they are."""
        names = window_names(self.settings.questions)
        for name, choice in zip(names, self.settings.questions, strict=True):
            with self.recorder.attempt(name, {}), self.recorder.window(name, work=Work(), adaptive=False) as window:
                opened = open_questions(choice)
                if isinstance(opened, HarnessTask):
                    right = ask_harness(opened, self.engine, self.tokenizer, self.settings.asked, window)
                    if right:
                        tell_right(right, window)
                else:
                    self._ask(opened, choice, window)

    def _ask(self, opened: Questions, choice: Choice, window: OpenWindow) -> None:
        asked = asked_of(opened, choice, self.settings.asked)
        chosen = bool(asked.questions[0].choices)
        (self._choose if chosen else self._say)(asked, window)
        tell_floor(asked.questions, window)
        if asked.examples:
            window.figure("shots", len(asked.examples))
        identity = sha256_of((*asked.examples, *asked.questions))
        self.recorder.figure(f"questions_{identity[:12]}", len(asked.questions))

    def _choose(self, asked: Asked, window: OpenWindow) -> None:
        questions, prompts = asked.questions, self._prompts(asked)
        pairs = [(i, choice) for i, q in enumerate(questions) for choice in q.choices]
        after = " " if self.settings.question_template == "none" else ""
        texts = self.tokenizer.encode_batch([after + choice for _, choice in pairs])
        nats = self._nats([(prompts[i], ids) for (i, _), ids in zip(pairs, texts, strict=True)], window)
        picks, raw_picks, start = [], [], 0
        for question in questions:
            some = nats[start : start + len(question.choices)]
            per_byte = [value / len(choice.encode()) for value, choice in zip(some, question.choices, strict=True)]
            picks.append(per_byte.index(min(per_byte)))
            raw_picks.append(some.index(min(some)))
            start += len(some)
        right = [pick == q.right for pick, q in zip(picks, questions, strict=True)]
        for pick in picks:
            window.value("item_pick", "index", pick)
        tell_right(right, window)
        raw = [pick == q.right for pick, q in zip(raw_picks, questions, strict=True)]
        window.figure("accuracy_by_sum_ratio", sum(raw) / len(raw))

    def _say(self, asked: Asked, window: OpenWindow) -> None:
        questions, prompts = asked.questions, self._prompts(asked)
        longest = max(map(len, self.tokenizer.encode_batch([f" {q.answer}" for q in questions])))

        def progress(done: int, total: int) -> None:
            self.recorder.progress(done, total, "answers")

        said = generate_after(self.engine, prompts, longest + _SPARE_TOKENS, progress)
        texts = [self.tokenizer.decode(until_end(ids, self.tokenizer.end_of_text)) for ids in said]
        tell_right([is_exact(text, q.answer) for text, q in zip(texts, questions, strict=True)], window)
        window.absent("accuracy_by_sum_ratio", "the model answers in its own words: there are no choices")

    def _nats(self, continued: Sequence[Continued], window: OpenWindow) -> list[float]:
        """Return the summed loss of each continuation; alike lengths go side by side."""
        order = sorted(range(len(continued)), key=lambda i: len(continued[i][0]) + len(continued[i][1]))
        nats = [0.0] * len(continued)
        for start in range(0, len(order), _ROWS_AT_ONCE):
            some = order[start : start + _ROWS_AT_ONCE]
            with window.step():
                found = continuation_nats(self.engine, [continued[i] for i in some])
            for i, (value, _) in zip(some, found, strict=True):
                nats[i] = value
            self.recorder.progress(start + len(some), len(order), "choices")
        return nats

    def _prompts(self, asked: Asked) -> list[list[int]]:
        """Return the tokens of each question, its examples before it; without a template all is text as it stands."""
        chosen = self.settings.question_template
        if chosen == "none":
            shown = "".join(f"{q.prompt.rstrip()} {q.right_text()}\n\n" for q in asked.examples)
            return self.tokenizer.encode_batch([shown + q.prompt.rstrip() for q in asked.questions])
        template: Template = PlainTemplate() if chosen == "plain" else template_of(self.folder, "model")
        before = [message for q in asked.examples for message in pair(q.prompt, q.right_text()).messages]
        samples = [Sample(messages=(*before, *pair(q.prompt, q.right_text()).messages)) for q in asked.questions]
        given = [given_of(template.turns(sample)) for sample in samples]
        if template.marked:
            return self.tokenizer.encode_marked(["".join(text for text, _ in turns) for turns in given])
        return [self._ended(turns) for turns in given]

    def _ended(self, turns: Turns) -> list[int]:
        """Return the tokens of turns of no template: as in training, the end of text follows each response."""
        end = [self.tokenizer.end_of_text]
        encoded = self.tokenizer.encode_batch([text for text, _ in turns])
        return [one for ids, (_, response) in zip(encoded, turns, strict=True) for one in (*ids, *(end * response))]


def given_of(turns: Turns) -> Turns:
    r"""Return what comes before the last response.

    >>> given_of([("1 + 1 =", False), ("2", True), ("\n", False)])
    [('1 + 1 =', False)]
    """
    last = max(place for place, (_, response) in enumerate(turns) if response)
    return turns[:last]


def window_names(choices: Sequence[Choice]) -> list[str]:
    """Return a window for each set of questions, all different.

    >>> window_names([Choice(name="./sets/My-Quiz.jsonl"), Choice(name="recall"), Choice(name="recall")])
    ['task_my_quiz', 'task_recall', 'task_recall_2']
    >>> window_names([Choice(name="recall", options={"shots": 2}), Choice(name="goes_on", options={"corpus": "pydoc"})])
    ['task_recall_2_shot', 'task_goes_on_pydoc']
    """
    names: list[str] = []
    for choice in choices:
        of = Path(str(choice.options.get("corpus", ""))).stem
        asked = str(choice.options.get("task", "")) or Path(choice.name).stem + (f"_{of}" if of else "")
        plain = "task_" + "".join(c if c.isalnum() else "_" for c in asked.lower())
        shots = choice.options.get("shots", 0) if choice.name != "lm_eval" else 0
        plain += f"_{shots}_shot" if shots else ""
        count = sum(name == plain or name.rpartition("_")[0] == plain for name in names)
        names.append(f"{plain}_{count + 1}" if count else plain)
    return names


def is_exact(said: str, answer: str) -> bool:
    r"""Whether the first line of a response is the answer, white space at its ends aside.

    >>> is_exact(" 72\n\nNext", "72"), is_exact(" 721", "72")
    (True, False)
    """
    lines = said.strip().splitlines()
    return bool(lines) and lines[0].strip() == answer.strip()


def tell_right(right: Sequence[bool], window: OpenWindow) -> None:
    """Say each item, their share with its standard error, and the smallest drop that so many items can tell."""
    for one in right:
        window.value("item_right", "ratio", float(one))
    share = sum(right) / len(right)
    window.figure("asked_items", len(right))
    window.figure("accuracy_ratio", share)
    window.figure("accuracy_standard_error_ratio", math.sqrt(share * (1 - share) / len(right)))
    least = smallest_detectable_drop(share, len(right))
    if least is None:
        window.absent("smallest_detectable_drop_ratio", f"{len(right)} items cannot tell any drop from {share:.3f}")
    else:
        window.figure("smallest_detectable_drop_ratio", least)


def tell_floor(questions: Sequence[Question], window: OpenWindow) -> None:
    """Say what no skill gets."""
    chance, commonest = floor_of(questions)
    window.figure("chance_ratio", chance)
    window.figure("commonest_answer_ratio", commonest)
