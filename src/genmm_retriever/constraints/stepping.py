"""The steps of a search in a trie of several parts: the union of what they show."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from genmm_retriever.constraints.alive import View
from genmm_retriever.constraints.base import (
    Completions,
    ConstraintState,
    Forced,
    LegalTokens,
    Subsets,
)
from genmm_retriever.constraints.following import follow, leaves_under
from genmm_retriever.constraints.layers import Layers
from genmm_retriever.constraints.pairs import Pairs, edge_pairs, union
from genmm_retriever.constraints.parts import ABSENT
from genmm_retriever.constraints.ragged import Ints
from genmm_retriever.errors import InputError


@dataclass(frozen=True, eq=False)
class TrieState(ConstraintState):
    """Rows in the trie.

    Attributes:
        depth: Tokens written, [n], int64.
        targets: For each part the node (or complement of a leaf) that each row stands at or is
            on the way to, [parts, n], int64; see `TriePart`.
        complete: Whether the row has completed an identifier, [n], bool.
        settled: Whether all rows stand at their targets in every part, so that nothing needs
            to be read from the tails on the host.
        view: What the queries may find.
    """

    depth: Tensor
    targets: Tensor
    complete: Tensor
    settled: bool
    view: View


class TrieSearch:
    """Implements `Constraint` over the parts of a trie; safe to use from several threads."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers

    def start(
        self, batch: int, subsets: Subsets | None = None, *, device: torch.device | str = "cpu"
    ) -> TrieState:
        """One row a query, at the root.

        Args:
            batch: Q, the number of queries.
            subsets: For each query the item rows that may be found, or None for all; None if no
                query is restricted. Unknown rows are ignored; an empty subset finds nothing.
            device: Where the search runs; the trie is copied there once.

        Raises:
            InputError: If there is not one subset a query.
        """
        if subsets is not None and len(subsets) != batch:
            raise InputError(f"{batch} queries but {len(subsets)} subsets", "give one a query")
        device = torch.device(device)
        view = self._layers.view(batch, subsets, device)
        query = torch.arange(batch, device=device)
        zeros = torch.zeros_like(query)
        roots = torch.zeros((len(self._layers.parts), batch), dtype=torch.int64, device=device)
        state = TrieState(query, zeros, roots, zeros > 0, True, view)
        return replace(state, targets=torch.where(self._counts(state) > 0, roots, ABSENT))

    def legal(self, state: TrieState) -> LegalTokens:
        """The tokens that still lead to an alive identifier."""
        slot = state.view.slot[state.query]
        found: Pairs | None = None
        for p, part in enumerate(self._layers.parts):
            target, alive = state.targets[p], state.view.parts[p]
            if state.settled:
                pairs = edge_pairs(part, target, alive, slot)
            else:
                rows, tokens, null = self._pending(state, p)
                at_node = target.index_fill(0, rows, ABSENT)
                pairs = edge_pairs(part, at_node, alive, slot)
                pairs = union(pairs, Pairs(rows, tokens, null))
            found = pairs if found is None else union(found, pairs)
        assert found is not None
        numbers = torch.arange(len(slot) + 1, device=slot.device)
        return LegalTokens(
            offsets=torch.searchsorted(found.rows, numbers),
            rows=found.rows,
            tokens=found.tokens,
            null_logprobs=found.null,
            finishes=found.tokens == self._end,
        )

    def advance(self, state: TrieState, parents: Tensor, tokens: Tensor) -> TrieState:
        """Write one token a row.

        Raises:
            InputError: If a token is not legal after its row.
        """
        query = state.query[parents]
        targets = []
        for p, part in enumerate(self._layers.parts):
            target = state.targets[p]
            moved = part.edge(target[parents], tokens)
            if not state.settled:
                rows, expected, _ = self._pending(state, p)
                waiting = torch.full_like(target, -1).index_copy(0, rows, expected)[parents]
                kept = torch.where(waiting == tokens, target[parents], ABSENT)
                moved = torch.where(waiting >= 0, kept, moved)
            targets.append(moved)
        new = TrieState(
            query=query,
            depth=state.depth[parents] + 1,
            targets=torch.stack(targets),
            complete=tokens == self._end,
            settled=False,
            view=state.view,
        )
        filtered = any(alive is not None for alive in state.view.parts)
        lives = self._counts(new) > 0 if filtered else new.targets > ABSENT
        legal = lives.any(dim=0)
        if not bool(legal.all()):
            bad = int(tokens[~legal][0])
            raise InputError(f"token {bad} is not legal here", "take tokens from `legal`")
        return replace(new, targets=torch.where(lives, new.targets, ABSENT)) if filtered else new

    def choose(self, state: TrieState, rows: Tensor) -> TrieState:
        """The chosen rows, in that order."""
        return replace(
            state,
            query=state.query[rows],
            depth=state.depth[rows],
            targets=state.targets[:, rows],
            complete=state.complete[rows],
        )

    def forced(self, state: TrieState, most: Tensor | None = None) -> Forced[TrieState]:
        """Follow each row for as long as a single token is legal; see `Constraint.forced`.

        That is what the first and the last alive identifier under a row have in common; how
        many lie between does not matter.
        """
        device = state.query.device
        moved = follow(
            self._layers.parts,
            state.targets.cpu().numpy(),
            state.depth.cpu().numpy(),
            state.view.host_slot[state.query.cpu().numpy()],
            state.view,
            None if most is None else most.cpu().numpy(),
        )
        complete = torch.from_numpy(moved.complete).to(device)
        return Forced(
            state=TrieState(
                query=state.query,
                depth=torch.from_numpy(moved.depth).to(device),
                targets=torch.from_numpy(moved.targets).to(device),
                complete=complete,
                settled=len(self._layers.parts) == 1 and most is None,
                view=state.view,
            ),
            tokens=moved.tokens,
            null_logprobs=torch.from_numpy(moved.null).to(device),
            complete=complete,
        )

    def remaining(self, state: TrieState) -> Tensor:
        """Alive identifiers under each row, [n], int64."""
        return self._counts(state).sum(dim=0)

    def items_under(self, state: TrieState) -> list[Ints]:
        """The distinct items that each row can still lead to, ascending; n arrays."""
        targets: Ints = state.targets.cpu().numpy()
        return [
            self._layers.named_under(targets[:, row], query, state.view)
            for row, query in enumerate(state.query.tolist())
        ]

    def least_null_logprob(self, state: TrieState) -> Tensor:
        """The lowest unconditional log-probability of a tail under each row, [n], float32."""
        depth: Ints = state.depth.cpu().numpy()
        least = np.full(len(depth), np.inf)
        for part, target in zip(self._layers.parts, state.targets.cpu().numpy(), strict=True):
            end = np.maximum(depth, part.target_depth(target))
            down = part.null_sums(part.first_leaf(target), depth, end)
            down[target >= 0] += part.arrays.node_least_null[target[target >= 0]]
            least = np.where(target > ABSENT, np.minimum(least, down), least)
        least[least == np.inf] = 0.0
        return torch.from_numpy(least.astype(np.float32)).to(state.query.device)

    def completions(self, state: TrieState) -> Completions:
        """Every alive identifier under every row, in order of rows and tails."""
        query: Ints = state.query.cpu().numpy()
        depth: Ints = state.depth.cpu().numpy()
        found: list[tuple[int, list[int], float, tuple[int, ...]]] = []
        targets = state.targets.cpu().numpy()
        for p, part in enumerate(self._layers.parts):
            slot = state.view.host_slot[query]
            rows, leaf = leaves_under(part, p, targets[p], slot, state.view)
            begin, end = depth[rows], part.lengths(leaf)
            found += zip(
                rows.tolist(),
                part.spans(leaf, begin, end),
                part.null_sums(leaf, begin, end).tolist(),
                self._layers.named(p, leaf, query[rows], state.view),
                strict=True,
            )
        if len(self._layers.parts) > 1:
            found.sort(key=lambda one: one[:2])
        device = state.query.device
        return Completions(
            rows=torch.tensor([row for row, *_ in found], dtype=torch.int64, device=device),
            tails=[tail for _, tail, _, _ in found],
            null_logprobs=torch.tensor(
                [null for *_, null, _ in found], dtype=torch.float32, device=device
            ),
            items=[items for *_, items in found],
        )

    def documents(self, state: TrieState) -> list[tuple[int, ...]]:
        """The items of the identifier that each row has completed, within its subset."""
        query: Ints = state.query.cpu().numpy()
        found: list[tuple[int, ...]] = [()] * len(query)
        complete = state.complete.cpu().numpy()
        for p, target in enumerate(state.targets.cpu().numpy()):
            rows = np.flatnonzero(complete & (target > ABSENT))
            named = self._layers.named(p, ~target[rows], query[rows], state.view)
            for row, items in zip(rows.tolist(), named, strict=True):
                found[row] = items
        return found

    @property
    def _end(self) -> int:
        return self._layers.parts[0].end

    def _counts(self, state: TrieState) -> Tensor:
        """Alive leaves under each row in each part, [parts, n], int64."""
        counts = []
        slot = state.view.slot[state.query]
        for part, alive, target in zip(
            self._layers.parts, state.view.parts, state.targets, strict=True
        ):
            if alive is None:
                counts.append(part.leaves(target))
            else:
                counts.append(alive.count(slot, *part.interval(target)))
        return torch.stack(counts)

    def _pending(self, state: TrieState, p: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows with tokens left before their target; the next one and its log-probability."""
        part = self._layers.parts[p]
        target: Ints = state.targets[p].cpu().numpy()
        depth: Ints = state.depth.cpu().numpy()
        rows = np.flatnonzero(part.target_depth(target) > depth)
        tokens, null = part.at(part.first_leaf(target[rows]), depth[rows])
        found = (torch.from_numpy(one).to(state.query.device) for one in (rows, tokens, null))
        return tuple(found)  # type: ignore[return-value]
