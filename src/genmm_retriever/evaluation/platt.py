"""Log-odds into probabilities: one scale and one bias (Platt, 1999)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from genmm_retriever.errors import InputError
from genmm_retriever.evaluation.datasets import EvalQuery
from genmm_retriever.retriever import GenerativeMMRetriever

Judge = Literal["choice", "yesno"]
_PARTS = {"choice": "choice", "yesno": "yes"}
_SURE = 1e-9
_LEAST_SCALE = 1e-3
"""A scale is never zero or below: probabilities keep the verifier's order."""


def platt(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """Scale and bias so that sigmoid(scale * score + bias) is the probability of a label.

    Args:
        scores: [n], float64.
        labels: [n], 0 or 1, of the same type.
    """
    centre, spread = scores.mean(), scores.std(correction=0) + 1e-9
    found = minimise(
        torch.tensor([1.0, -2.0], dtype=torch.float64),
        lambda w: torch.nn.functional.binary_cross_entropy_with_logits(
            w[0] * (scores - centre) / spread + w[1], labels
        ),
    )
    scale = float(found[0] / spread)
    return scale, float(found[1]) - scale * float(centre)


def minimise(start: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Where a smooth loss is least, by L-BFGS."""
    weights = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(weights)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def fit_judge(
    retriever: GenerativeMMRetriever,
    queries: Sequence[EvalQuery],
    judge: Judge,
    *,
    progress: bool = True,
) -> dict[str, float]:
    """Scale and bias of a choice or of yes and no, as weights of a `Calibration`.

    Args:
        retriever: What it verifies with its budget is learned from.
        queries: With judgements.
        judge: Whose log-odds become probabilities.
        progress: Show a bar on stderr.

    Raises:
        InputError: If no right candidate was verified, or no wrong one.
    """
    scores: list[float] = []
    labels: list[float] = []
    for query in tqdm(queries, desc="observing", disable=not progress):
        for hit in retriever.retrieve(query.query, verify=judge):
            said = hit.evidence.parts.get(_PARTS[judge])
            if said is not None:
                scores.append(log_odds(said))
                labels.append(float(hit.item.id in query.relevant))
    if len(set(labels)) < 2:
        raise InputError(
            f"of {len(labels)} candidates that were verified, {sum(labels):.0f} are right",
            "give more queries that the index can answer",
        )
    # A prior of one wrong and one right keeps the scale finite where they part without error.
    known = torch.tensor(scores, dtype=torch.float64)
    right = torch.tensor(labels, dtype=torch.float64)
    smoothed = torch.where(
        right > 0, 1 - 1 / (2 * right.sum() + 2), 1 / (2 * (1 - right).sum() + 2)
    )
    scale, bias = platt(known, smoothed)
    if scale < _LEAST_SCALE:
        scale, bias = _LEAST_SCALE, math.log(float(right.mean() / (1 - right.mean())))
    return {f"{judge}_scale": scale, f"{judge}_bias": bias}


def log_odds(probability: float) -> float:
    """log(p / (1 - p)), of what is certain a large number.

    Examples:
        >>> log_odds(0.5), round(log_odds(1.0), 1)
        (0.0, 20.7)
    """
    kept = min(max(probability, _SURE), 1 - _SURE)
    return math.log(kept / (1 - kept))
