"""One candidate at a time: does this fit the query, yes or no?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from genmm_retriever.describing.prompts import yesno_prompt
from genmm_retriever.models.base import MLLM, ImagePart
from genmm_retriever.verification.answers import CONTENT_FREE, Answers
from genmm_retriever.verification.budget import Budget
from genmm_retriever.verification.calibration import REACH_FIRST, Calibration, sigmoid
from genmm_retriever.verification.costs import TokenCosts
from genmm_retriever.verification.features import CandidateView, Parts, QueryView
from genmm_retriever.verification.protocol import fill_below, first_stage_order
from genmm_retriever.verification.showing import Showing

_ANSWERS = (("Yes", "yes", "YES"), ("No", "no", "NO"))


class YesNoVerifier:
    """Asks whether each of the best candidates fits: p(yes) / (p(yes) + p(no)).

    Some candidates are likely to get a yes whatever is asked, and a text that orders it may be
    one of them. So each is also asked about for a query without content, and what its log-odds
    lie above the median of all there is taken off.

    Args:
        model: The language model.
        budget: Candidates that are asked about (None: all), or a whole `Budget`; its time is
            looked at between chunks.
        calibration: Of the log-odds; by default the model's own.
        prior: Whether what candidates get without content is taken off; it is a second question
            each.
        chunk: Candidates asked about between two looks at the clock.
        clock: Tells seconds.

    References:
        Zhao et al., "Calibrate Before Use", ICML 2021, for each candidate by itself.
    """

    def __init__(
        self,
        model: MLLM,
        *,
        budget: Budget | int | None = 16,
        calibration: Calibration | None = None,
        prior: bool = True,
        chunk: int = REACH_FIRST,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = model
        self.budget = budget if isinstance(budget, Budget) else Budget(budget)
        self.calibration = calibration or Calibration.of(model)
        self.prior = prior
        self._chunk = max(1, chunk)
        self._clock = clock
        self._costs = TokenCosts(model)
        self._answers: Answers | None = None

    def verify(
        self, query: QueryView, candidates: Sequence[CandidateView], *, at_least: int = 0
    ) -> tuple[np.ndarray, Parts]:
        """Probabilities that each candidate fits the query.

        Args:
            query: With text, a picture or both.
            candidates: n of them; the first stage's scores say which are asked about.
            at_least: The hits wanted: so many are asked about even if the budget is smaller.

        Returns:
            Probabilities [n], and as a part `yes`: the probability before it is calibrated,
            with what is taken off.
            Candidates not asked about follow below, in the first stage's order.
        """
        start = self._clock()
        most = self.budget.most(len(candidates), at_least)
        asked = first_stage_order(candidates)[:most]
        timed = self.budget.milliseconds is not None
        size = max(at_least, self._chunk) if timed else max(1, most)
        showing = Showing(self.model, self._costs, query, candidates)
        log_odds = np.full(len(candidates), np.nan)
        always = np.zeros(len(candidates))
        for begin in range(0, most, size):
            if begin and self.budget.is_spent(self._clock() - start):
                break
            chunk = asked[begin : begin + size]
            shown = [showing.option(int(i)) for i in chunk]
            log_odds[chunk] = self._ask(query, shown)
            if self.prior:
                always[chunk] = self._ask(QueryView(CONTENT_FREE), shown)
        looked = ~np.isnan(log_odds)
        known = np.where(looked, log_odds - always, 0.0)
        if looked.any():
            # The level stays the model's: the median of few is not moved by one that is far off.
            known += np.where(looked, np.median(always[looked]), 0.0)
        probability = sigmoid(self.calibration.yesno(known))
        parts = Parts.unread(candidates, yes=np.where(looked, sigmoid(known), np.nan))
        return fill_below(probability, looked, candidates), parts

    def _ask(self, query: QueryView, shown: Sequence[ImagePart | str]) -> np.ndarray:
        """Log-odds of "yes" over "no" for each item, [n]."""
        if self._answers is None:
            self._answers = Answers(self.model, _ANSWERS)
        prompts = [yesno_prompt(query.text, query.image, item, self.model) for item in shown]
        found = self._answers.logprobs(prompts)
        log_odds: np.ndarray = found[:, 0] - found[:, 1]
        return log_odds
