"""Is it really the one: reverse likelihood in a cascade, by the same model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from genmm_retriever.models.base import MLLM
from genmm_retriever.verification.budget import Budget
from genmm_retriever.verification.calibration import REACH_FIRST, Calibration, sigmoid
from genmm_retriever.verification.cascade import Cascade, Policy
from genmm_retriever.verification.cheap import cheap_parts
from genmm_retriever.verification.costs import TokenCosts
from genmm_retriever.verification.features import CandidateView, Parts, QueryView
from genmm_retriever.verification.protocol import with_room_below
from genmm_retriever.verification.reverse import ReverseLikelihood
from genmm_retriever.verification.steps import Steps, run_alone, run_together


class LikelihoodVerifier:
    """Scores candidates in a cascade, each stage for fewer of them. Usable after any retriever.

    1. The cheap parts for all: cosine and objects where the model has such heads.
    2. The likelihood of the query given the candidates' words, where a picture is so many
       tokens that reading all words costs less than looking at the budgeted pictures.
    3. The likelihood given the candidates themselves, most promising first, in chunks, until
       the budget is spent or nobody left can still win: those whose log-odds are not expected
       to reach the k-th best so far are ruled out (`Calibration.reach`).

    What this does and does not promise: a candidate that was not looked at never outranks one
    that was. Without a limit in time and with margins unknown or `cascade=False`, exactly the
    `budget` best by the cheaper parts are looked at. That the order is better than the first
    stage's cannot be promised for a query without judgements: the weights decide, none of them
    is negative, and `evaluation.calibration.fit` keeps to the first stage's order where the
    fitted one was worse on the judged queries. `genmm eval` reports both.

    Args:
        model: The language model; if it has a contrastive head, that is the cheap part.
        budget: Candidates whose likelihood is computed (None: all), or a whole `Budget`.
        calibration: Weights of the parts; by default the model's own.
        cascade: True reads the words in any case; False neither reads them nor rules anybody
            out; None decides by what it costs.
        chunk: Candidates looked at between two looks at the clock and at who can still win.
        clock: Tells seconds.
    """

    def __init__(
        self,
        model: MLLM,
        *,
        budget: Budget | int | None = 16,
        calibration: Calibration | None = None,
        cascade: bool | None = None,
        chunk: int = REACH_FIRST,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = model
        self.budget = budget if isinstance(budget, Budget) else Budget(budget)
        self.calibration = calibration or Calibration.of(model)
        self._policy = Policy(self.budget, self.calibration, cascade, max(1, chunk), clock)
        self._costs = TokenCosts(model)

    def verify(
        self, query: QueryView, candidates: Sequence[CandidateView], *, at_least: int = 0
    ) -> tuple[np.ndarray, Parts]:
        """Probabilities that each candidate answers the query.

        Args:
            query: With text, a picture or both.
            candidates: n of them, in any order.
            at_least: The hits wanted: so many are looked at even if the budget is smaller, and
                who cannot be among so many is not looked at.

        Returns:
            Probabilities [n], and the parts that they come from. A candidate that was not
            looked at never outranks one that was.
        """
        return run_alone(self.model, self._verified(query, candidates, at_least))

    def verify_all(
        self,
        queries: Sequence[QueryView],
        candidates: Sequence[Sequence[CandidateView]],
        *,
        at_least: int = 0,
    ) -> list[tuple[np.ndarray, Parts]]:
        """As `verify` for several queries, which ask the model together.

        One after the other where time is limited, which is a query's own, and where pictures
        are opened to be looked at, of which few should be held.

        Args:
            queries: Q of them.
            candidates: Those of each.
            at_least: The hits wanted of each.
        """
        at_hand = all(
            one.image is None or one.cached is not None for some in candidates for one in some
        )
        works = [
            self._verified(query, some, at_least)
            for query, some in zip(queries, candidates, strict=True)
        ]
        if self.budget.milliseconds is None and at_hand:
            return run_together(self.model, works)
        return [run_alone(self.model, work) for work in works]

    def _verified(
        self, query: QueryView, candidates: Sequence[CandidateView], at_least: int
    ) -> Steps[tuple[np.ndarray, Parts]]:
        stages = Cascade(self.model, self._policy, self._costs, query, candidates, at_least)
        parts, unseen = yield from stages.run(self.cheap_parts(query, candidates))
        seen = ~np.isnan(parts.likelihood)
        probability = sigmoid(np.where(seen, self.calibration.full(parts), unseen))
        if seen.any():
            probability, ceiling = with_room_below(probability, seen)
            probability[~seen] = np.minimum(probability[~seen], ceiling)
        return probability, parts

    def cheap_parts(self, query: QueryView, candidates: Sequence[CandidateView]) -> Parts:
        """The parts that need no forward pass of the language model."""
        return cheap_parts(self.model, query, candidates)

    def likelihoods(self, query: QueryView, candidates: Sequence[CandidateView]) -> np.ndarray:
        """Nats a token that each candidate adds; see `ReverseLikelihood.given_items`."""
        return run_alone(self.model, ReverseLikelihood(self.model, query).given_items(candidates))

    def text_likelihoods(self, query: QueryView, candidates: Sequence[CandidateView]) -> np.ndarray:
        """Nats a token that their words add; see `ReverseLikelihood.given_words`."""
        return run_alone(self.model, ReverseLikelihood(self.model, query).given_words(candidates))
