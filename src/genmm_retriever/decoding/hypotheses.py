"""Hypotheses, live and finished, and one step of their expansion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from genmm_retriever.constraints.base import Constraint, StateT
from genmm_retriever.errors import ModelError
from genmm_retriever.models.base import DecodingState, log_normaliser


@dataclass(frozen=True)
class Hypothesis:
    """An identifier that the search has finished.

    Attributes:
        tokens: Its tokens, end token included.
        items: Rows of the items that it names, within the query's subset.
        logprob: log p(tokens | query), nats.
        null_logprob: log p(tokens | no query), nats, as the constraint keeps it (float16 a token).
        score: What hypotheses are ranked by; see `BeamConfig`.
    """

    tokens: tuple[int, ...]
    items: tuple[int, ...]
    logprob: float
    null_logprob: float
    score: float


@dataclass(eq=False)
class Live(Generic[StateT]):
    """The unfinished hypotheses of all queries, n rows, ordered by query.

    Attributes:
        model: The model's rows.
        constraint: The constraint's rows.
        tokens: What each row has written, [n, t], int64.
        logprob: Sum of log p(token | query), [n], float32.
        null: Sum of log p(token | no query), [n], float32.
    """

    model: DecodingState
    constraint: StateT
    tokens: Tensor
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
        score: `logprob - debias * null`, [m], float32.
    """

    rows: Tensor
    query: Tensor
    tokens: Tensor
    finishes: Tensor
    logprob: Tensor
    null: Tensor
    score: Tensor


def expand(live: Live[StateT], constraint: Constraint[StateT], debias: float) -> Expansion:
    """Score every legal continuation; the vocabulary is neither sorted nor normalised.

    Raises:
        ModelError: If the model's logits are NaN.
    """
    legal = constraint.legal(live.constraint)
    logits = live.model.logits
    normaliser = log_normaliser(logits)
    step = logits[legal.rows, legal.tokens] - normaliser[legal.rows]
    if bool(step.isnan().any()):
        raise ModelError(
            "the model's logits are not numbers (NaN)", "load it in another dtype, or check it"
        )
    logprob = live.logprob[legal.rows] + step
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


def ranked(query: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    """Order pairs by query and then by falling score; equal scores keep their order.

    Args:
        query: [m], int64.
        score: [m], float32.

    Returns:
        The order, [m], and the rank of each entry of it within its query, from 0, [m].
    """
    order = torch.sort(score, descending=True, stable=True).indices
    order = order[torch.sort(query[order], stable=True).indices]
    ordered = query[order].contiguous()
    first = torch.searchsorted(ordered, ordered)
    return order, torch.arange(len(order), device=order.device) - first


def stepped(
    live: Live[StateT], expansion: Expansion, picks: Tensor, state: StateT, model: DecodingState
) -> Live[StateT]:
    """The live rows after the picked continuations, with states that have been advanced."""
    rows, tokens = expansion.rows[picks], expansion.tokens[picks]
    return Live(
        model=model,
        constraint=state,
        tokens=torch.cat([live.tokens[rows], tokens[:, None]], dim=1),
        logprob=expansion.logprob[picks],
        null=expansion.null[picks],
    )
