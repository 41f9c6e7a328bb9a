"""How a line of held-out text goes on, among ends of other lines: a choice that a model of that text can make.

There on every machine, no download: the texts are those of a corpus, held out as they are for its bits per byte.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from efficientllm.data.corpora._contract import Corpus
from efficientllm.data.corpus import open_corpus
from efficientllm.data.questions._contract import Question, QuestionsEntry
from efficientllm.errors import DataError
from efficientllm.records.choice import Choice

#: One line in so many is asked, so that the questions of a file have little to do with one another.
_ONE_LINE_IN = 20
#: Characters of an end: fewer say too little.
_END_CHARACTERS = (10, 60)
#: Held-out documents that are read.
_MOST_DOCUMENTS = 400

#: Number of the document, what stands before, the end of the line.
_Place = tuple[int, str, str]


class Continuations:
    """Questions of a corpus.

    Args:
        corpus: a corpus' name, or a file or folder of text.
        choices: ends to choose from, of which one is right; the others are of other documents.
        prompt_characters: how much stands before the end, at most.
        seed: of the draws.

    Raises:
        DataError: a corpus that cannot be read, or an option out of its bounds.
    """

    def __init__(self, corpus: str = "stdlib", choices: int = 4, prompt_characters: int = 240, seed: int = 0) -> None:
        for name, value, least in (("choices", choices, 2), ("prompt_characters", prompt_characters, 20)):
            if value < least:
                raise DataError(f"questions continuation: {name} {value} is less than {least}. Raise it.")
        self._corpus: Corpus = open_corpus(Choice(name=corpus))
        self._choices, self._characters, self._seed = choices, prompt_characters, seed
        self.details = {**self._corpus.details, "corpus": corpus, "choices": str(choices), "seed": str(seed)}

    def questions(self) -> Iterator[Question]:
        """Yield the questions in an order that the seed draws.

        Raises:
            DataError: the held-out text has fewer lines that can be asked than choices.
        """
        draws, places = random.Random(self._seed), list(self._places())
        draws.shuffle(places)
        if len({number for number, *_ in places}) < 2 or len({end for *_, end in places}) < self._choices:
            raise DataError(
                f"questions continuation: corpus {self.details['corpus']} has too little held-out text for "
                f"{self._choices} choices of two documents. Give more text."
            )
        for place in places:
            question = self._question(place, places, draws)
            if question is not None:
                yield question

    def fingerprint(self) -> str:
        """Return the corpus' own, with the options."""
        return f"{self._corpus.fingerprint()} {self._choices} {self._characters} {self._seed}"

    def _places(self) -> Iterator[_Place]:
        for number, text in enumerate(itertools.islice(self._corpus.documents("heldout"), _MOST_DOCUMENTS)):
            lines = text.split("\n")
            for at in range(_ONE_LINE_IN, len(lines), _ONE_LINE_IN):
                line = lines[at].rstrip()
                start = len(line) - len(line.lstrip())
                cut = line.find(" ", start + (len(line) - start) // 3)
                end = line[cut + 1 :]
                if cut > 0 and end == end.strip() and _END_CHARACTERS[0] <= len(end) <= _END_CHARACTERS[1]:
                    before = "\n".join([*lines[at - _ONE_LINE_IN : at], line[:cut]])
                    yield number, before[-self._characters :], end

    def _question(self, place: _Place, places: list[_Place], draws: random.Random) -> Question | None:
        """Return the question of a place, None where too few ends of other documents differ from its own."""
        number, before, end = place
        wrong: list[str] = []
        for _ in range(20 * self._choices):
            other, _, text = draws.choice(places)
            if other != number and text != end and text not in wrong:
                wrong.append(text)
            if len(wrong) == self._choices - 1:
                right = draws.randrange(self._choices)
                return Question(prompt=before, choices=(*wrong[:right], end, *wrong[right:]), right=right)
        return None


ENTRY = QuestionsEntry(title="How a line of a corpus' held-out text goes on, among other ends", open=Continuations)
