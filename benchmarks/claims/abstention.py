"""Does the verifier know when what is asked for is not there?

Each query is asked twice: among all photos, and among all but its own. A score that knows is
lower the second time; the area under the ROC curve says how well the first hit's probability tells
the two apart over all queries. Further arms take the photo's nearest ones away as well, by the
model's own vectors, or ask among few photos instead of all.

Photos of people and dogs resemble each other. Where each picture is one of its kind, as the photos
of the knowledge task are, one a class, `abstention_classes` asks for them by the names of their
classes, with and without the one that it is. `abstention_passages` asks the other way round: what a
picture shows, among passages of which one says it or none.

**What bounds it.** Where the photo is not the first hit, taking it away leaves the first hit and
its score as they were: such a query scores the same both times, and tells nothing. With R@1 as
the share of queries whose first hit is their photo, a perfect score of the first hit alone would
put those above everything and leave the others to chance: R@1 + (1 - R@1) / 2, which is
0.5 + R@1 / 2. It is an estimate and no law: it takes the best wrong hits of both kinds of
queries to score alike. And where more than one photo is equally right, as a caption of three words
often fits several, the next one deserves the score of the one that is gone: nothing can tell.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.claims.asking import (
    QUICK_QUERIES,
    dev_photos,
    open_items,
    open_photos,
    queries_of,
)
from benchmarks.claims.resolving import questions_of
from benchmarks.corpora import captioned, models
from benchmarks.corpora.composed import nearest_by_cosine
from benchmarks.corpora.photos import Photo
from benchmarks.corpora.questions import knowledge_folder
from benchmarks.corpora.removed import removed_queries
from benchmarks.harness import Bar, Benchmark, Measurement, Options, Skipped
from genmm_retriever.corpus.lines import iter_jsonl
from genmm_retriever.evaluation.datasets import EvalQuery
from genmm_retriever.models.base import DualEncoder
from genmm_retriever.retriever import GenerativeMMRetriever
from genmm_retriever.schema import Item, Query
from genmm_retriever.training.clues import read_knowledge

REMOVED = (0, 20, 50)
"""How many of a photo's nearest go with it, by arm."""
FEW = (50, 100)
"""Photos of small collections, the one that is asked for among them."""


@dataclass(frozen=True)
class Firsts:
    """First hits of the same queries under one condition.

    Attributes:
        scores: The verifier's probability of each first hit, nought where there is none, [Q].
        right: Whether each first hit answers its query, [Q].
        seconds: A query, on average.
    """

    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    seconds: float


def abstention(options: Options) -> Measurement:
    """Captions of photos that no other photo's caption repeats, with and without their photo."""
    photos = dev_photos(options)
    made = removed_queries(photos, number=options.pick(120, QUICK_QUERIES), seed=options.seed)
    queries = queries_of(made.records)
    model = models.load(options.model)
    with open_photos(options, model, photos, queries) as retriever:
        held = _held(retriever, photos)
        near = nearest_by_cosine(_vectors(held, model, options), len(held))
        names = [photo.id for photo in held]
        places = [names.index(next(iter(query.relevant))) for query in queries]
        order = [[place, *(other for other, _ in near(place))] for place in places]
        kept = first_hits(retriever, queries, [names] * len(queries))
        lost = {
            count: first_hits(
                retriever, queries, [_without(names, gone[: count + 1]) for gone in order]
            )
            for count in REMOVED
        }
        among_few = {}
        for size in FEW:
            few = _few(names, places, size, options.seed)
            pairs = zip(few, places, strict=True)
            rest = [_lacking(some, names[place]) for some, place in pairs]
            among_few[size] = (
                first_hits(retriever, queries, few),
                first_hits(retriever, queries, rest),
            )
    return _measured(kept, lost, len(held), among_few)


def abstention_classes(options: Options) -> Measurement:
    """Names of classes, among photos of which one is of the class, or none."""
    folder = knowledge_folder(options)
    photos = [one for one in read_knowledge(folder / "queries.jsonl") if one.held_out]
    photos = photos[: options.pick(200, QUICK_QUERIES)]
    titles = {line["id"]: line["title"] for _, line in iter_jsonl(folder / "passages.jsonl")}
    queries = [
        EvalQuery(one.id, Query(text=f"a photo of a {titles[one.passage_id]}"), frozenset([one.id]))
        for one in photos
    ]
    items = [Item(id=one.id, image=str(one.image)) for one in photos]
    names = [item.id for item in items]
    with open_items(options, models.load(options.model), items, "classes") as retriever:
        kept = first_hits(retriever, queries, [names] * len(queries))
        lost = first_hits(retriever, queries, [_lacking(names, query.id) for query in queries])
    return _measured(kept, {0: lost}, len(items))


def abstention_passages(options: Options) -> Measurement:
    """Questions about pictures, among glosses of which one answers, or none."""
    queries, items = questions_of(options, 100)
    names = [item.id for item in items]
    model = models.load(options.model)
    with open_items(options, model, items, "glosses", identifiers="clue") as retriever:
        kept = first_hits(retriever, queries, [names] * len(queries))
        gone = [_lacking(names, next(iter(query.relevant))) for query in queries]
        lost = first_hits(retriever, queries, gone)
    return _measured(kept, {0: lost}, len(items))


def _measured(
    kept: Firsts,
    lost: dict[int, Firsts],
    items: int,
    among_few: Mapping[int, tuple[Firsts, Firsts]] | None = None,
) -> Measurement:
    few = {f"among {size} photos": _of_few(*both) for size, both in (among_few or {}).items()}
    areas = {count: area_interval(kept.scores, one.scores) for count, one in lost.items()}
    found = float(kept.right.mean())
    ceiling = 0.5 + found / 2
    ends = dict(zip(("area", "low", "high"), zip(*areas.values(), strict=True), strict=True))
    return Measurement(
        areas[0][0],
        peers={
            "what R@1 allows a score of the first hit": ceiling,
            **{f"{count} nearest gone too": areas[count][0] for count in lost if count},
            **{name: one["area"][0] for name, one in few.items()},
        },
        details={
            "queries": len(kept.scores),
            "items": items,
            **few,
            "nearest_removed": list(lost),
            **{f"area_{name}": list(values) for name, values in ends.items()},
            "recall@1": 100 * found,
            "same_first_score_percent": 100 * float((kept.scores == lost[0].scores).mean()),
            "mean_score": {
                "with the photo": float(kept.scores.mean()),
                **{f"{_arm(count)}": float(one.scores.mean()) for count, one in lost.items()},
            },
            "seconds_a_query": {
                "with the photo": kept.seconds,
                **{_arm(count): one.seconds for count, one in lost.items()},
            },
        },
        notes=[
            "areas under the ROC curve of the first hit's verification, with 95% intervals by a"
            " bootstrap over queries, each with all its scores",
            "what R@1 allows is 0.5 + R@1 / 2: a query whose photo is not first scores the same"
            " without it",
        ],
    )


def _of_few(kept: Firsts, lost: Firsts) -> dict[str, Any]:
    return {
        "area": list(area_interval(kept.scores, lost.scores)),
        "recall@1": 100 * float(kept.right.mean()),
    }


def _few(names: Sequence[str], places: Sequence[int], size: int, seed: int) -> list[list[str]]:
    """For each place its name among others drawn by chance, `size` in all."""
    draw = np.random.default_rng(seed)
    orders = [draw.permutation(len(names)).tolist() for _ in places]
    return [
        sorted([names[place], *[names[other] for other in order if other != place][: size - 1]])
        for place, order in zip(places, orders, strict=True)
    ]


def _lacking(names: Sequence[str], gone: str) -> list[str]:
    return [name for name in names if name != gone]


def _arm(count: int) -> str:
    return f"without it and {count} nearest" if count else "without the photo"


def _held(retriever: GenerativeMMRetriever, photos: Sequence[Photo]) -> list[Photo]:
    """The photos that the index holds."""
    from genmm_retriever.corpus.store import IndexReader

    with IndexReader.open(retriever.path) as reader:
        return [photo for photo in photos if reader.row(photo.id) is not None]


def _vectors(photos: Sequence[Photo], model: Any, options: Options) -> NDArray[Any]:
    """One vector a photo, as the model compares pictures; else its features, averaged."""
    features = captioned.grid_features([photo.image for photo in photos], model, options.cache)
    if not isinstance(model, DualEncoder):
        return features
    some = [features[start : start + 64] for start in range(0, len(features), 64)]
    found = [model.embed_images(torch.from_numpy(one)).cpu().numpy() for one in some]
    return np.concatenate(found)


def _without(names: Sequence[str], gone: Sequence[int]) -> list[str]:
    left_out = {*gone}
    return [name for place, name in enumerate(names) if place not in left_out]


def first_hits(
    retriever: GenerativeMMRetriever,
    queries: Sequence[EvalQuery],
    among: Sequence[Sequence[str]],
) -> Firsts:
    """The first hit of each query among the items of its ids.

    Raises:
        Skipped: If the retriever verifies nothing.
    """
    scores, right = np.zeros(len(queries)), np.zeros(len(queries), dtype=bool)
    verified, start = False, time.perf_counter()
    pairs = zip(queries, among, strict=True)
    for place, (query, ids) in enumerate(tqdm(pairs, total=len(queries), file=sys.stderr)):
        hits = retriever.retrieve(query.query.model_copy(update={"ids": tuple(ids)}))
        if hits:
            probability = hits[0].evidence.verification
            verified = verified or probability is not None
            scores[place] = probability or 0.0
            right[place] = hits[0].item.id in query.relevant
    if not verified:
        raise Skipped("no first hit was verified")
    return Firsts(scores, right, (time.perf_counter() - start) / len(queries))


def area(positive: NDArray[Any], negative: NDArray[Any]) -> float:
    """Area under the ROC curve: how often a positive is above a negative; equal ones count half.

    Examples:
        >>> area(np.array([0.9, 0.4]), np.array([0.1, 0.4]))
        0.875
    """
    return float(_above(positive, negative).mean())


def area_interval(
    positive: NDArray[Any], negative: NDArray[Any], *, samples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """The area and its 95% interval over queries, each drawn with both of its scores.

    Args:
        positive: Of each query, [Q].
        negative: Of the same queries in the same order, [Q].
        samples: How often Q queries are drawn with replacement.
        seed: Of the draws.
    """
    count, above = len(positive), _above(positive, negative)
    draw = np.random.default_rng(seed)
    weights = draw.multinomial(count, np.full(count, 1 / count), size=samples) / count
    areas = ((weights @ above) * weights).sum(axis=1)
    low, high = np.quantile(areas, [0.025, 0.975])
    return float(above.mean()), float(low), float(high)


def _above(positive: NDArray[Any], negative: NDArray[Any]) -> NDArray[np.float64]:
    """1 where a positive is above a negative, half where they are equal, [P, N]."""
    above: NDArray[np.float64] = np.sign(positive[:, None] - negative[None, :]) / 2 + 0.5
    return above


BENCHMARKS = (
    Benchmark(
        "abstention",
        "queries with and without their photo: area under the ROC curve of the first hit's"
        " verification",
        "area",
        Bar(">=", 0.75),
        abstention,
    ),
    Benchmark(
        "abstention_classes",
        "names of classes with and without the one photo of the class: area under the ROC curve"
        " of the first hit's verification",
        "area",
        Bar(">=", 0.75),
        abstention_classes,
    ),
    Benchmark(
        "abstention_passages",
        "questions about pictures with and without the gloss that answers: area under the ROC"
        " curve of the first hit's verification",
        "area",
        Bar(">=", 0.75),
        abstention_passages,
    ),
)
