"""Generative Semantic Verification: the model is shown the candidates and picks one (SemCORE)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from genmm_retriever.describing.prompts import OPTION_LETTERS, choice_prompt
from genmm_retriever.errors import InputError
from genmm_retriever.models.base import MLLM
from genmm_retriever.verification.answers import CONTENT_FREE, Answers
from genmm_retriever.verification.budget import Budget
from genmm_retriever.verification.calibration import Calibration, sigmoid
from genmm_retriever.verification.costs import TokenCosts
from genmm_retriever.verification.features import CandidateView, Parts, QueryView
from genmm_retriever.verification.protocol import fill_below, first_stage_order
from genmm_retriever.verification.showing import Showing

GROUP = 10


class ChoiceVerifier:
    """Shows the best candidates under option letters and reads which letter comes next.

    The letters' probabilities are averaged over several orders of the options, since models
    like some letters better than others; what they answer to options that are all alike is
    taken off before, so that a model that only ever says "A" finds all equal. Candidates that
    do not fit into one prompt go by groups; the winners of the groups are then compared, and
    a group's others keep their odds against its winner (Luce, 1959). Those beyond the budget
    keep the first stage's order, below.

    A choice tells which option fits best, not whether any does: probabilities add up to one.

    Args:
        model: The language model.
        budget: Candidates that are shown (None: all), or a whole `Budget`. Its time is looked
            at between groups; the winners of those done are compared in any case.
        calibration: Of the log-odds; by default the model's own.
        group: Options in a prompt, at most; fewer where the model takes fewer pictures or
            tokens.
        orders: Orders of the options: given, reversed, then both of them moved on by a part of
            the group. As many orders as options, if even, bring each to each place.
        prior: Whether what the letters get without content is taken off.
        clock: Tells seconds.

    Raises:
        InputError: If `group` is not 2 to 26, or `orders` is below 1.

    References:
        "SemCORE", arXiv 2504.13172; Zhao et al., "Calibrate Before Use", ICML 2021.
    """

    def __init__(
        self,
        model: MLLM,
        *,
        budget: Budget | int | None = GROUP,
        calibration: Calibration | None = None,
        group: int = GROUP,
        orders: int = 2,
        prior: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not 2 <= group <= len(OPTION_LETTERS) or orders < 1:
            raise InputError(
                f"a choice among group={group} options in orders={orders}",
                f"give a group of 2 to {len(OPTION_LETTERS)} and at least one order",
            )
        self.model = model
        self.budget = budget if isinstance(budget, Budget) else Budget(budget)
        self.calibration = calibration or Calibration.of(model)
        self.group = group
        self.orders = orders
        self.prior = prior
        self._clock = clock
        self._costs = TokenCosts(model)
        self._letters: dict[int, Answers] = {}
        self._priors: dict[int, np.ndarray] = {}

    def verify(
        self, query: QueryView, candidates: Sequence[CandidateView], *, at_least: int = 0
    ) -> tuple[np.ndarray, Parts]:
        """Probabilities that each candidate is the one.

        Args:
            query: With text, a picture or both.
            candidates: n of them; the first stage's scores say which are shown.
            at_least: Not heeded: more hits than the budget follow in the first stage's order.

        Returns:
            Probabilities [n], and as parts: `choice`, the probability before it is calibrated,
            `choice_1`, `choice_2`, ... what each order said within the group, and
            `choice_spread`, the largest difference between them.
        """
        start = self._clock()
        count = len(candidates)
        shown = first_stage_order(candidates)[: self.budget.most(count, 0)]
        named = ["choice", *(f"choice_{i + 1}" for i in range(self.orders)), "choice_spread"]
        judged = {name: np.full(count, np.nan) for name in named}
        probability = np.zeros(count)
        if len(shown):
            showing = Showing(self.model, self._costs, query, candidates)
            size = showing.together(self.group)
            places, strength, said = self._tournament(query, showing, shown, size, start)
            log_odds = strength - _log_of_rest(strength)
            probability[places] = sigmoid(self.calibration.choice(log_odds))
            judged["choice"][places] = np.exp(strength)
            for i in range(self.orders):
                judged[f"choice_{i + 1}"][places] = said[i]
            judged["choice_spread"][places] = said.max(axis=0) - said.min(axis=0)
        looked = ~np.isnan(judged["choice"])
        return fill_below(probability, looked, candidates), Parts.unread(candidates, **judged)

    def _tournament(
        self, query: QueryView, showing: Showing, shown: np.ndarray, size: int, start: float | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places looked at [m], their log-probabilities [m], what each order said [orders, m]."""
        groups = np.array_split(shown, -(-len(shown) // size))
        done: list[np.ndarray] = []
        for group in groups:
            if start is not None and done and self.budget.is_spent(self._clock() - start):
                break
            done.append(self._compare(query, showing, group))
        strengths = [np.log(said.mean(axis=0)) for said in done]
        if len(done) > 1:
            best = [int(strength.argmax()) for strength in strengths]
            winners = np.array([g[b] for g, b in zip(groups, best, strict=False)])
            _, final, _ = self._tournament(query, showing, winners, size, None)
            strengths = [
                strength - strength[b] + among
                for strength, b, among in zip(strengths, best, final, strict=True)
            ]
        whole = np.concatenate(strengths)
        places = np.concatenate(groups[: len(done)])
        return places, whole - np.logaddexp.reduce(whole), np.concatenate(done, axis=1)

    def _compare(self, query: QueryView, showing: Showing, group: np.ndarray) -> np.ndarray:
        """The options' probabilities by each order, [orders, options]."""
        count = len(group)
        if count == 1:
            return np.ones((self.orders, 1))
        options = [showing.option(int(place)) for place in group]
        orders = option_orders(count, self.orders)
        prompts = [
            choice_prompt(query.text, query.image, [options[i] for i in order], self.model)
            for order in orders
        ]
        logits = self._answers(count).logprobs(prompts) - self._prior(count)
        logits = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        said = np.zeros((self.orders, count))
        for row, order in enumerate(orders):
            said[row, order] = np.exp(logits[row])
        return np.maximum(said, np.finfo(float).tiny)

    def _answers(self, count: int) -> Answers:
        if count not in self._letters:
            spellings = [(letter,) for letter in OPTION_LETTERS[:count]]
            self._letters[count] = Answers(self.model, spellings)
        return self._letters[count]

    def _prior(self, count: int) -> np.ndarray:
        """Log-probabilities of the letters where all options are alike, [options]."""
        if not self.prior:
            return np.zeros(count)
        if count not in self._priors:
            alike = choice_prompt(CONTENT_FREE, None, [CONTENT_FREE] * count, self.model)
            self._priors[count] = self._answers(count).logprobs([alike])[0]
        return self._priors[count]


def option_orders(count: int, orders: int) -> np.ndarray:
    """Orders of options, [orders, count]: given, reversed, both moved on, and so forth.

    Examples:
        >>> option_orders(4, 4).tolist()
        [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1], [1, 0, 3, 2]]
    """
    turns = -(-orders // 2)
    made = []
    for turn in range(turns):
        moved = np.roll(np.arange(count), -(turn * count // turns))
        made += [moved, moved[::-1]]
    return np.array(made[:orders])


def _log_of_rest(log_probability: np.ndarray) -> np.ndarray:
    """log(1 - p) from log p, [n]; of what is certain the least there is."""
    rest = -np.expm1(np.minimum(log_probability, 0.0))
    logs: np.ndarray = np.log(np.maximum(rest, np.finfo(float).tiny))
    return logs
