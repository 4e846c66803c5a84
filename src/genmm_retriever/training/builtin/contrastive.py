"""Training of the contrastive head: InfoNCE over cached features and sentence vectors."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from genmm_retriever.models.builtin.contrastive import ContrastiveHead, TwinTowers, WordedHead
from genmm_retriever.models.builtin.text import padded_words

TextSide = Callable[[Sequence[int]], Tensor]
"""From caption rows to unit vectors, [n, d]."""


@dataclass(frozen=True)
class ContrastiveData:
    """What the head learns from.

    Attributes:
        features: Of n pictures, [n, rows, vision_dim].
        probabilities: Label probabilities of the pictures, [n, labels].
        sentences: Vectors of all captions, [captions, sentence_dim].
        owner: The picture of each caption, [captions].
    """

    features: Tensor
    probabilities: Tensor
    sentences: Tensor
    owner: np.ndarray


def sentence_side(head: ContrastiveHead, data: ContrastiveData) -> TextSide:
    """Captions by their sentence vectors."""
    return lambda rows: head.embed_texts(data.sentences[list(rows)])


def worded_side(
    head: WordedHead,
    data: ContrastiveData,
    tokens: Sequence[Sequence[int]],
    embedding: Tensor,
) -> TextSide:
    """Captions by their sentence vectors and their words.

    Args:
        head: In training.
        data: With the sentence vectors.
        tokens: Token ids of every caption.
        embedding: Of the language model, [vocabulary, hidden].
    """

    def embed(rows: Sequence[int]) -> Tensor:
        words = padded_words([tokens[row] for row in rows])
        return head.embed_texts(data.sentences[list(rows)], words, embedding)

    return embed


def train_contrastive(
    head: TwinTowers,
    data: ContrastiveData,
    texts: TextSide,
    *,
    epochs: int = 10,
    batch: int = 1024,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: bool = True,
) -> float:
    """Fit a head; one caption a picture and batch, so that no negative is a positive.

    Args:
        head: One of the two.
        data: What it learns from.
        texts: Its text side.
        epochs: Rounds in which every picture is seen as often as it has captions.
        batch: Pictures a step.
        learning_rate: Peak of the one cycle.
        seed: Of the order and of dropout.
        progress: Show a bar on stderr.

    Returns:
        The last epoch's mean loss in nats.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    pictures = data.features.shape[0]
    captions: list[list[int]] = [[] for _ in range(pictures)]
    for caption, picture in enumerate(data.owner.tolist()):
        captions[picture].append(caption)
    rounds = max(map(len, captions))
    steps = epochs * rounds * -(-pictures // batch)
    optimiser = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps)
    head.train()
    mean = 0.0
    for _ in tqdm(range(epochs), desc="contrastive", disable=not progress):
        losses = []
        for _ in range(rounds):
            order = rng.sample(range(pictures), pictures)
            for start in range(0, pictures, batch):
                rows = order[start : start + batch]
                chosen = [rng.choice(captions[row]) for row in rows]
                loss = _info_nce(head, data, rows, texts(chosen))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                losses.append(float(loss.detach()))
        mean = sum(losses) / len(losses)
    head.eval()
    return mean


def _info_nce(head: TwinTowers, data: ContrastiveData, rows: list[int], texts: Tensor) -> Tensor:
    pictures = head.embed_images(data.features[rows], data.probabilities[rows])
    logits = head.scale.clamp(max=4.6).exp() * pictures @ texts.T
    own = torch.arange(len(rows))
    cross = torch.nn.functional.cross_entropy
    return (cross(logits, own) + cross(logits.T, own)) / 2
