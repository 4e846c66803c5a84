"""Weights of the verifier's parts, fitted on judged queries.

    python -m genmm_retriever.evaluation.calibration INDEX QUERIES.jsonl --output builtin.json

Logistic models are fitted: one for candidates whose likelihood is known, one for those beyond
the budget, and with `--words` one for those whose words were read. First the weights that rank
best (a softmax over each query's candidates), then at least 0.3 of the contrastive weight for
the objects that the classifier sees, so that things which the judged queries do not ask for
are found too, then one scale and one bias that make probabilities of them (Platt, 1999).
Margins say who can still win (`evaluation.margins`). If the order so found is worse on the
judged queries than that of the first stage, the latter is kept.

With `--texts` only the weights with which texts are looked for are fitted, on an index that holds
nothing else: passages by clues, on questions about pictures (`benchmarks.corpora.make questions`
makes index and queries), in words alone (`benchmarks.corpora.make wordings`), or both; or captions
by identifiers, on pictures alone. With `--verify choice` or `--verify yesno` only the scale and
bias of that verifier (`evaluation.platt`). All other weights stay.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from genmm_retriever.errors import InputError
from genmm_retriever.evaluation.datasets import EvalQuery, read_queries
from genmm_retriever.evaluation.margins import fit_reach
from genmm_retriever.evaluation.platt import fit_judge, minimise, platt
from genmm_retriever.retriever import GenerativeMMRetriever
from genmm_retriever.schema import Hit
from genmm_retriever.verification import Calibration, Parts
from genmm_retriever.verification.calibration import TEXTS, Texts, texts_sought

LEAST_OBJECTS = 0.3
"""Weight of the objects as a part of the contrastive one, at least.

Captions of everyday photographs, which the contrastive heads were trained on, need none; 0.3
costs the cheap parts alone less than a point of R@1 there (0.6: two), and finds a cup of coffee,
which no caption of theirs named.
"""
_CHEAP = ("contrastive", "objects", "generation")
_JUDGES = ("choice_scale", "choice_bias", "yesno_scale", "yesno_bias")
_KEPT = (
    *_JUDGES,
    *(way + name for way in TEXTS.values() for name in ("likelihood", *_CHEAP, "bias")),
    "guidance",
    "answer_from",
)
"""What fitting the likelihood's weights leaves as it is; the beam was steered by the guidance."""
_DEPTH = 10


@dataclass(frozen=True, eq=False)
class Observed:
    """One query's candidates, in the first stage's order.

    Attributes:
        parts: Likelihood, contrastive, objects and generation, [candidates, 4].
        relevant: Which candidates answer the query, [candidates], bool.
        words: The likelihood given the candidates' words, [candidates]; None if not read.
    """

    parts: Tensor
    relevant: Tensor
    words: Tensor | None = None

    def columns(self, *, likelihood: bool, words: bool) -> Tensor:
        """The parts that a model sees, [candidates, columns]; the cheap ones come last."""
        columns = [self.parts[:, :1]] if likelihood else []
        if words and self.words is not None:
            columns.append(self.words[:, None])
        return torch.cat([*columns, self.parts[:, 1:]], dim=1)

    def named(self) -> Parts:
        """The parts as the verifier has them."""
        likelihood, contrastive, objects, generation = self.parts.numpy().T
        words = None if self.words is None else self.words.numpy()
        return Parts(likelihood, contrastive, objects, generation, text_likelihood=words)


def observe(
    retriever: GenerativeMMRetriever,
    queries: Sequence[EvalQuery],
    *,
    words: bool = False,
    progress: bool = True,
) -> list[Observed]:
    """What the verifier sees of each query's candidates, and which of them are right.

    A part that the model does not have counts as zero.

    Args:
        retriever: Its candidates are all verified, so give it about a hundred.
        queries: With judgements.
        words: Leave out candidates whose words were not read.
        progress: Show a bar on stderr.
    """
    seen = []
    for query in tqdm(queries, desc="observing", disable=not progress):
        hits = retriever.retrieve(query.query, k=retriever.candidates)
        hits = [hit for hit in hits if _is_known(hit, words)]
        hits.sort(key=lambda hit: -(hit.evidence.generation or 0.0))
        names = ("likelihood", *_CHEAP[:-1])
        rows = [
            (*(hit.evidence.parts.get(name, 0.0) for name in names), hit.evidence.generation)
            for hit in hits
        ]
        relevant = torch.tensor([hit.item.id in query.relevant for hit in hits])
        if bool(relevant.any()):
            parts = torch.tensor(rows, dtype=torch.float64)
            read = [hit.evidence.parts.get("text_likelihood", 0.0) for hit in hits]
            given = torch.tensor(read, dtype=torch.float64) if words else None
            seen.append(Observed(parts, relevant, given))
    return seen


def _is_known(hit: Hit, words: bool) -> bool:
    parts = hit.evidence.parts
    return (
        hit.evidence.generation is not None
        and "likelihood" in parts
        and (not words or "text_likelihood" in parts)
    )


def fit(
    seen: Sequence[Observed], *, budget: int, debias: float, level: float = 0.95
) -> Calibration:
    """Fit the weights.

    Args:
        seen: Queries with at least one right candidate each. The words get weights if they
            were read in all of them.
        budget: Candidates whose likelihood will be computed; the full model is fitted on
            those that the cheaper one puts first.
        debias: Kept as it is; the beam was steered by it.
        level: Share of queries of which nobody among the best is to be ruled out.

    Raises:
        InputError: If no query has a right candidate.
    """
    if not seen:
        raise InputError("no query has a right candidate", "give queries that the index can answer")
    worded = all(one.words is not None for one in seen)
    if not worded:
        seen = [Observed(one.parts, one.relevant) for one in seen]
    found: dict[str, float] = {"words_likelihood": 0.0, "debias": debias}
    found |= _named("cheap_", _CHEAP, *_fit([_columns(one) for one in seen]))
    if worded:
        names = ("likelihood", *_CHEAP)
        found |= _named("words_", names, *_fit([_columns(one, words=True) for one in seen]))
    cheaper = Calibration(**found)
    best = []
    for one in seen:
        order = torch.from_numpy(np.argsort(-cheaper.unseen(one.named()), kind="stable")[:budget])
        if bool(one.relevant[order].any()):
            words = None if one.words is None else one.words[order]
            best.append(Observed(one.parts[order], one.relevant[order], words))
    names = ("likelihood", *(("text_likelihood",) if worded else ()), *_CHEAP)
    columns = [_columns(one, likelihood=True, words=worded) for one in best or seen]
    whole = Calibration(**(found | _named("", names, *_fit(columns))))
    if _mrr(seen, whole, budget) < _mrr(seen, None, budget):
        return _first_stage(seen, debias)
    return _with_margins(seen, whole, level)


def fit_texts(seen: Sequence[Observed], sought: Texts) -> dict[str, float]:
    """Weights for `Calibration.for_texts`; the first stage's order where none is better.

    Args:
        seen: Queries with at least one right candidate each.
        sought: What they look for, and how.

    Raises:
        InputError: If no query has a right candidate.
    """
    if not seen:
        raise InputError("no query has a right candidate", "give queries that the index can answer")
    names, columns = ("likelihood", *_CHEAP), [_columns(one, likelihood=True) for one in seen]
    prefix = TEXTS[sought]
    found = _named(prefix, names, *_fit(columns))
    most = max(len(one.relevant) for one in seen)
    if _mrr(seen, Calibration(**found).for_texts(sought), most) < _mrr(seen, None, most):
        used = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
        found = _named(prefix, names, *_fit(columns, used))
    return found


def _columns(one: Observed, *, likelihood: bool = False, words: bool = False) -> Observed:
    return Observed(one.columns(likelihood=likelihood, words=words), one.relevant)


def _named(prefix: str, names: Sequence[str], weights: Tensor, bias: float) -> dict[str, float]:
    named = {prefix + name: float(w) for name, w in zip(names, weights, strict=True)}
    return named | {f"{prefix}bias": bias}


def _with_margins(seen: Sequence[Observed], whole: Calibration, level: float) -> Calibration:
    named = [one.named() for one in seen]
    full = [whole.full(parts) for parts in named]
    slope, margin = fit_reach([whole.cheap(parts) for parts in named], full, level=level)
    changes: dict[str, Any] = {"reach_slope": slope, "reach_margin": margin}
    if whole.reads_words:
        slope, margin = fit_reach([whole.unseen(parts) for parts in named], full, level=level)
        changes |= {"words_reach_slope": slope, "words_reach_margin": margin}
    return replace(whole, **changes)


def _mrr(seen: Sequence[Observed], weights: Calibration | None, budget: int) -> float:
    """Mean reciprocal rank in the verified order, or without weights the first stage's."""
    total = 0.0
    for one in seen:
        parts = one.named()
        order = np.argsort(-parts.generation, kind="stable")
        if weights is not None:
            order = np.argsort(-weights.unseen(parts), kind="stable")
            looked = order[:budget]
            best = np.argsort(-weights.full(parts)[looked], kind="stable")
            order = np.concatenate([looked[best], order[budget:]])
        right = np.flatnonzero(one.relevant.numpy()[order[:_DEPTH]])
        total += 1 / (1 + right[0]) if len(right) else 0.0
    return total / len(seen)


def _first_stage(seen: Sequence[Observed], debias: float) -> Calibration:
    """Weights by which the first stage's order stays as it is."""
    used = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    weights, bias = _fit([_columns(one) for one in seen], used)
    generation = max(float(weights[-1]), 1e-6)
    stages = ("", "cheap_", "words_")
    found = {field.name: 0.0 for field in fields(Calibration)}
    found |= {f"{stage}generation": generation for stage in stages}
    found |= {f"{stage}bias": bias for stage in stages}
    found |= {"reach_margin": math.inf, "words_reach_margin": math.inf, "debias": debias}
    return Calibration(**found)


def _fit(seen: Sequence[Observed], used: Tensor | None = None) -> tuple[Tensor, float]:
    """Weights that rank best, scaled so that sigmoid(weights @ parts + bias) is a probability."""
    if used is None:
        used = torch.ones(seen[0].parts.shape[1], dtype=torch.float64)
    weights = _ranking_weights(seen, used)
    # Parts end with contrastive, objects and generation, the likelihood before them or not.
    weights[-2] = torch.maximum(weights[-2], LEAST_OBJECTS * weights[-3])
    scores = torch.cat([one.parts @ weights for one in seen])
    labels = torch.cat([one.relevant for one in seen]).to(scores.dtype)
    slope, bias = platt(scores, labels)
    return weights * slope, bias


def _ranking_weights(seen: Sequence[Observed], used: Tensor) -> Tensor:
    """Weights, none below zero: no part may count against what it speaks for."""
    parts = pad_sequence([one.parts for one in seen], batch_first=True)
    there = pad_sequence([torch.ones_like(one.relevant) for one in seen], batch_first=True)
    relevant = pad_sequence([one.relevant for one in seen], batch_first=True)

    def loss(weights: Tensor) -> Tensor:
        logits = parts @ (weights * used)
        everything = logits.masked_fill(~there, -torch.inf).logsumexp(1)
        right = logits.masked_fill(~relevant, -torch.inf).logsumexp(1)
        return (everything - right).mean() + 1e-4 * weights.square().sum()

    weights = minimise(torch.zeros_like(used), loss)
    if bool((weights >= 0).all()):
        return weights * used
    return _ranking_weights(seen, used * (weights > 0))


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit and write into a settings file of the builtin model."""
    parser = argparse.ArgumentParser(description="Fit the verifier's weights on judged queries.")
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="builtin.json to update")
    parser.add_argument("--limit", type=int, default=100, help="queries to look at")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--budget", type=int, default=16)
    parser.add_argument(
        "--words", action="store_true", help="fit the likelihood given the candidates' words too"
    )
    parser.add_argument("--level", type=float, default=0.95, help="of the margins, below 1")
    parser.add_argument("--verify", choices=("likelihood", "choice", "yesno"), default="likelihood")
    parser.add_argument(
        "--texts", action="store_true", help="fit how texts are looked for, in an index of texts"
    )
    given = parser.parse_args(arguments)
    queries = list(read_queries(given.queries))
    chosen = random.Random(1).sample(queries, min(given.limit, len(queries)))
    settings = json.loads(given.output.read_text()) if given.output.is_file() else {}
    known = settings.get("calibration", {})
    if given.texts:
        found, kept = _fitted_texts(given, chosen), known
    elif given.verify != "likelihood":
        found, kept = _fitted_judge(given, chosen), known
    else:
        found, kept = _fitted(given, chosen), {k: known[k] for k in _KEPT if k in known}
    settings["calibration"] = kept | {name: round(weight, 4) for name, weight in found.items()}
    given.output.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(settings["calibration"], indent=2))


def _fitted(given: argparse.Namespace, chosen: Sequence[EvalQuery]) -> dict[str, float]:
    with GenerativeMMRetriever(
        given.index, candidates=given.candidates, budget=None, cascade=given.words
    ) as retriever:
        debias = Calibration.of(retriever.model).debias
        seen = observe(retriever, chosen, words=given.words)
    found = fit(seen, budget=given.budget, debias=debias, level=given.level)
    return {name: weight for name, weight in found.to_json().items() if name not in _KEPT}


def _fitted_texts(given: argparse.Namespace, chosen: Sequence[EvalQuery]) -> dict[str, float]:
    with GenerativeMMRetriever(given.index, candidates=given.candidates, budget=None) as retriever:
        model: Any = retriever.model
        # Where the likelihood has no weight it would not be looked at.
        known = getattr(model, "calibration", None) or {}
        model.calibration = {**known, **{f"{way}likelihood": 1.0 for way in TEXTS.values()}}
        kind = retriever.settings.identifiers
        ways = [
            texts_sought(kind, words=bool(one.query.text), picture=one.query.image is not None)
            for one in chosen
        ]
        found: dict[str, float] = {}
        for sought in TEXTS if not retriever.info()["images"] else ():
            some = [one for one, way in zip(chosen, ways, strict=True) if way == sought]
            if some:
                found |= fit_texts(observe(retriever, some), sought)
        if not found:
            raise InputError(
                "no query looks for texts in an index of texts alone",
                "give pictures for captions, or an index of clues",
            )
        return found


def _fitted_judge(given: argparse.Namespace, chosen: Sequence[EvalQuery]) -> dict[str, float]:
    with GenerativeMMRetriever(given.index, candidates=given.candidates) as retriever:
        return fit_judge(retriever, chosen, given.verify)


if __name__ == "__main__":
    main()
