"""The last stage of the vision backbone, learnt along with the second contrastive head.

Its block and the convolution behind it; everything below stays frozen and is run once.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from genmm_retriever.models.builtin.contrastive import WordedHead
from genmm_retriever.models.builtin.mllm import BuiltinMLLM
from genmm_retriever.models.builtin.text import padded_words

_AT_ONCE = 128


@dataclass(frozen=True)
class Seen:
    """What a stage and a head learn from, or are asked about.

    Attributes:
        below: What goes into the stage, of n pictures, [n, channels, h, w].
        grid: Features of the frozen model, [n, rows, d].
        labels: Label probabilities of the frozen model, [n, labels].
        sentences: Vectors of all captions, [m, s].
        tokens: Token ids of all captions.
        owner: The picture of each caption, [m].
    """

    below: NDArray[np.float16]
    grid: Tensor
    labels: Tensor
    sentences: Tensor
    tokens: Sequence[Sequence[int]]
    owner: NDArray[np.int64]


class LastStage(nn.Module):
    """A copy of a builtin model's last block, and of what follows it.

    Args:
        model: Stays as it is.
    """

    def __init__(self, model: BuiltinMLLM) -> None:
        super().__init__()
        inner = model.model.model
        self.block = copy.deepcopy(last_block(model)).float()
        self.convolution = copy.deepcopy(inner.vision._conv_head).float()
        self.norm = copy.deepcopy(inner.vision._bn1).float()
        self.activation = copy.deepcopy(inner.vision._swish)
        self.grid = int(model.model.config.grid)
        # The statistics of the batch norms stay those of ImageNet.
        self.eval()
        self.requires_grad_(True)

    def forward(self, below: Tensor) -> Tensor:
        """[n, channels, h, w] -> cells, [n, grid * grid, d]."""
        maps = self.activation(self.norm(self.convolution(self.block(below))))
        return nn.functional.adaptive_avg_pool2d(maps, self.grid).flatten(2).transpose(1, 2)


def last_block(model: BuiltinMLLM) -> Any:
    """The block whose input `Seen.below` is."""
    return model.model.model.vision._blocks[-1]


def inputs_of_last_block(model: BuiltinMLLM, pictures: Sequence[Any]) -> NDArray[np.float16]:
    """What goes into a model's last block for some open pictures."""
    met: list[Tensor] = []
    hook = last_block(model).register_forward_pre_hook(lambda _, given: met.append(given[0]))
    try:
        model.encode_images(pictures)
    finally:
        hook.remove()
    below: NDArray[np.float16] = torch.cat(met).half().cpu().numpy()
    return below


def look(stage: LastStage | None, head: WordedHead, seen: Seen, rows: Sequence[int]) -> Tensor:
    """Unit vectors of some pictures, [n, d]; by the frozen features if there is no stage."""
    grid, chosen = seen.grid[list(rows)], list(rows)
    if stage is not None:
        cells = stage(torch.from_numpy(seen.below[chosen]).float())
        grid = torch.cat([cells, grid[:, -1:]], dim=1)
    return head.embed_images(grid, seen.labels[chosen])


def read(head: WordedHead, seen: Seen, rows: Sequence[int], embedding: Tensor) -> Tensor:
    """Unit vectors of some captions, [n, d]."""
    words = padded_words([seen.tokens[row] for row in rows])
    return head.embed_texts(seen.sentences[list(rows)], words, embedding)


def fit(
    stage: LastStage | None,
    head: WordedHead,
    seen: Seen,
    embedding: Tensor,
    *,
    epochs: int,
    seed: int = 0,
) -> float:
    """Train a head on from where it is, and the stage with it if there is one.

    Args:
        stage: Learnt at a rate of 1e-3; None to learn the head alone, as a control.
        head: Learnt at a rate of 2e-4.
        seen: Training pictures; each is seen once an epoch, with one of its captions.
        embedding: Of the language model, [vocabulary, hidden].
        epochs: Rounds.
        seed: Of the order and of dropout.

    Returns:
        The last epoch's mean loss in nats.
    """
    torch.manual_seed(seed)
    draw = random.Random(seed)
    captions: list[list[int]] = [[] for _ in range(len(seen.grid))]
    for caption, picture in enumerate(seen.owner.tolist()):
        captions[picture].append(caption)
    groups: list[dict[str, Any]] = [{"params": head.parameters(), "lr": 2e-4}]
    if stage is not None:
        groups.append({"params": stage.parameters(), "lr": 1e-3})
    optimiser = torch.optim.AdamW(groups, weight_decay=0.05)
    total = epochs * -(-len(captions) // _AT_ONCE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / 20) * (1 - step / total)
    )
    head.train()
    losses: list[float] = []
    with tqdm(total=total, desc="last stage", file=sys.stderr) as bar:
        for _ in range(epochs):
            losses = []
            order = draw.sample(range(len(captions)), len(captions))
            for start in range(0, len(order), _AT_ONCE):
                rows = sorted(order[start : start + _AT_ONCE])
                asked = [draw.choice(captions[row]) for row in rows]
                pictures, texts = look(stage, head, seen, rows), read(head, seen, asked, embedding)
                logits = head.scale.clamp(max=4.6).exp() * pictures @ texts.T
                own, cross = torch.arange(len(rows)), nn.functional.cross_entropy
                loss = (cross(logits, own) + cross(logits.T, own)) / 2
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                losses.append(float(loss.detach()))
                bar.update()
    head.eval()
    return sum(losses) / len(losses)


def of_rank(learnt: LastStage, frozen: LastStage, rank: int) -> LastStage:
    """A learnt stage whose 1 x 1 convolutions differ from the frozen one's by so low a rank.

    By singular values, after the training: learnt as a product of two factors from the start, as
    LoRA has it, the change gained nothing.
    """
    low, before = copy.deepcopy(learnt), dict(frozen.named_parameters())
    with torch.no_grad():
        for name, weight in low.named_parameters():
            if weight.dim() == 4 and weight.shape[1] > 1 and weight.shape[2:] == (1, 1):
                change = (weight - before[name]).flatten(1)
                left, values, right = torch.linalg.svd(change, full_matrices=False)
                kept = (left[:, :rank] * values[:rank]) @ right[:rank]
                weight.copy_(before[name] + kept.reshape(weight.shape))
    return low
