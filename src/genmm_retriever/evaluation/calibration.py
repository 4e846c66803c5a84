"""Weights of the verifier's parts, fitted on judged queries.

    python -m genmm_retriever.evaluation.calibration INDEX QUERIES.jsonl --output builtin.json

Two logistic models are fitted: one for candidates whose likelihood is known, one for those
beyond the budget. First the weights that rank best (a softmax over each query's candidates),
then at least 0.6 of the contrastive weight for the objects that the classifier sees, so that
things which the judged queries do not ask for are found too, then one scale and one bias that
make probabilities of them (Platt, 1999).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from genmm_retriever.errors import InputError
from genmm_retriever.evaluation.datasets import EvalQuery, read_queries
from genmm_retriever.retriever import GenerativeMMRetriever
from genmm_retriever.verification import Calibration

LEAST_OBJECTS = 0.6
"""Weight of the objects as a part of the contrastive one, at least.

Captions of everyday photographs, which the contrastive head was trained on, need less (0.2);
0.6 costs the cheap parts alone two points of R@10 there, and finds a cup of coffee, which no
caption of theirs named.
"""
_PARTS = ("likelihood", "contrastive", "objects", "generation")


@dataclass(frozen=True, eq=False)
class Observed:
    """One query's candidates.

    Attributes:
        parts: The verifier's parts, [candidates, parts].
        relevant: Which candidates answer the query, [candidates], bool.
    """

    parts: Tensor
    relevant: Tensor


def observe(
    retriever: GenerativeMMRetriever, queries: Sequence[EvalQuery], *, progress: bool = True
) -> list[Observed]:
    """What the verifier sees of each query's candidates, and which of them are right.

    Args:
        retriever: Its candidates are all verified, so give it about a hundred.
        queries: With judgements.
        progress: Show a bar on stderr.
    """
    seen = []
    for query in tqdm(queries, desc="observing", disable=not progress):
        hits = retriever.retrieve(query.query, k=retriever.candidates)
        rows = [
            (*(hit.evidence.parts.get(name) for name in _PARTS[:-1]), hit.evidence.generation)
            for hit in hits
        ]
        known = [i for i, row in enumerate(rows) if None not in row]
        parts = torch.tensor([rows[i] for i in known], dtype=torch.float64).view(-1, len(_PARTS))
        relevant = torch.tensor([hits[i].item.id in query.relevant for i in known])
        if bool(relevant.any()):
            seen.append(Observed(parts, relevant))
    return seen


def fit(seen: Sequence[Observed], *, budget: int, debias: float) -> Calibration:
    """Fit the weights.

    Args:
        seen: Queries with at least one right candidate each.
        budget: Candidates whose likelihood will be computed; the full model is fitted on
            those that the cheap one puts first.
        debias: Kept as it is; the beam was steered by it.

    Raises:
        InputError: If no query has a right candidate.
    """
    if not seen:
        raise InputError("no query has a right candidate", "give queries that the index can answer")
    cheap, cheap_bias = _fit([Observed(one.parts[:, 1:], one.relevant) for one in seen])
    best = []
    for one in seen:
        order = (one.parts[:, 1:] @ cheap).argsort(descending=True)[:budget]
        if bool(one.relevant[order].any()):
            best.append(Observed(one.parts[order], one.relevant[order]))
    full, bias = _fit(best or list(seen))
    return Calibration(
        likelihood=float(full[0]),
        contrastive=float(full[1]),
        objects=float(full[2]),
        generation=float(full[3]),
        bias=bias,
        cheap_contrastive=float(cheap[0]),
        cheap_objects=float(cheap[1]),
        cheap_generation=float(cheap[2]),
        cheap_bias=cheap_bias,
        debias=debias,
    )


def _fit(seen: Sequence[Observed]) -> tuple[Tensor, float]:
    """Weights that rank best, scaled so that sigmoid(weights @ parts + bias) is a probability."""
    weights = _ranking_weights(seen, torch.ones(seen[0].parts.shape[1], dtype=torch.float64))
    # Parts end with contrastive, objects and generation, the likelihood before them or not.
    weights[-2] = torch.maximum(weights[-2], LEAST_OBJECTS * weights[-3])
    scores = torch.cat([one.parts @ weights for one in seen])
    labels = torch.cat([one.relevant for one in seen]).to(scores.dtype)
    centre, spread = scores.mean(), scores.std() + 1e-9
    platt = _minimise(
        torch.tensor([1.0, -2.0], dtype=torch.float64),
        lambda w: torch.nn.functional.binary_cross_entropy_with_logits(
            w[0] * (scores - centre) / spread + w[1], labels
        ),
    )
    slope = float(platt[0] / spread)
    return weights * slope, float(platt[1]) - slope * float(centre)


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

    weights = _minimise(torch.zeros_like(used), loss)
    if bool((weights >= 0).all()):
        return weights * used
    return _ranking_weights(seen, used * (weights > 0))


def _minimise(start: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    weights = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(weights)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit and write into a settings file of the builtin model."""
    parser = argparse.ArgumentParser(description="Fit the verifier's weights on judged queries.")
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="builtin.json to update")
    parser.add_argument("--limit", type=int, default=100, help="queries to look at")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--budget", type=int, default=16)
    given = parser.parse_args(arguments)
    queries = list(read_queries(given.queries))
    chosen = random.Random(1).sample(queries, min(given.limit, len(queries)))
    with GenerativeMMRetriever(
        given.index, candidates=given.candidates, budget=given.candidates
    ) as retriever:
        debias = Calibration.of(retriever.model).debias
        found = fit(observe(retriever, chosen), budget=given.budget, debias=debias)
    settings = json.loads(given.output.read_text()) if given.output.is_file() else {}
    settings["calibration"] = found.to_json()
    given.output.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(settings["calibration"], indent=2))


if __name__ == "__main__":
    main()
