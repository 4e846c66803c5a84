"""The peer of the whole system: a dual encoder on the same features, with exact search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.corpora import captioned, models
from benchmarks.harness import Benchmark, Measurement, Options
from benchmarks.peers.dual_encoder import (
    Captioned,
    ranks_of_captions,
    ranks_of_pictures,
    recalls,
    train_and_rank,
)
from genmm_retriever.models.base import NearToMany
from genmm_retriever.models.builtin.mllm import BuiltinMLLM
from genmm_retriever.training.builtin.data import read_captioned

LOWER = "the same, given the means of the vision side's lower layers too"
HEADS = "our two contrastive heads alone, everything compared"
NOTHING_OFF = "our heads, with what is near to whatever is asked for not taken off"
_AT_ONCE = 256


def dual_encoder(options: Options) -> Measurement:
    """Train on Flickr8k's training photos, search the dev ones both ways."""
    model = models.load(options.model)
    epochs = options.pick(16, 4)
    train, dev = _sets(options, model, lower=False)
    ranks = train_and_rank(train, dev, epochs=epochs, seed=options.seed)
    others: dict[str, dict[str, float]] = {}
    if isinstance(model, BuiltinMLLM):
        wide = standardised(*_sets(options, model, lower=True))
        others[LOWER] = train_and_rank(*wide, epochs=epochs, seed=options.seed).recalls()
        others |= heads(options, model)
    return Measurement(
        value=ranks.recalls()["text->image R@1"],
        peers={name: found["text->image R@1"] for name, found in others.items()},
        details={
            "recalls": ranks.recalls(),
            "others": others,
            "training_photos": len(train.pictures),
            "searched_photos": len(dev.pictures),
            "captions": len(dev.owner),
            "training_loss_nats": ranks.loss,
        },
        notes=[
            "pooled features of the model's vision side and MiniLM vectors, both frozen; MLP "
            "1280-1024-1024 with dropout 0.6, InfoNCE, batch 1,024, 16 epochs, exact search",
            "with the lower layers every channel is standardised over the training photos",
        ],
    )


def _sets(options: Options, model: Any, *, lower: bool) -> tuple[Captioned, Captioned]:
    train, dev = (
        captioned.vectors(
            captioned.flickr_file(options, split),
            model,
            options.cache,
            limit=_limit(options, split),
            lower=lower,
        )
        for split in ("train", "dev")
    )
    return train, dev


def _limit(options: Options, split: str) -> int | None:
    """Pictures of a split that are read; None for all."""
    return options.pick(0, {"train": 300, "dev": 100}[split]) or None


def photos(options: Options, split: str) -> tuple[list[Path], list[list[str]]]:
    """The pictures of a split and their captions."""
    limit = _limit(options, split)
    paths, captions = read_captioned(captioned.flickr_file(options, split))
    return paths[:limit], captions[:limit]


def standardised(train: Captioned, dev: Captioned) -> tuple[Captioned, Captioned]:
    """Both with picture channels of mean 0 and deviation 1 over the first.

    Beside those of the last layer, the channels of the lower ones would else vanish.
    """
    mean, deviation = train.pictures.mean(axis=0), train.pictures.std(axis=0) + 1e-4
    first, second = (
        replace(some, pictures=(some.pictures - mean) / deviation) for some in (train, dev)
    )
    return first, second


@torch.no_grad()
def heads(options: Options, model: BuiltinMLLM) -> dict[str, dict[str, float]]:
    """Recalls of an exact search of dev with the model's own cosines."""
    paths, captions = photos(options, "dev")
    owner = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
    grid = torch.from_numpy(captioned.grid_features(paths, model, options.cache)).float()
    pictures = in_parts(model.embed_images, grid)
    texts = in_parts(model.embed_texts, [text for own in captions for text in own])
    return head_recalls(model, pictures, texts, owner)


def head_recalls(
    model: NearToMany, pictures: Tensor, texts: Tensor, owner: NDArray[np.int64]
) -> dict[str, dict[str, float]]:
    """Recalls by cosines, with what is near to whatever is asked for taken off and without.

    Args:
        model: Knows what is near to many.
        pictures: Unit vectors, [n, d].
        texts: Unit vectors, [m, d].
        owner: The picture of each text, [m].
    """
    cosines = texts @ pictures.T
    by_text = (cosines - model.nearness(pictures)).numpy()
    by_picture = (cosines - model.text_nearness(texts)[:, None]).numpy()
    plain = cosines.numpy()
    return {
        HEADS: recalls(ranks_of_pictures(by_text, owner), ranks_of_captions(by_picture, owner)),
        NOTHING_OFF: recalls(ranks_of_pictures(plain, owner), ranks_of_captions(plain, owner)),
    }


def in_parts(embed: Callable[[Any], Tensor], inputs: Any) -> Tensor:
    """Vectors of inputs, [n, d], float32, of a few hundred at once."""
    starts = range(0, len(inputs), _AT_ONCE)
    return torch.cat([embed(inputs[n : n + _AT_ONCE]).cpu().float() for n in starts])


BENCHMARKS = (
    Benchmark(
        "dual_encoder",
        "what a user would pick instead: a dual encoder with the same features and data",
        "% (text->image R@1)",
        None,
        dual_encoder,
    ),
)
