"""What a model learns to write for a picture and a question: clues of the passage that answers.

GeMKR (arXiv 2401.08206) trains on phrases that lead to the right document; how it picks them is
not published. Here a clue is a window of the passage that stands in no other one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genmm_retriever.corpus.lines import iter_jsonl, line_error
from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.errors import InputError, SourceError
from genmm_retriever.identifiers.passages import Tokenizer, heading, text_tokens
from genmm_retriever.identifiers.words import WordEdges

if TYPE_CHECKING:
    from genmm_retriever.constraints.clues import ClueIndex, ClueView

SHORTEST, LONGEST = 4, 9
CLUES = 3
Window = tuple[int, int]


@dataclass(frozen=True)
class KnowledgeQuery:
    """A picture, a question about it, and the passage that answers.

    Attributes:
        id: Of the query; it decides the split.
        image: The picture's file.
        question: The words.
        passage_id: The item that answers.
    """

    id: str
    image: Path
    question: str
    passage_id: str

    @property
    def held_out(self) -> bool:
        """Whether it is kept from training: the SHA-256 of its id is an odd number.

        The id of a query of the knowledge task is its class, so no class is in both halves.
        """
        return bool(hashlib.sha256(self.id.encode()).digest()[-1] % 2)


@dataclass(frozen=True)
class ClueExample:
    """What is learned from one query.

    Attributes:
        id: Of the query.
        image: The picture's file.
        question: The words.
        clues: One to three texts, the best first.
    """

    id: str
    image: Path
    question: str
    clues: tuple[str, ...]


def read_knowledge(path: Path) -> list[KnowledgeQuery]:
    """Queries of JSONL lines `{"id", "image", "question", "passage_id"}`.

    Raises:
        SourceError: If the file is absent, empty or has a broken line.
    """
    found = []
    for number, record in iter_jsonl(path):
        values = [record.get(name) for name in ("id", "image", "question", "passage_id")]
        if not all(isinstance(value, str) and value.strip() for value in values):
            what = "it needs texts under `id`, `image`, `question` and `passage_id`"
            raise line_error(path, number, what)
        each_id, image, question, passage = (str(value) for value in values)
        found.append(KnowledgeQuery(each_id, path.parent / image, question, passage))
    if not found:
        raise SourceError(f"{path} holds no query", "give a JSONL of pictures with questions")
    return found


def clue_examples(
    queries: Iterable[KnowledgeQuery],
    reader: IndexReader,
    index: ClueIndex,
    model: Tokenizer,
    *,
    held_out: bool | None = False,
    count: int = CLUES,
) -> Iterator[ClueExample]:
    """What there is to learn from queries; those without any clue are left out.

    The answer that a clue should hold is the title of the passage.

    Args:
        queries: From `read_knowledge`.
        reader: The open index that holds the passages.
        index: Its clue index, from `finding_clues.open_clues`.
        model: Whose tokens are indexed.
        held_out: Which half of the classes: False for training; None for both.
        count: Clues of a passage at most.

    Raises:
        InputError: If the index has no such passage.
    """
    words = WordEdges(model, index.vocab_size)
    view = index.view()
    for query in queries:
        if held_out is not None and query.held_out != held_out:
            continue
        row = reader.row(query.passage_id)
        if row is None:
            raise InputError(
                f"query {query.id!r} is answered by {query.passage_id!r}, which is not indexed",
                "index the passages that belong to the queries",
            )
        [item] = reader.items([row])
        names = item.metadata.get("names")
        said = [item.title, *(names if isinstance(names, list) else [])]
        found: list[str] = []
        for passage in index.passages_of_item(row).tolist():
            tokens = index.passage_tokens(passage)
            found += choose_clues(
                view,
                tokens,
                row,
                model,
                words,
                answer=item.title or "",
                question=query.question,
                names=[heading(name, ()) for name in said if isinstance(name, str)],
                count=count - len(found),
            )
            if len(found) >= count:
                break
        if found:
            yield ClueExample(query.id, query.image, query.question, tuple(found))


def choose_clues(
    view: ClueView,
    passage: NDArray[Any],
    item: int,
    model: Tokenizer,
    words: WordEdges,
    *,
    answer: str = "",
    question: str = "",
    names: Sequence[str] = (),
    count: int = CLUES,
) -> list[str]:
    """The windows of a passage that a model should write to find it.

    They have 4 to 9 tokens and whole words, stand in no other item, and are spelled by the model
    in the very tokens that they have there; names between their marks may be shorter. Windows
    with the whole answer come first, and of these whole names; then counts the share of a
    window's distinct tokens that answer or question have, plus the mean rarity of its tokens,
    `log(P / passages with it)` as a share of `log(P)`. Those chosen do not overlap.

    Args:
        view: All passages.
        passage: The tokens of the one that answers, [n].
        item: The item that it belongs to; its own pieces may share windows.
        model: Whose tokens they are.
        words: Of that model.
        answer: Words of the answer, if known.
        question: Words of the question.
        names: Headings of one name each; see `identifiers.passages.heading`.
        count: Windows at most.

    Returns:
        Texts, best first; none if the passage has nothing of its own.
    """
    tokens = np.asarray(passage, dtype=np.int64)
    whole = [tuple(text_tokens(model, name)) for name in names if name]
    windows = [
        window
        for window in _own_windows(view, tokens, item, words, set(whole))
        if _is_spelled(model, tokens[slice(*window)].tolist())
    ]
    wanted = set(text_tokens(model, answer)) | set(text_tokens(model, question))
    rarity = _rarity(view, tokens)
    asked = text_tokens(model, answer) if answer else []

    def rank(window: Window) -> tuple[bool, bool, float, int]:
        own = tokens[slice(*window)].tolist()
        holds = bool(asked) and any(
            own[i : i + len(asked)] == asked for i in range(len(own) - len(asked) + 1)
        )
        share = len(wanted & set(own)) / len(set(own))
        rare = float(rarity[slice(*window)].mean())
        return not holds, tuple(own) not in whole, -(share + rare), window[0]

    chosen: list[Window] = []
    for window in sorted(windows, key=rank):
        if len(chosen) < count and all(window[1] <= a or b <= window[0] for a, b in chosen):
            chosen.append(window)
    return [model.decode(tokens[slice(*window)].tolist()).strip() for window in chosen]


def _own_windows(
    view: ClueView,
    tokens: NDArray[np.int64],
    item: int,
    words: WordEdges,
    names: set[tuple[int, ...]],
) -> list[Window]:
    """Windows of whole words that no other item has, as (start, end)."""
    edge = np.append(~words.joined(tokens), True)
    starts = np.flatnonzero(edge[:-1])
    ranges, found = view.start(len(starts)), []
    longest = max([LONGEST, *map(len, names)])
    for size in range(1, longest + 1):
        local = np.flatnonzero(starts + size <= len(tokens))
        ranges = view.extend(ranges, local, tokens[starts[local] + size - 1])
        starts = starts[local]
        for place, start in enumerate(starts.tolist()):
            end = start + size
            usual = SHORTEST <= size <= LONGEST and bool(edge[end])
            if not usual and tuple(tokens[start:end].tolist()) not in names:
                continue
            _, items = view.passages_of(ranges, place)
            if set(items.tolist()) == {item}:
                found.append((start, end))
    return found


def _is_spelled(model: Tokenizer, window: list[int]) -> bool:
    """Whether the model, told to write the window's text, learns these tokens."""
    return text_tokens(model, model.decode(window).strip()) == window


def _rarity(view: ClueView, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """How rare each token is among the passages, from 0 to 1, [n]."""
    if not len(tokens):
        return np.zeros(0)
    distinct, place = np.unique(tokens, return_inverse=True)
    ranges = view.extend(view.start(len(distinct)), np.arange(len(distinct)), distinct)
    documents = view.document_frequency(ranges)
    passages = max(view.passages, 2)
    rarity: NDArray[np.float64] = np.log(passages / documents) / math.log(passages)
    return rarity[place]
