"""Training of the contrastive head: InfoNCE over cached features and sentence vectors."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from genmm_retriever.models.builtin.contrastive import ContrastiveHead


@dataclass(frozen=True)
class ContrastiveData:
    """What the head learns from.

    Attributes:
        features: Grid features of n pictures, [n, cells, vision_dim].
        probabilities: Label probabilities of the pictures, [n, labels].
        sentences: Vectors of all captions, [captions, sentence_dim].
        owner: The picture of each caption, [captions].
    """

    features: Tensor
    probabilities: Tensor
    sentences: Tensor
    owner: np.ndarray


def train_contrastive(
    head: ContrastiveHead,
    data: ContrastiveData,
    *,
    epochs: int = 10,
    batch: int = 1024,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: bool = True,
) -> float:
    """Fit the head; one caption a picture and batch, so that no negative is a positive.

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
                loss = _info_nce(head, data, rows, chosen)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                losses.append(float(loss.detach()))
        mean = sum(losses) / len(losses)
    head.eval()
    return mean


def _info_nce(
    head: ContrastiveHead, data: ContrastiveData, rows: list[int], captions: list[int]
) -> Tensor:
    pictures = head.embed_images(data.features[rows], data.probabilities[rows])
    texts = head.embed_texts(data.sentences[captions])
    logits = head.scale.clamp(max=4.6).exp() * pictures @ texts.T
    own = torch.arange(len(rows))
    cross = torch.nn.functional.cross_entropy
    return (cross(logits, own) + cross(logits.T, own)) / 2
