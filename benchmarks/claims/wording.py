"""What verification does where words look for passages by clues: glosses asked for in words."""

from __future__ import annotations

from benchmarks.claims.asking import QUICK_QUERIES, TEN, ask, gained, open_items, queries_of, shown
from benchmarks.corpora import models
from benchmarks.corpora.questions import GLOSSES, knowledge_folder, word_questions
from benchmarks.harness import Bar, Benchmark, Measurement, Options
from genmm_retriever import GenerativeMMRetriever
from genmm_retriever.schema import Item

VERIFIED = "with verification"
CLUES = "clues alone"


def passages_in_words(options: Options) -> Measurement:
    """Glosses of the half that no weight was fitted on, by `benchmarks.corpora.questions`."""
    made = word_questions(
        knowledge_folder(options),
        number=options.pick(100, QUICK_QUERIES),
        glosses=options.pick(GLOSSES, 24),
        seed=options.seed,
    )
    queries, items = queries_of(made.records), [Item.model_validate(line) for line in made.items]
    model = models.load(options.model)
    with (
        open_items(options, model, items, "worded", identifiers="clue") as verified,
        GenerativeMMRetriever(verified.path, model=model, verify="off") as plain,
    ):
        arms = {VERIFIED: ask(verified, queries), CLUES: ask(plain, queries)}
    differences = gained(arms[VERIFIED], arms[CLUES])
    return Measurement(
        differences[TEN][0],
        details={"glosses": len(items), **shown(arms, (VERIFIED, CLUES))},
        notes=["recalls in percent and differences in percentage points, with 95% intervals"],
    )


BENCHMARKS = (
    Benchmark(
        "passages_in_words",
        "glosses asked for in words, among 2,000: R@10 with verification, minus R@10 without",
        "percentage points",
        Bar(">=", 0),
        passages_in_words,
    ),
)
