"""What each step of each stage shows the model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from genmm_retriever.models.builtin.configuration import GenmmBuiltinConfig
from genmm_retriever.models.builtin.text import answer_ids
from genmm_retriever.training.builtin.data import CaptionedImages
from genmm_retriever.training.builtin.forms import Forms
from genmm_retriever.training.builtin.losses import discriminative_loss
from genmm_retriever.training.builtin.packing import pack
from genmm_retriever.training.builtin.trainer import Learner, StepLoss


class Curriculum(Forms):
    """Makes the steps' batches; each step is a pure function of (seed, step).

    Args:
        data: Pictures with captions and features.
        tokenizer: Of the language model.
        config: Of the model.
        seed: Of all choices.
    """

    def __init__(
        self,
        data: CaptionedImages,
        tokenizer: PreTrainedTokenizerBase,
        config: GenmmBuiltinConfig,
        seed: int = 0,
    ) -> None:
        super().__init__(data, tokenizer, config)
        self.seed = seed
        self.answers = [[answer_ids(tokenizer, text) for text in texts] for texts in data.captions]
        self.describe = self._prompt(None, "Describe.")

    def _epoch_rows(self, epoch: int) -> list[int]:
        return random.Random(f"{self.seed}-{epoch}").sample(range(len(self.data)), len(self.data))

    def captioning(self, images: int) -> Iterator[StepLoss]:
        """All captions of `images` pictures a step, each picture's prompt computed once."""
        per_epoch = len(self.data) // images
        step = 0
        while True:
            epoch, place = divmod(step, per_epoch)
            rows = self._epoch_rows(epoch)[place * images : (place + 1) * images]
            yield self._captioning_step(rows, random.Random(f"{self.seed}-flip-{step}"))
            step += 1

    def _captioning_step(self, rows: list[int], rng: random.Random) -> StepLoss:
        def loss(learner: Learner) -> tuple[Tensor, dict[str, float]]:
            features = self.data.batch(
                rows, flip=[rng.random() < 0.5 for _ in rows], grid=self.config.grid
            )
            batch = pack(
                [self.describe] * len(rows), [self.answers[row] for row in rows], eos=self.eos
            )
            _, nll = learner.logprobs(batch, features)
            return nll, {"nll": float(nll.detach())}

        return loss

    def discriminative(
        self,
        groups: int,
        size: int,
        neighbours: np.ndarray,
        text_loss: Callable[[Learner, random.Random], tuple[Tensor, dict[str, float]]]
        | None = None,
    ) -> Iterator[StepLoss]:
        """Groups of `size` look-alike pictures, one caption each; all pairs are scored.

        Args:
            groups: Groups a step.
            size: Pictures a group.
            neighbours: Rows of each picture's nearest pictures, [pictures, at least size - 1].
            text_loss: A further loss to add (query -> identifier).
        """
        step = 0
        while True:
            yield self._discriminative_step(
                random.Random(f"{self.seed}-d-{step}"), groups, size, neighbours, text_loss
            )
            step += 1

    def _discriminative_step(
        self,
        rng: random.Random,
        groups: int,
        size: int,
        neighbours: np.ndarray,
        text_loss: Callable[[Learner, random.Random], tuple[Tensor, dict[str, float]]] | None,
    ) -> StepLoss:
        def loss(learner: Learner) -> tuple[Tensor, dict[str, float]]:
            rows: list[int] = []
            for _ in range(groups):
                anchor = rng.randrange(len(self.data))
                rows += [anchor, *rng.sample([int(n) for n in neighbours[anchor]], size - 1)]
            queries = [rng.choice(self.answers[row]) for row in rows]
            offered = [
                queries[i // size * size : i // size * size + size] for i in range(len(rows))
            ]
            batch = pack([self.describe] * len(rows), offered, eos=self.eos)
            features = self.data.batch(
                rows, flip=[rng.random() < 0.5 for _ in rows], grid=self.config.grid
            )
            total, _ = learner.logprobs(batch, features)
            scores = total.view(groups, size, size)
            tokens = torch.tensor([len(q) + 1 for q in queries], device=total.device).view(
                groups, size
            )
            own = torch.diagonal(scores, dim1=1, dim2=2)
            nll = -own.sum() / tokens.sum()
            out, accuracy = discriminative_loss(scores, nll)
            metrics = {"nll": float(nll.detach()), "accuracy": float(accuracy)}
            if text_loss is not None:
                extra, more = text_loss(learner, rng)
                out, metrics = out + extra, metrics | more
            return out, metrics

        return loss
