"""What was written, as a tree: the beginnings that hypotheses share, with all their odds.

The search keeps what it needs and no more. The tree is worked out afterwards, from the model and
the trie alone: the hypotheses' beginnings are run once more, level by level, and at each choice
the legal tokens are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from genmm_retriever.constraints.base import Forced, LegalTokens
from genmm_retriever.constraints.ragged import Ints
from genmm_retriever.constraints.trie import TokenTrie, TrieState
from genmm_retriever.decoding.guide import Guide
from genmm_retriever.decoding.hypotheses import Hypothesis, legal_normaliser
from genmm_retriever.models.base import MLLM, DecodingState, Prompt


@dataclass(frozen=True)
class NotTaken:
    """A legal continuation that none of the hypotheses takes.

    Attributes:
        tokens: The legal token with all that it forces.
        probability: Of the token among the legal ones.
        items: How many items it leads to.
    """

    tokens: tuple[int, ...]
    probability: float
    items: int


@dataclass(eq=False)
class TreeNode:
    """A chosen token with all that it forces; the root has written nothing.

    Along a path from the root, `logprob`, `null_logprob` and `guide` add up to what the
    hypothesis at its end has; so does `score`, which is their sum so far.

    Attributes:
        before: The tokens above it.
        tokens: The chosen token and those without alternative after it.
        probability: Of the chosen token among those legal there.
        logprob: log p(tokens | query), nats, over the whole vocabulary.
        null_logprob: log p(tokens | no query), nats, as the trie keeps it.
        guide: What the guide adds here; beginnings that it stops expecting take away.
        score: `logprob - debias * null_logprob + guide` of all tokens so far.
        items: Rows of the items that it can still lead to, ascending.
        complete: Whether it completes an identifier.
        legal: How many tokens may follow; 0 where writing ends.
        children: Those that hypotheses take, likeliest first.
        others: The likeliest of those that none takes.
        named: Hypotheses that end here; those left open have tokens that were not written.
    """

    before: tuple[int, ...]
    tokens: tuple[int, ...]
    probability: float
    logprob: float
    null_logprob: float
    guide: float
    score: float
    items: Ints
    complete: bool = False
    legal: int = 0
    children: list[TreeNode] = field(default_factory=list)
    others: list[NotTaken] = field(default_factory=list)
    named: list[Hypothesis] = field(default_factory=list)

    @property
    def written(self) -> tuple[int, ...]:
        """All tokens from the root on."""
        return self.before + self.tokens


Growing = tuple[TreeNode, list[Hypothesis]]
"""A node at a choice, with the hypotheses that go on there."""


@dataclass(eq=False)
class _Choice:
    """What is taken of one row's legal tokens: places in `LegalTokens`."""

    node: TreeNode
    taken: dict[int, list[Hypothesis]]
    others: list[int]


@dataclass(eq=False)
class _Steps:
    """Legal tokens with what they force, m of them; see `TreeNode`."""

    forced: Forced[TrieState]
    tails: list[list[int]]
    nulls: list[float]
    items: list[Ints]


def written_tree(
    model: MLLM,
    prompt: Prompt,
    trie: TokenTrie,
    hypotheses: Sequence[Hypothesis],
    *,
    subset: Ints | None = None,
    debias: float = 1.0,
    guide: Guide | None = None,
    alternatives: int = 3,
) -> TreeNode:
    """The union of the hypotheses' beginnings, in one pass a level.

    Args:
        model: That wrote them.
        prompt: That they answer.
        trie: That they were written under.
        hypotheses: Of one query, with global scores.
        subset: Rows of the items that could be found, or None for all.
        debias: Weight of the unconditional log-probability.
        guide: What steered the search besides, if anything.
        alternatives: Continuations not taken that are kept at each choice.
    """
    grower = _Grower(model, trie, debias, guide, alternatives)
    with torch.no_grad():
        state = model.prefill([prompt])
        rows = trie.start(1, [subset], device=state.logits.device)
        [items] = trie.items_under(rows)
        root = TreeNode((), (), 1.0, 0.0, 0.0, 0.0, 0.0, items)
        level = [(root, list(hypotheses))]
        while level:
            level, state, rows = grower.grow(level, state, rows)
    return root


class _Grower:
    """Grows all nodes of a level at once."""

    def __init__(
        self, model: MLLM, trie: TokenTrie, debias: float, guide: Guide | None, alternatives: int
    ) -> None:
        self.model = model
        self.trie = trie
        self.debias = debias
        self.guide = guide
        self.alternatives = alternatives

    def grow(
        self,
        level: list[Growing],
        state: DecodingState,
        rows: TrieState,
    ) -> tuple[list[Growing], DecodingState, TrieState]:
        """Give the nodes of a level their children; these are the next level.

        Args:
            level: Nodes at a choice, each with the hypotheses that go on there, n.
            state: The model's rows, n.
            rows: The trie's rows, n.
        """
        legal = self.trie.legal(rows)
        logits = state.logits[legal.rows, legal.tokens]
        share = (logits - legal_normaliser(logits, legal)[legal.rows]).exp()
        choices = self._choices(level, legal, share)
        taken = [place for choice in choices for place in choice.taken]
        others = [choice.others for choice in choices]
        for choice, found in zip(choices, self._not_taken(rows, legal, share, others), strict=True):
            choice.node.others = found
        pairs = torch.tensor(taken, dtype=torch.int64, device=logits.device)
        ahead = [
            min(h.length for h in hypotheses) - len(choice.node.written) - 1
            for choice in choices
            for hypotheses in choice.taken.values()
        ]
        steps = self._step(rows, legal, pairs, torch.tensor(ahead, dtype=torch.int64))
        chances = share[pairs].tolist()
        following: list[Growing] = []
        for choice in choices:
            for hypotheses in choice.taken.values():
                place = len(following)
                node = self._child(choice.node, steps, place, chances[place])
                length = len(node.written)
                node.named = [h for h in hypotheses if h.length <= length]
                following.append((node, [h for h in hypotheses if h.length > length]))
        ends = [not open_ for _, open_ in following]
        grown, sums = self.model.extend(state, legal.rows[pairs], steps.tails, ends)
        self._score(level, following, sums)
        going = [i for i, end in enumerate(ends) if not end]
        chosen = torch.tensor(going, dtype=torch.int64, device=logits.device)
        after = self.trie.choose(steps.forced.state, chosen)
        return [following[i] for i in going], grown, after

    def _step(
        self, rows: TrieState, legal: LegalTokens, pairs: Tensor, most: Tensor | None = None
    ) -> _Steps:
        """What the pairs lead to; `most` tokens beyond the first, where no more was written."""
        after = self.trie.advance(rows, legal.rows[pairs], legal.tokens[pairs])
        forced = self.trie.forced(after, most)
        firsts = legal.tokens[pairs].tolist()
        return _Steps(
            forced=forced,
            tails=[[first, *more] for first, more in zip(firsts, forced.tokens, strict=True)],
            nulls=(legal.null_logprobs[pairs] + forced.null_logprobs).tolist(),
            items=self.trie.items_under(after),
        )

    def _not_taken(
        self, rows: TrieState, legal: LegalTokens, share: Tensor, places: list[list[int]]
    ) -> list[list[NotTaken]]:
        """What the legal tokens at some places of each row would have led to."""
        flat = [place for some in places for place in some]
        pairs = torch.tensor(flat, dtype=torch.int64, device=share.device)
        steps, chances = self._step(rows, legal, pairs), share[pairs].tolist()
        columns = zip(steps.tails, chances, steps.items, strict=True)
        found = iter([NotTaken(tuple(tail), p, len(items)) for tail, p, items in columns])
        return [list(islice(found, len(some))) for some in places]

    def _choices(
        self,
        level: list[Growing],
        legal: LegalTokens,
        share: Tensor,
    ) -> list[_Choice]:
        bounds, tokens = legal.offsets.tolist(), legal.tokens.tolist()
        choices = []
        for row, (node, hypotheses) in enumerate(level):
            begin, end = bounds[row], bounds[row + 1]
            node.legal = end - begin
            place_of = {token: begin + i for i, token in enumerate(tokens[begin:end])}
            taken: dict[int, list[Hypothesis]] = {}
            for hypothesis in hypotheses:
                first = hypothesis.tokens[len(node.written)]
                taken.setdefault(place_of[first], []).append(hypothesis)
            likeliest = np.argsort(-share[begin:end].cpu().numpy(), kind="stable") + begin
            others = [place for place in likeliest.tolist() if place not in taken]
            in_order = {place: taken[place] for place in likeliest.tolist() if place in taken}
            choices.append(_Choice(node, in_order, others[: self.alternatives]))
        return choices

    def _child(self, parent: TreeNode, steps: _Steps, place: int, share: float) -> TreeNode:
        """A child that has not been scored."""
        before, tokens = parent.written, tuple(steps.tails[place])
        ahead = 0.0
        if self.guide is not None:
            ahead = self.guide.of(before + tokens) - (self.guide.of(before) if before else 0.0)
        null, items = steps.nulls[place], steps.items[place]
        complete = bool(steps.forced.complete[place])
        child = TreeNode(before, tokens, share, 0.0, null, ahead, 0.0, items, complete)
        parent.children.append(child)
        return child

    def _score(
        self,
        level: list[Growing],
        following: list[Growing],
        sums: Tensor,
    ) -> None:
        parents = [node for node, _ in level for _ in node.children]
        for parent, (node, _), logprob in zip(parents, following, sums.tolist(), strict=True):
            node.logprob = logprob
            node.score = parent.score + logprob - self.debias * node.null_logprob + node.guide
