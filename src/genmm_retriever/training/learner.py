"""One optimiser step of any transformers model: the loss on answer tokens alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genmm_retriever.models.transformers_mllm import TransformersMLLM
from genmm_retriever.training.lessons import Lesson

_ROWS_AT_ONCE = 8


class Learner:
    """Gradients of lessons, by the very passes that retrieval scores identifiers with.

    Where the model obeys a mask for every pair of tokens, all answers of a prompt share one
    pass over it; models with caches by row have a row an answer; others run prompt and answer
    together (see `models.engine.RowEngine`).

    Args:
        mllm: The model, with LoRA layers in place; in evaluation mode, so no dropout.
    """

    def __init__(self, mllm: TransformersMLLM) -> None:
        self.mllm = mllm
        mllm.model.eval()

    def step(self, lessons: Sequence[Lesson]) -> float:
        """Add the gradients of the mean loss a token, in passes of few rows.

        Returns:
            The mean negative log-likelihood of an answer token, in nats.
        """
        encoded = [self.mllm.encode_prompt(lesson.prompt) for lesson in lessons]
        tokens = sum(len(answer) for lesson in lessons for answer in lesson.answers)
        # Rows of like length together: little is spent on padding.
        order = sorted(range(len(lessons)), key=lambda i: encoded[i]["input_ids"].shape[1])
        total = 0.0
        for start in range(0, len(order), _ROWS_AT_ONCE):
            chosen = order[start : start + _ROWS_AT_ONCE]
            scores = self._scores([encoded[i] for i in chosen], [lessons[i] for i in chosen])
            loss = -torch.cat(scores).sum() / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    @torch.no_grad()
    def loss(self, lessons: Sequence[Lesson]) -> float:
        """The mean negative log-likelihood of an answer token, in nats."""
        total, tokens = 0.0, 0
        for start in range(0, len(lessons), _ROWS_AT_ONCE):
            chosen = lessons[start : start + _ROWS_AT_ONCE]
            encoded = [self.mllm.encode_prompt(lesson.prompt) for lesson in chosen]
            found = torch.cat(self._scores(encoded, chosen))
            total, tokens = total - float(found.sum()), tokens + len(found)
        return total / max(1, tokens)

    def _scores(self, encoded: list[dict[str, Tensor]], lessons: Sequence[Lesson]) -> list[Tensor]:
        """Log-probabilities of the answers' tokens, one tensor an answer."""
        engine = self.mllm.engine
        tails = [answer for lesson in lessons for answer in lesson.answers]
        parents = [i for i, lesson in enumerate(lessons) for _ in lesson.answers]
        half = self.mllm.model.get_input_embeddings().weight.dtype == torch.bfloat16
        with torch.autocast(engine.device.type, dtype=torch.bfloat16, enabled=half):
            if not engine.can_gather:
                return engine.score_packed([encoded[i] for i in parents], tails)
            state = engine.prefill(encoded)
            return engine.score_from(state, torch.tensor(parents), tails)
