"""`genmm train matching`: the second contrastive head anew, all else staying as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genmm_retriever.identifiers.clusters import kmeans
from genmm_retriever.models.builtin.assembly import ASSETS, HEAD_FILE
from genmm_retriever.models.builtin.contrastive import WordedHead
from genmm_retriever.models.builtin.mllm import BuiltinMLLM
from genmm_retriever.models.builtin.text import padded_words, word_ids
from genmm_retriever.training.builtin.contrastive import (
    ContrastiveData,
    train_contrastive,
    worded_side,
)
from genmm_retriever.training.builtin.data import read_captioned
from genmm_retriever.training.builtin.looking import load_data
from genmm_retriever.training.builtin.targets import contrastive_data
from genmm_retriever.training.storing import storing

_AT_ONCE = 512
_BANK = 10_000
"""Captions that the usual queries are made of, at most."""


def train_matching(
    sources: Sequence[Path],
    output: Path,
    *,
    model: BuiltinMLLM | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the second contrastive head from scratch and write it beside the shipped parts.

    Args:
        sources: Captioned-images JSONL files.
        output: Folder of `head.safetensors`; features of the pictures lie in its `work`.
        model: Whose head; None for the builtin model, whose other parts are written too.
        seed: Of the weights, the order and dropout.
        device: Where the pictures are looked at; by default a GPU if there is one.
        progress: Show bars on stderr.

    Returns:
        Numbers of pictures and captions, and the last epoch's loss in nats.

    Raises:
        SourceError: If a source cannot be read or holds no caption.
        StorageError: If the disk is full or cannot be written.
    """
    for source in sources:
        read_captioned(source)
    work = output / "work"
    with storing(work):
        work.mkdir(parents=True, exist_ok=True)
    kept = {}
    if model is None:
        from genmm_retriever.models.builtin.mllm import load_builtin
        from genmm_retriever.models.loading import pick_device

        model = load_builtin(device=pick_device(device), progress=progress)
        kept = {
            name: value
            for name, value in load_file(ASSETS / HEAD_FILE).items()
            if not name.startswith("matching.")
        }
    whole = model.model
    data = load_data(sources, whole, work, limit=None, progress=progress)
    seen = contrastive_data(whole, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = WordedHead(whole.config)
    head.label_vectors.copy_(whole.contrastive.label_vectors)
    tokens = [word_ids(model.tokenizer, text) for some in data.captions for text in some]
    embedding = whole.get_input_embeddings().weight.detach().float().cpu()
    loss = fit_matching(head, seen, tokens, embedding, seed=seed, progress=progress)
    learnt = {
        f"matching.{name}": value.half().contiguous()
        for name, value in head.state_dict().items()
        if name != "label_vectors"
    }
    with storing(output):
        save_file(kept | learnt, output / HEAD_FILE)
    return {"pictures": len(data), "captions": len(seen.owner), "matching_loss": loss}


def fit_matching(
    head: WordedHead,
    data: ContrastiveData,
    tokens: Sequence[Sequence[int]],
    embedding: Tensor,
    *,
    epochs: int = 10,
    batch: int = 1024,
    seed: int = 0,
    progress: bool = True,
) -> float:
    """Fit the head, and what pictures are usually asked for with.

    Args:
        head: Fresh.
        data: What it learns from.
        tokens: Token ids of every caption.
        embedding: Of the language model, [vocabulary, hidden].
        epochs: Rounds in which every picture is seen as often as it has captions.
        batch: Pictures a step.
        seed: Of the order, of dropout and of the choice of usual queries.
        progress: Show a bar on stderr.

    Returns:
        The last epoch's mean loss in nats.
    """
    lower = data.features[:, -1, : len(head.lower_mean)]
    head.lower_mean.copy_(lower.mean(dim=0))
    # Fewer than two pictures have no deviation.
    head.lower_deviation.copy_(lower.std(dim=0, correction=0).clamp_min(1e-4))
    side = worded_side(head, data, tokens, embedding)
    loss = train_contrastive(
        head, data, side, epochs=epochs, batch=batch, seed=seed, progress=progress
    )
    with torch.no_grad():
        _set_usual(head, data, tokens, embedding, seed)
    return loss


def _set_usual(
    head: WordedHead,
    data: ContrastiveData,
    tokens: Sequence[Sequence[int]],
    embedding: Tensor,
    seed: int,
) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(tokens), generator=draw)[:_BANK].tolist()
    queries = torch.cat(
        [
            head.embed_texts(
                data.sentences[some], padded_words([tokens[row] for row in some]), embedding
            )
            for some in (rows[n : n + _AT_ONCE] for n in range(0, len(rows), _AT_ONCE))
        ]
    )
    centres, places = kmeans(queries.numpy(), len(head.usual), seed=seed)
    counts = torch.bincount(torch.from_numpy(places), minlength=len(head.usual))
    # Where there are fewer centres the last ones stand for nothing.
    head.usual.zero_()
    head.usual[: len(centres)] = torch.from_numpy(centres)
    head.usual_shares.copy_(counts / counts.sum())
    starts = range(0, len(data.features), _AT_ONCE)
    near = [
        head.near_to_usual(
            head.embed_images(data.features[n : n + _AT_ONCE], data.probabilities[n : n + _AT_ONCE])
        )
        for n in starts
    ]
    head.usual_nearness.copy_(torch.cat(near).mean())
