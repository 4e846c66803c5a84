"""The pairs of an index: from captions, notes, pseudo-queries and human texts."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence

from genmm_retriever.errors import InputError
from genmm_retriever.training.corpus import Corpus
from genmm_retriever.training.lessons import Pair, Pairs
from genmm_retriever.training.queries import QueryBook
from genmm_retriever.training.texts import HumanQuery

MOST_HELD = 200
SMALL = 100
"""Items up to which a corpus is trained on in minutes."""
_TINY = 12
_HUMAN_HELD = 0.1
_BREAK = "|"
"""Between texts, so that no words are found across their border."""


def queries_per_item(items: int) -> int:
    """Pseudo-queries to be written for an item: more where there are few items.

    Examples:
        >>> [queries_per_item(n) for n in (29, 1000, 100_000)]
        [5, 4, 3]
    """
    return 5 if items <= SMALL else 4 if items <= 10_000 else 3


def make_pairs(
    corpus: Corpus,
    book: QueryBook,
    human: Sequence[HumanQuery],
    *,
    seed: int,
    old_rows: Iterable[int] = (),
    notes: Mapping[int, Sequence[str]] | None = None,
) -> Pairs:
    """All pairs, some of the queries held out.

    Of the pseudo-queries the first of some items are held out (two each of up to 12 items, one
    each of 200 at most), of ten and more human texts a tenth; never one whose very words are
    learnt from elsewhere, such as a caption that the index holds as the item's text. Every item
    is learnt: a generative model cannot name what it has not seen.

    Args:
        corpus: The index.
        book: Pseudo-queries.
        human: Human texts.
        seed: Of what is held out.
        old_rows: Items that an earlier training knew; their pairs are replayed.
        notes: What was written beside items, by row; each is a query for its item, and no more:
            what the verifier is shown stays as it is.

    Raises:
        InputError: If nothing could be held out.
    """
    rng = random.Random(f"{seed}-held")
    old = set(old_rows)
    pairs = Pairs()
    learnt_of: dict[int, str] = {}
    each = 2 if len(corpus.rows) <= _TINY else 1
    examined = _examined(corpus.rows, old, rng)
    for row in corpus.rows:
        written = book[corpus.marks[row]]
        own = written[:each] if row in examined else []
        pairs.held += [Pair(text, None, (row,)) for text in own]
        pairs.said[row] = written[len(own) :]
        noted = () if notes is None else notes.get(row, ())
        words = [*pairs.said[row], *corpus.words[row], *corpus.objects[row], *noted]
        learnt = dict.fromkeys(words)
        learnt_of[row] = _BREAK.join(map(_plain, learnt))
        target = pairs.old if row in old else pairs.new
        target += [Pair(text, None, (row,)) for text in learnt if text not in own]
    _add_human(pairs, human, old, learnt_of, rng)
    if not pairs.held:
        raise InputError(
            "the model wrote no usable query, so nothing can be held out",
            "give queries of your own: --texts FILE",
        )
    return pairs


def _examined(rows: Sequence[int], old: set[int], rng: random.Random) -> set[int]:
    """The items whose queries are held out; half of them new where some are old."""
    new = [row for row in rows if row not in old]
    known = [row for row in rows if row in old]
    some = rng.sample(new, min(len(new), MOST_HELD if not known else MOST_HELD // 2))
    return {*some, *rng.sample(known, min(len(known), MOST_HELD - len(some)))}


def _add_human(
    pairs: Pairs,
    human: Sequence[HumanQuery],
    old: set[int],
    learnt_of: Mapping[int, str],
    rng: random.Random,
) -> None:
    held = min(MOST_HELD, int(len(human) * _HUMAN_HELD)) if len(human) >= 10 else 0
    free = [i for i, query in enumerate(human) if not _is_learnt(query, learnt_of)]
    chosen = set(rng.sample(free, min(held, len(free))))
    pairs.held_human = len(chosen)
    kept_back = {_plain(text) for i in chosen if (text := human[i].text) is not None}
    for i, query in enumerate(human):
        pair = Pair(query.text, query.image, query.rows)
        if i in chosen:
            pairs.held.append(pair)
        elif query.text is None or _plain(query.text) not in kept_back:
            target = pairs.old if old.issuperset(query.rows) else pairs.new
            target.append(pair)
            if query.text is not None and query.image is None:
                for row in query.rows:
                    pairs.said.setdefault(row, []).append(query.text)


def _is_learnt(query: HumanQuery, learnt_of: Mapping[int, str]) -> bool:
    """Whether what is learnt of its items holds the words of a query, alone or among others."""
    if query.text is None or query.image is not None:
        return False
    return any(_plain(query.text) in learnt_of.get(row, "") for row in query.rows)


def _plain(text: str) -> str:
    """A text's words, with a blank around each.

    Examples:
        >>> _plain("A dog, running .")
        ' a dog running '
    """
    words = re.findall(r"\w+", text.casefold())
    return f" {' '.join(words)} "
