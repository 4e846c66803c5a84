"""What one pass of the search runs: from a picked token to the next choice, or to the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genmm_retriever.constraints.base import Constraint, StateT
from genmm_retriever.decoding.config import BeamConfig
from genmm_retriever.decoding.hypotheses import Expansion


@dataclass(eq=False)
class Branches:
    """Continuations of live rows, m of them.

    Attributes:
        rows: The live row that each continues, [m], int64.
        query: Its query, [m], int64.
        tails: The tokens.
        ends: Whether it completes an identifier.
        items: What a complete one names.
        first: log p(tokens | query) up to the tail's first token, [m], float32.
        null: log p(tokens | no query) up to the tail's last token, [m], float32.
    """

    rows: Tensor
    query: Tensor
    tails: list[list[int]]
    ends: list[bool]
    items: list[tuple[int, ...]]
    first: Tensor
    null: Tensor

    def __add__(self, other: Branches) -> Branches:
        """These branches, then the others."""
        return Branches(
            torch.cat([self.rows, other.rows]),
            torch.cat([self.query, other.query]),
            self.tails + other.tails,
            self.ends + other.ends,
            self.items + other.items,
            torch.cat([self.first, other.first]),
            torch.cat([self.null, other.null]),
        )

    def which(self, *, end: bool) -> Tensor:
        """Numbers of the branches that are complete, or of those that go on, int64."""
        found = [i for i, ends in enumerate(self.ends) if ends is end]
        return torch.tensor(found, dtype=torch.int64, device=self.rows.device)


def to_next_choice(
    constraint: Constraint[StateT],
    expansion: Expansion,
    picks: Tensor,
    state: StateT,
    config: BeamConfig,
) -> tuple[Branches, StateT]:
    """Picked tokens with all that they force, or as much of it as is written.

    Args:
        constraint: Says what is forced.
        expansion: What was picked from.
        picks: The picked pairs, [m].
        state: The constraint's rows behind the picked tokens, [m].
        config: Says where little that is left is not written.

    Returns:
        One branch a pick, and the constraint's rows of those that are not complete.
    """
    forced = constraint.forced(state)
    if config.open_leaves and config.level_end is not None:
        few = constraint.remaining(forced.state) <= config.open_leaves
        tails = _appended(expansion.tokens[picks], forced.tokens)
        most = [
            tail.index(config.level_end) if little and config.level_end in tail else len(tail)
            for tail, little in zip(tails, few.tolist(), strict=True)
        ]
        if any(number < len(tail) - 1 for number, tail in zip(most, tails, strict=True)):
            forced = constraint.forced(state, torch.tensor(most, dtype=torch.int64))
    ends = forced.complete.tolist()
    branches = Branches(
        rows=expansion.rows[picks],
        query=expansion.query[picks],
        tails=_appended(expansion.tokens[picks], forced.tokens),
        ends=ends,
        items=constraint.documents(forced.state) if any(ends) else [()] * len(ends),
        first=expansion.logprob[picks],
        null=expansion.null[picks] + forced.null_logprobs,
    )
    return branches, constraint.choose(forced.state, branches.which(end=False))


def to_the_end(
    constraint: Constraint[StateT], expansion: Expansion, picks: Tensor, state: StateT
) -> Branches:
    """Every identifier under the picked tokens; arguments as for `to_next_choice`."""
    found = constraint.completions(state)
    picks = picks[found.rows]
    return Branches(
        rows=expansion.rows[picks],
        query=expansion.query[picks],
        tails=_appended(expansion.tokens[picks], found.tails),
        ends=[True] * len(found.tails),
        items=found.items,
        first=expansion.logprob[picks],
        null=expansion.null[picks] + found.null_logprobs,
    )


def _appended(first: Tensor, rest: Sequence[Sequence[int]]) -> list[list[int]]:
    return [[one, *more] for one, more in zip(first.tolist(), rest, strict=True)]
