"""One query's way through the stages: cheap parts, words, the candidates themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from genmm_retriever.models.base import MLLM
from genmm_retriever.verification.budget import Budget
from genmm_retriever.verification.calibration import REACH_DEPTH, REACH_FIRST, Calibration
from genmm_retriever.verification.costs import TokenCosts
from genmm_retriever.verification.features import CandidateView, Parts, QueryView
from genmm_retriever.verification.reverse import ReverseLikelihood
from genmm_retriever.verification.steps import Steps

_WORDS_AT_ONCE = 32


@dataclass(frozen=True)
class Policy:
    """How a cascade spends; see `LikelihoodVerifier`."""

    budget: Budget
    calibration: Calibration
    cascade: bool | None = None
    chunk: int = REACH_FIRST
    clock: Callable[[], float] = time.perf_counter


class Cascade:
    """The stages after the cheap parts, for one query; the clock starts here.

    Args:
        model: The language model.
        policy: How much may be spent.
        costs: Of the model's prompts; shared between queries.
        query: With text, a picture or both.
        candidates: n of them.
        at_least: So many are looked at whatever the budget.
    """

    def __init__(
        self,
        model: MLLM,
        policy: Policy,
        costs: TokenCosts,
        query: QueryView,
        candidates: Sequence[CandidateView],
        at_least: int,
    ) -> None:
        self._start = policy.clock()
        self._policy = policy
        self._weights = policy.calibration
        self._costs = costs
        self._query = query
        self._candidates = candidates
        self._at_least = at_least
        self._timed = policy.budget.milliseconds is not None
        # Margins are learned on words alone; and a query picture is paid for once, whoever
        # is asked.
        self._may_rule_out = (
            policy.cascade is not False
            and bool(query.text)
            and query.image is None
            and at_least <= REACH_DEPTH
        )
        self._chunked = self._timed or (
            self._may_rule_out and any(map(self._weights.can_rule_out, (False, True)))
        )
        self._reverse = ReverseLikelihood(model, query, chunked=self._chunked)

    def run(self, parts: Parts) -> Steps[tuple[Parts, np.ndarray]]:
        """All that the budget allows to know.

        Args:
            parts: The cheap ones.

        Returns:
            Parts, and the log-odds without the likelihood by which candidates were chosen, [n].
        """
        read = parts.words
        if self._is_worth_reading(parts):
            read = yield from self._read(parts)
        unseen = self._weights.unseen(replace(parts, text_likelihood=read))
        if not np.isnan(read).all():
            # What a text item's words add is its likelihood itself, and counts once, as that.
            pictures = np.array([c.image is not None for c in self._candidates])
            parts = replace(parts, text_likelihood=np.where(pictures, read, np.nan))
        return (yield from self._look(parts, unseen, read)), unseen

    def _is_spent(self) -> bool:
        return self._policy.budget.is_spent(self._policy.clock() - self._start)

    def _is_worth_reading(self, parts: Parts) -> bool:
        """Whether reading the words of all costs less than looking at the budgeted pictures."""
        text, weights = self._query.text, self._weights
        if self._policy.cascade is False or not text or not self._candidates:
            return False
        if self._policy.cascade or weights.text_likelihood > 0:
            return True
        count = len(self._candidates)
        looks = self._policy.budget.most(count, self._at_least)
        pictures = [i for i, c in enumerate(self._candidates) if c.image is not None]
        chooses = looks < count or self._timed
        chooses = chooses or (self._may_rule_out and weights.can_rule_out(True))
        if not (chooses and pictures and weights.reads_words):
            return False
        cheap = weights.cheap(parts)
        # The likeliest picture will be looked at in any case, so opening it costs nothing.
        likeliest = max(pictures, key=lambda i: float(cheap[i]))
        asked = len(self._reverse.tokens(text))
        look = self._costs.picture(self._candidates[likeliest]) + asked
        most = look * min(looks, len(pictures))
        asked *= count
        return asked < most and asked + self._costs.words(self._candidates) < most

    def _read(self, parts: Parts) -> Steps[np.ndarray]:
        """The likelihood given the words, [n]; by the clock, those that look best first."""
        order = np.argsort(-self._weights.cheap(parts), kind="stable")
        size = _WORDS_AT_ONCE if self._timed else len(order)
        gains = np.full(len(order), np.nan)
        for begin in range(0, len(order), size):
            if self._is_spent():
                break
            chunk = order[begin : begin + size]
            read = [self._candidates[i] for i in chunk]
            gains[chunk] = yield from self._reverse.given_words(read)
        return gains

    def _look(self, parts: Parts, unseen: np.ndarray, read: np.ndarray) -> Steps[Parts]:
        """Parts with the likelihoods of those that can still win, as far as the budget goes.

        Nobody is looked at where the likelihood has no weight.
        """
        if not self._weights.likelihood:
            return parts
        order = np.argsort(-unseen, kind="stable")
        most = self._policy.budget.most(len(order), self._at_least)
        likelihood = parts.likelihood.copy()
        done, size = 0, max(self._at_least, self._policy.chunk) if self._chunked else most
        while done < most:
            chunk = order[done : min(done + size, most)]
            likelihood[chunk] = yield from self._likelihoods(chunk, read)
            parts = replace(parts, likelihood=likelihood)
            done, size = done + len(chunk), self._policy.chunk
            if self._may_rule_out:
                most = min(most, self._last(parts, unseen[order], read, order[:done]))
            if self._is_spent():
                break
        return parts

    def _likelihoods(self, chunk: np.ndarray, read: np.ndarray) -> Steps[np.ndarray]:
        """Of a chunk, [m]; of text items whose words were read they are known."""
        gains = np.array([read[i] if self._candidates[i].image is None else np.nan for i in chunk])
        new = np.flatnonzero(np.isnan(gains))
        looked = [self._candidates[i] for i in chunk[new]]
        gains[new] = yield from self._reverse.given_items(looked)
        return gains

    def _last(self, parts: Parts, unseen: np.ndarray, read: np.ndarray, done: np.ndarray) -> int:
        """How many of the order can still be among the hits wanted.

        Log-odds with and without words read lie on two scales: where both occur, all can.

        Args:
            parts: With the likelihoods of those done.
            unseen: Log-odds by which they are ordered, best first, [n].
            read: The likelihoods given the words, [n].
            done: Places of those looked at, best first by `unseen`, [m].
        """
        worded = ~np.isnan(read)
        wanted = max(self._at_least, 1)
        known = self._weights.can_rule_out(bool(worded.all())) and worded.all() == worded.any()
        if not known or len(done) < max(REACH_FIRST, wanted):
            return len(unseen)
        log_odds = self._weights.full(parts)[done]
        reach = self._weights.reach(unseen, bool(worded.all()), log_odds[:REACH_FIRST])
        bar = np.partition(log_odds, -wanted)[-wanted]
        return int(np.count_nonzero(reach >= bar))
