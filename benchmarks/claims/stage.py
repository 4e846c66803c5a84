"""Does it help to unfreeze the last stage of the vision backbone?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.claims.dual import HEADS, head_recalls, in_parts, photos
from benchmarks.corpora import captioned, models
from benchmarks.harness import Benchmark, Measurement, Options, Skipped
from benchmarks.peers.last_stage import (
    LastStage,
    Seen,
    fit,
    inputs_of_last_block,
    look,
    of_rank,
    read,
)
from genmm_retriever.corpus.images import open_image
from genmm_retriever.models.builtin.mllm import BuiltinMLLM
from genmm_retriever.models.builtin.text import word_ids

FROZEN = "as shipped"
CONTROL = "the second head trained on for as long, the stage frozen"
LEARNT = "with the last stage learnt"
RANK = 8
LOW = f"its change cut down to rank {RANK}"


def vision_stage(options: Options) -> Measurement:
    """Exact search of dev by both heads, with the second one's pictures seen in four ways."""
    model = models.load(options.model)
    if not isinstance(model, BuiltinMLLM):
        raise Skipped(f"{model.name} is not the builtin model")
    train, dev = (_seen(options, model, split) for split in ("train", "dev"))
    embedding: Tensor = model.model.get_input_embeddings().weight.detach().float().cpu()
    epochs = options.pick(5, 1)
    frozen, learnt = LastStage(model), LastStage(model)
    shipped = copy.deepcopy(model.model.matching).float()
    alone, along = copy.deepcopy(shipped), copy.deepcopy(shipped)
    learn = partial(fit, seen=train, embedding=embedding, epochs=epochs, seed=options.seed)
    losses = {CONTROL: learn(None, alone), LEARNT: learn(learnt, along)}
    found = {
        FROZEN: _recalls(model, None, shipped, dev, embedding),
        CONTROL: _recalls(model, None, alone, dev, embedding),
        LEARNT: _recalls(model, learnt, along, dev, embedding),
        LOW: _recalls(model, of_rank(learnt, frozen, RANK), along, dev, embedding),
    }
    learnt_recalls = found.pop(LEARNT)
    return Measurement(
        value=learnt_recalls["text->image R@1"],
        peers={name: one["text->image R@1"] for name, one in found.items()},
        details={
            "recalls": learnt_recalls,
            "others": found,
            "training_loss_nats": losses,
            "epochs": epochs,
            "parameters_learnt": sum(one.numel() for one in learnt.parameters()),
            "training_photos": len(train.grid),
            "searched_photos": len(dev.grid),
        },
        notes=[
            "last block and head convolution at a rate of 1e-3, the second head at 2e-4, batches "
            "of 128, no augmentation; the first head and the usual queries stay",
        ],
    )


@torch.no_grad()
def _seen(options: Options, model: BuiltinMLLM, split: str) -> Seen:
    paths, captions = photos(options, split)
    texts = [text for own in captions for text in own]
    grid = torch.from_numpy(captioned.grid_features(paths, model, options.cache)).float()

    def below(some: Sequence[Any]) -> Any:
        return inputs_of_last_block(model, [open_image(path) for path in some])

    return Seen(
        below=captioned.kept_of_pictures(paths, model, options.cache, "below", below),
        grid=grid,
        labels=in_parts(model.model.model.classify, grid),
        sentences=torch.from_numpy(captioned.sentence_vectors(texts, options.cache)).float(),
        tokens=[word_ids(model.tokenizer, text) for text in texts],
        owner=np.repeat(np.arange(len(captions)), [len(own) for own in captions]),
    )


@torch.no_grad()
def _recalls(
    model: BuiltinMLLM, stage: LastStage | None, head: Any, dev: Seen, embedding: Tensor
) -> dict[str, float]:
    """By the first head as it is and this second one, in the shares in which the model has them."""
    pictures = in_parts(model.embed_images, dev.grid)
    second = pictures.shape[1] // 2
    share = pictures[0, second:].norm()
    seen = in_parts(partial(look, stage, head, dev), range(len(dev.grid)))
    said = in_parts(lambda rows: read(head, dev, rows, embedding), range(len(dev.owner)))
    first = model.model.contrastive.embed_texts(dev.sentences.to(model.device)).cpu()
    texts = torch.cat([(1 - share**2).sqrt() * first, share * said], dim=1)
    pictures = torch.cat([pictures[:, :second], share * seen], dim=1)
    return head_recalls(model, pictures, texts, dev.owner)[HEADS]


BENCHMARKS = (
    Benchmark(
        "vision_stage",
        "the last stage of the vision backbone learnt along with the second head",
        "% (text->image R@1 by the heads alone)",
        None,
        vision_stage,
    ),
)
