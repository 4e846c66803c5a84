"""Work that asks the model in steps, so that the steps of several queries are one call.

A verifier's stages are written as generators: they yield what is to be scored and are sent the
scores. Whoever runs them decides how many run side by side.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from genmm_retriever.models.base import MLLM, Prompt

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class ToScore:
    """One continuation a prompt.

    Attributes:
        prompts: n of them.
        tails: The tokens after each.
    """

    prompts: list[Prompt]
    tails: list[list[int]]


Steps = Generator[ToScore, list[Tensor], ResultT]
"""Yields what is to be scored, is sent the log-probabilities, returns its result."""


def run_together(model: MLLM, works: Sequence[Steps[ResultT]]) -> list[ResultT]:
    """The results of all works, whose steps are scored side by side.

    Args:
        model: Scores.
        works: Not yet begun; of any numbers of steps.
    """
    results: dict[int, ResultT] = {}
    waiting: dict[int, ToScore] = {}

    def advance(number: int, scores: list[Tensor] | None) -> None:
        work = works[number]
        try:
            waiting[number] = next(work) if scores is None else work.send(scores)
        except StopIteration as finished:
            results[number] = finished.value

    for number in range(len(works)):
        advance(number, None)
    while waiting:
        asked = dict(waiting)
        waiting.clear()
        scores = model.score(
            [prompt for step in asked.values() for prompt in step.prompts],
            [tail for step in asked.values() for tail in step.tails],
        )
        begin = 0
        for number, step in asked.items():
            end = begin + len(step.prompts)
            advance(number, scores[begin:end])
            begin = end
    return [results[number] for number in range(len(works))]


def run_alone(model: MLLM, work: Steps[ResultT]) -> ResultT:
    """The result of one work."""
    return run_together(model, [work])[0]
