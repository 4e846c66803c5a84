"""Questions that glosses answer: about a picture, or in words; and the glosses to index.

The rule for pictures. A seeded draw of the knowledge task's pictures, of the classes held out of
training or of the others; each asks "What is it?", which names nothing. Indexed are their glosses
and others drawn by chance, in the order of the file.

The rule for words. A seeded draw of glosses of `WORDS` words or more, of those whose id's SHA-256
is an odd number or of the others. In turn a gloss is asked for by its title, as a question, as a
request, bare or beside the word "definition", and by its first `WORDS` words in another order.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from benchmarks.corpora.photos import Made, Record
from benchmarks.harness import Options, Skipped
from genmm_retriever.corpus.lines import iter_jsonl
from genmm_retriever.training.clues import read_knowledge

QUESTION = "What is it?"
GLOSSES = 2_000
WORDS = 8
_ASKED = ("what is a {title}?", "tell me about {title}", "{title} definition", "{title}", "{words}")


def knowledge_folder(options: Options) -> Path:
    """The folder of `--knowledge`.

    Raises:
        Skipped: If it was not given or lacks the passages.
    """
    folder = options.knowledge
    if folder is None or not (folder / "passages.jsonl").is_file():
        raise Skipped("no knowledge base: give --knowledge DIR with queries.jsonl, passages.jsonl")
    return folder


def picture_questions(
    folder: Path,
    *,
    number: int | None = None,
    glosses: int = GLOSSES,
    held_out: bool = True,
    seed: int = 0,
) -> Made:
    """Questions about pictures, and the passages to index.

    Args:
        folder: Of the knowledge task: queries.jsonl, passages.jsonl and the pictures.
        number: Queries wanted; None for all of the half.
        glosses: Passages in all; at least those that are asked for are taken.
        held_out: Of which half, see `KnowledgeQuery.held_out`.
        seed: Of both draws.

    Returns:
        Query lines, and the passages as `items`.
    """
    half = [one for one in read_knowledge(folder / "queries.jsonl") if one.held_out == held_out]
    drawn = random.Random(seed).sample(half, min(number or len(half), len(half)))
    made = Made(
        records=[
            {
                "id": one.id,
                "text": QUESTION,
                "image": str(one.image),
                "relevant": [one.passage_id],
            }
            for one in drawn
        ]
    )
    lines = [line for _, line in iter_jsonl(folder / "passages.jsonl")]
    made.items = _with_others(lines, {one.passage_id for one in drawn}, glosses, seed)
    return made


def word_questions(
    folder: Path,
    *,
    number: int | None = 100,
    glosses: int = GLOSSES,
    held_out: bool = True,
    seed: int = 0,
) -> Made:
    """Questions in words, and the passages to index; arguments as of `picture_questions`."""
    lines = [line for _, line in iter_jsonl(folder / "passages.jsonl")]
    half = [
        line
        for line in lines
        if len(line["text"].split()) >= WORDS
        and hashlib.sha256(line["id"].encode()).digest()[-1] % 2 == held_out
    ]
    draw = random.Random(seed)
    drawn = draw.sample(half, min(number or len(half), len(half)))
    made = Made()
    for place, line in enumerate(drawn):
        words = line["text"].split()[:WORDS]
        draw.shuffle(words)
        text = _ASKED[place % len(_ASKED)].format(title=line["title"], words=" ".join(words))
        record = {"id": f"words-{place:04}", "text": text, "relevant": [line["id"]]}
        made.records.append(record)
    made.items = _with_others(lines, {line["id"] for line in drawn}, glosses, seed)
    return made


def _with_others(lines: list[Record], wanted: set[str], glosses: int, seed: int) -> list[Record]:
    """Passages that are asked for and others drawn by chance, as items, in the file's order."""
    others = [line["id"] for line in lines if line["id"] not in wanted]
    more = random.Random(seed).sample(others, min(max(glosses - len(wanted), 0), len(others)))
    kept = wanted | {*more}
    return [
        {name: line[name] for name in ("id", "title", "text")}
        for line in lines
        if line["id"] in kept
    ]
