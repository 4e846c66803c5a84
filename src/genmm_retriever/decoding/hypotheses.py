"""Hypotheses, live and finished, and one step of their expansion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic

import torch
from torch import Tensor

from genmm_retriever.constraints.base import Constraint, LegalTokens, StateT
from genmm_retriever.errors import ModelError
from genmm_retriever.models.base import DecodingState


@dataclass(frozen=True)
class Hypothesis:
    """An identifier that the search has finished.

    Attributes:
        tokens: Its tokens, end token included.
        items: Rows of the items that it names, within the query's subset.
        logprob: log p(tokens | query), nats.
        null_logprob: log p(tokens | no query), nats, as the constraint keeps it (float16 a token).
        score: What hypotheses are ranked by; see `BeamConfig`.
        length: How many of the tokens were written; the rest was left open, and `logprob` and
            `null_logprob` are of those written.
    """

    tokens: tuple[int, ...]
    items: tuple[int, ...]
    logprob: float
    null_logprob: float
    score: float
    length: int = -1

    def __post_init__(self) -> None:
        if self.length < 0:
            object.__setattr__(self, "length", len(self.tokens))


class Ranking(list[Hypothesis]):
    """The hypotheses of one query, best first.

    Attributes:
        proven: How many of the first are certainly the best of all identifiers that the
            constraint allows, though not all were scored.
    """

    def __init__(self, hypotheses: Iterable[Hypothesis] = (), proven: int = 0) -> None:
        super().__init__(hypotheses)
        self.proven = proven


@dataclass(eq=False)
class Live(Generic[StateT]):
    """The unfinished hypotheses of all queries, n rows, ordered by query.

    Attributes:
        model: The model's rows.
        constraint: The constraint's rows.
        tokens: What each row has written.
        logprob: Sum of log p(token | query), [n], float32.
        null: Sum of log p(token | no query), [n], float32.
    """

    model: DecodingState
    constraint: StateT
    tokens: list[tuple[int, ...]]
    logprob: Tensor
    null: Tensor


@dataclass(frozen=True, eq=False)
class Expansion:
    """All legal continuations of the live rows by one token, m pairs, ordered by row.

    Attributes:
        rows: The live row, [m], int64.
        query: Its query, [m], int64.
        tokens: The token, [m], int64.
        finishes: Whether the token completes an identifier, [m], bool.
        logprob: As in `Live`, the token included, [m], float32.
        null: As in `Live`, the token included, [m], float32.
        score: `logprob - debias * null`, [m], float32; with `ahead` where there is a guide.
        ahead: What a guide expects of each continuation, [m], float32; None without one.
    """

    rows: Tensor
    query: Tensor
    tokens: Tensor
    finishes: Tensor
    logprob: Tensor
    null: Tensor
    score: Tensor
    ahead: Tensor | None = None


def expand(
    live: Live[StateT], constraint: Constraint[StateT], debias: float, *, local: bool = False
) -> Expansion:
    """Score every legal continuation; the vocabulary is neither sorted nor normalised.

    Args:
        live: The rows.
        constraint: Says what is legal.
        debias: Weight of the unconditional log-probability.
        local: Whether probabilities are renormalised over the legal tokens of each row.

    Raises:
        ModelError: If the model's logits are NaN.
    """
    legal = constraint.legal(live.constraint)
    logits = live.model.logits[legal.rows, legal.tokens]
    if bool(logits.isnan().any()):
        raise ModelError(
            "the model's logits are not numbers (NaN)", "load it in another dtype, or check it"
        )
    normaliser = legal_normaliser(logits, legal) if local else live.model.normaliser
    logprob = live.logprob[legal.rows] + logits - normaliser[legal.rows]
    null = live.null[legal.rows] + legal.null_logprobs
    return Expansion(
        rows=legal.rows,
        query=live.constraint.query[legal.rows],
        tokens=legal.tokens,
        finishes=legal.finishes,
        logprob=logprob,
        null=null,
        score=logprob - debias * null if debias else logprob,
    )


def legal_normaliser(logits: Tensor, legal: LegalTokens) -> Tensor:
    """Log of the sum of exponentials over each row's legal tokens, [n]."""
    rows = len(legal.offsets) - 1
    best = torch.full((rows,), -torch.inf, device=logits.device)
    best.scatter_reduce_(0, legal.rows, logits, "amax")
    total = torch.zeros_like(best)
    total.index_add_(0, legal.rows, (logits - best[legal.rows]).exp())
    return best + total.log()


def best_of_each(query: Tensor, score: Tensor, most: Tensor) -> Tensor:
    """The best pairs of each query, ordered by query and then by falling score.

    Equal scores keep their order. Only what may be among the best is sorted.

    Args:
        query: Ascending, [m], int64.
        score: [m], float32.
        most: Pairs that each query keeps, [Q], int64.

    Returns:
        Their places, int64.
    """
    bounds = torch.searchsorted(query, torch.arange(len(most) + 1, device=query.device)).tolist()
    chosen = []
    for (first, end), wanted in zip(pairwise(bounds), most.tolist(), strict=True):
        part = score[first:end]
        places = torch.arange(first, end, device=score.device)
        if len(part) > wanted:
            least = part.topk(wanted).values[-1]
            inside = torch.nonzero(part >= least).flatten()
            part, places = part[inside], places[inside]
        order = torch.sort(part, descending=True, stable=True).indices[:wanted]
        chosen.append(places[order])
    return torch.cat(chosen) if chosen else query[:0]


def written(
    live: Live[StateT], rows: Tensor, tails: Iterable[Sequence[int]]
) -> list[tuple[int, ...]]:
    """What rows have written once tails are appended."""
    return [(*live.tokens[row], *tail) for row, tail in zip(rows.tolist(), tails, strict=True)]
