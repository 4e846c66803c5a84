"""What a user would build instead: a dual encoder with exact search.

A multilayer perceptron over the same frozen picture features and one over frozen sentence
vectors, trained with InfoNCE; then every query is compared with everything.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

HIDDEN = 1024
WIDTH = 1024


@dataclass(frozen=True)
class Captioned:
    """Pictures and their captions as vectors.

    Attributes:
        pictures: Pooled features, [n, d].
        sentences: Vectors of all captions, [m, s].
        owner: The picture of each caption, [m].
    """

    pictures: NDArray[np.float32]
    sentences: NDArray[np.float32]
    owner: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        grid: NDArray[np.float16],
        sentences: NDArray[np.float32],
        captions: list[list[str]],
    ) -> Captioned:
        """From grid features [n, cells, d] and the vectors of all captions in a row."""
        owner = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
        if len(grid) != len(captions) or len(sentences) != len(owner):
            raise ValueError(
                f"{len(grid)} pictures and {len(sentences)} sentences do not fit "
                f"{len(captions)} pictures with {len(owner)} captions"
            )
        pooled = grid.astype(np.float32).mean(axis=1)
        return cls(pooled, np.asarray(sentences, dtype=np.float32), owner)


@dataclass(frozen=True)
class Ranks:
    """Where the right answer stood in an exact search, counted from nought.

    Attributes:
        text_to_image: Of each caption's own picture, [m].
        image_to_text: Of the best of each picture's own captions, [n].
        loss: Of the last epoch of training, in nats.
    """

    text_to_image: NDArray[np.int64]
    image_to_text: NDArray[np.int64]
    loss: float

    def recalls(self) -> dict[str, float]:
        """R@1, R@5 and R@10 of both directions, in percent."""
        return recalls(self.text_to_image, self.image_to_text)


def recalls(text_to_image: NDArray[np.int64], image_to_text: NDArray[np.int64]) -> dict[str, float]:
    """R@1, R@5 and R@10 in percent, of ranks counted from nought."""
    return {
        f"{name} R@{k}": 100 * float((ranks < k).mean())
        for name, ranks in (("text->image", text_to_image), ("image->text", image_to_text))
        for k in (1, 5, 10)
    }


class DualEncoder(nn.Module):
    """Both sides and the temperature.

    Args:
        picture_dim: d, of pooled features.
        sentence_dim: s, of sentence vectors.
        dropout: Of what goes into both layers of the picture's side.
        text_dropout: Of the text's hidden layer.
    """

    def __init__(
        self,
        picture_dim: int,
        sentence_dim: int,
        *,
        dropout: float = 0.6,
        text_dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.picture = nn.Sequential(
            nn.LayerNorm(picture_dim),
            nn.Dropout(dropout),
            nn.Linear(picture_dim, HIDDEN),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, WIDTH),
        )
        self.text = nn.Sequential(
            nn.Linear(sentence_dim, HIDDEN),
            nn.GELU(),
            nn.Dropout(text_dropout),
            nn.Linear(HIDDEN, WIDTH),
        )
        self.scale = nn.Parameter(torch.tensor(math.log(20.0)))

    def pictures(self, features: Tensor) -> Tensor:
        """[n, d] -> unit vectors [n, 1024]."""
        return nn.functional.normalize(self.picture(features), dim=-1)

    def texts(self, sentences: Tensor) -> Tensor:
        """[m, s] -> unit vectors [m, 1024]."""
        return nn.functional.normalize(self.text(sentences), dim=-1)

    def loss(self, features: Tensor, sentences: Tensor) -> Tensor:
        """InfoNCE of pairs, both ways, in nats."""
        logits = self.scale.clamp(max=4.6).exp() * self.pictures(features) @ self.texts(sentences).T
        own = torch.arange(len(features))
        cross = nn.functional.cross_entropy
        return (cross(logits, own) + cross(logits.T, own)) / 2


def train(
    data: Captioned,
    *,
    epochs: int = 16,
    batch: int = 1024,
    learning_rate: float = 1e-3,
    dropout: float = 0.6,
    seed: int = 0,
) -> tuple[DualEncoder, float]:
    """Fit a dual encoder; one caption a picture and batch, so that no negative is a positive.

    Args:
        data: What to learn from.
        epochs: In each, every picture is seen as often as it has captions.
        batch: Pairs a step.
        learning_rate: The highest of a one-cycle schedule.
        dropout: On the picture's side.
        seed: Of the weights and of the order.

    Returns:
        The encoder in evaluation mode, and the last epoch's mean loss in nats.
    """
    draw = random.Random(seed)
    pictures, sentences = torch.from_numpy(data.pictures), torch.from_numpy(data.sentences)
    captions: list[list[int]] = [[] for _ in range(len(pictures))]
    for caption, picture in enumerate(data.owner.tolist()):
        captions[picture].append(caption)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DualEncoder(pictures.shape[1], sentences.shape[1], dropout=dropout)
        optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.05)
        rounds = max(map(len, captions))
        steps = epochs * rounds * -(-len(pictures) // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps)
        losses: list[float] = []
        for _ in range(epochs * rounds):
            order = draw.sample(range(len(pictures)), len(pictures))
            for start in range(0, len(order), batch):
                rows = order[start : start + batch]
                chosen = [draw.choice(captions[row]) for row in rows]
                loss = model.loss(pictures[rows], sentences[chosen])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                losses.append(float(loss.detach()))
    last = losses[-(len(losses) // epochs) :]
    return model.eval(), sum(last) / len(last)


@torch.no_grad()
def rank(model: DualEncoder, data: Captioned) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Exact search both ways: ranks of captions' pictures [m], of pictures' best captions [n]."""
    pictures = model.pictures(torch.from_numpy(data.pictures))
    texts = model.texts(torch.from_numpy(data.sentences))
    scores = (texts @ pictures.T).numpy()
    return ranks_of_pictures(scores, data.owner), ranks_of_captions(scores, data.owner)


def ranks_of_pictures(scores: NDArray[np.float32], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each caption's own picture stands among all.

    Args:
        scores: Of captions with pictures, [m, n].
        owner: The picture of each caption, [m].
    """
    own = scores[np.arange(len(owner)), owner]
    ranks: NDArray[np.int64] = (scores > own[:, None]).sum(axis=1)
    return ranks


def ranks_of_captions(scores: NDArray[np.float32], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the best of each picture's own captions stands among all, [n]; see above."""
    best = np.full(scores.shape[1], -np.inf, dtype=scores.dtype)
    np.maximum.at(best, owner, scores[np.arange(len(owner)), owner])
    ranks: NDArray[np.int64] = (scores > best[None, :]).sum(axis=0)
    return ranks


def train_and_rank(
    train_set: Captioned,
    dev_set: Captioned,
    *,
    epochs: int = 16,
    batch: int = 1024,
    learning_rate: float = 1e-3,
    dropout: float = 0.6,
    seed: int = 0,
) -> Ranks:
    """Train on one set and search the other; see `train`."""
    model, loss = train(
        train_set,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        dropout=dropout,
        seed=seed,
    )
    return Ranks(*rank(model, dev_set), loss=loss)
