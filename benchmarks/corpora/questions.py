"""Pictures and a question that points at them, and the glosses among which the answer lies.

The rule. A seeded draw of the knowledge task's pictures, of the classes held out of training or of
the others; each asks "What is it?", which names nothing. Indexed are their glosses and others drawn
by chance, in the order of the file.
"""

from __future__ import annotations

import random
from pathlib import Path

from benchmarks.corpora.photos import Made
from benchmarks.harness import Options, Skipped
from genmm_retriever.corpus.lines import iter_jsonl
from genmm_retriever.training.clues import read_knowledge

QUESTION = "What is it?"
GLOSSES = 2_000


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
    wanted = {one.passage_id for one in drawn}
    lines = [line for _, line in iter_jsonl(folder / "passages.jsonl")]
    others = [line["id"] for line in lines if line["id"] not in wanted]
    more = random.Random(seed).sample(others, min(max(glosses - len(wanted), 0), len(others)))
    kept = wanted | {*more}
    made.items = [
        {name: line[name] for name in ("id", "title", "text")}
        for line in lines
        if line["id"] in kept
    ]
    return made
