"""What naming "it" adds: a picture and a question that points at it, asked among glosses.

The questions of the knowledge task name nothing. With their picture they are asked as they are, and
with what the picture shows put in the place of "it"; then in words alone, as for a retriever that
takes no pictures. The classes are those held out of training, see `benchmarks.claims.knowledge`.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.claims.asking import (
    QUICK_QUERIES,
    TEN,
    ask,
    gained,
    open_items,
    queries_of,
    shown,
)
from benchmarks.corpora import models
from benchmarks.corpora.questions import GLOSSES, knowledge_folder, picture_questions
from benchmarks.harness import Bar, Benchmark, Condition, Measurement, Options
from genmm_retriever.evaluation.datasets import EvalQuery
from genmm_retriever.querying import AdaptedRetriever, ReferenceResolver
from genmm_retriever.schema import Item, Query

PLAIN = "picture and question"
RESOLVED = "picture and question, resolved"
WORDS = "question alone"
RESOLVED_WORDS = "question alone, resolved"


def questions_of(options: Options, number: int) -> tuple[list[EvalQuery], list[Item]]:
    """Questions about pictures of held-out classes, and the glosses to index.

    Raises:
        Skipped: If `--knowledge` was not given or lacks its files.
    """
    made = picture_questions(
        knowledge_folder(options),
        number=options.pick(number, QUICK_QUERIES),
        glosses=options.pick(GLOSSES, 24),
        seed=options.seed,
    )
    return queries_of(made.records), [Item.model_validate(line) for line in made.items]


def reference_resolution(options: Options) -> Measurement:
    """Pictures of held-out classes, and glosses of which a few are theirs."""
    queries, items = questions_of(options, 100)
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
