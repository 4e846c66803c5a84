"""What naming "it" adds: a picture and a question that points at it, asked among glosses.

The questions of the knowledge task name nothing. With their picture they are asked as they are, and
with what the picture shows put in the place of "it"; then in words alone, as for a retriever that
takes no pictures. The classes are those held out of training, see `benchmarks.claims.knowledge`.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from benchmarks.claims.asking import QUICK_QUERIES, TEN, ask, gained, open_items, shown
from benchmarks.corpora import models
from benchmarks.harness import Bar, Benchmark, Condition, Measurement, Options, Skipped
from genmm_retriever.corpus.lines import iter_jsonl
from genmm_retriever.evaluation.datasets import EvalQuery
from genmm_retriever.querying import AdaptedRetriever, ReferenceResolver
from genmm_retriever.schema import Item, Query
from genmm_retriever.training.clues import read_knowledge

QUESTION = "What is it?"
PLAIN = "picture and question"
RESOLVED = "picture and question, resolved"
WORDS = "question alone"
RESOLVED_WORDS = "question alone, resolved"


def reference_resolution(options: Options) -> Measurement:
    """Pictures of held-out classes, and glosses of which a few are theirs."""
    if options.knowledge is None or not (options.knowledge / "passages.jsonl").is_file():
        raise Skipped("no knowledge base: give --knowledge DIR with queries.jsonl, passages.jsonl")
    queries = _queries(options.knowledge, options.pick(150, QUICK_QUERIES), options.seed)
    wanted = {name for query in queries for name in query.relevant}
    items = _glosses(options.knowledge, wanted, options.pick(2_000, 24), options.seed)
    alone = [replace(query, query=Query(text=query.query.text)) for query in queries]
    with open_items(
        options, models.load(options.model), items, "glosses", identifiers="clue"
    ) as retriever:
        seen, named = (
            AdaptedRetriever(retriever, [ReferenceResolver(retriever.model, drop_image=drop)])
            for drop in (False, True)
        )
        arms = {
            PLAIN: ask(retriever, queries),
            RESOLVED: ask(seen, queries),
            WORDS: ask(retriever, alone),
            RESOLVED_WORDS: ask(named, queries),
        }
    value, low, _ = gained(arms[RESOLVED], arms[PLAIN])[TEN]
    return Measurement(
        value,
        peers={RESOLVED_WORDS: gained(arms[RESOLVED_WORDS], arms[WORDS])[TEN][0]},
        also=[Condition("the lower end of the paired 95% interval is above 0", low > 0)],
        details={
            "glosses": len(items),
            **shown(arms, (RESOLVED, PLAIN), (RESOLVED_WORDS, WORDS), (RESOLVED_WORDS, PLAIN)),
        },
        notes=[
            "the peer is the same gain where the picture is not asked with",
            "recalls in percent and differences in percentage points, each with its 95% interval",
        ],
    )


def _queries(folder: Path, number: int, seed: int) -> list[EvalQuery]:
    held_out = [one for one in read_knowledge(folder / "queries.jsonl") if one.held_out]
    drawn = random.Random(seed).sample(held_out, min(number, len(held_out)))
    return [
        EvalQuery(
            one.id, Query(text=QUESTION, image=str(one.image)), frozenset([one.passage_id]), None
        )
        for one in drawn
    ]


def _glosses(folder: Path, wanted: set[str], number: int, seed: int) -> list[Item]:
    """The glosses that are asked for, and others drawn by chance, in the file's order."""
    lines = [line for _, line in iter_jsonl(folder / "passages.jsonl")]
    others = [line["id"] for line in lines if line["id"] not in wanted]
    drawn = random.Random(seed).sample(others, min(max(number - len(wanted), 0), len(others)))
    kept = wanted | {*drawn}
    return [
        Item(id=line["id"], title=line["title"], text=line["text"])
        for line in lines
        if line["id"] in kept
    ]


BENCHMARKS = (
    Benchmark(
        "reference_resolution",
        "pictures and questions that point at them, among 2,000 glosses: R@10 with what is seen"
        " named, minus R@10 without",
        "percentage points",
        Bar(">", 0),
        reference_resolution,
    ),
)
