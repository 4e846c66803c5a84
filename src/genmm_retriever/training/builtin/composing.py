"""`genmm train composer`: from triplets to how the builtin model composes picture and change."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from genmm_retriever.corpus.lines import captions_of, iter_jsonl, record_id
from genmm_retriever.errors import InputError
from genmm_retriever.models.builtin.assembly import COMPOSER_FILE
from genmm_retriever.models.builtin.composer import Composer
from genmm_retriever.models.builtin.mllm import BuiltinMLLM
from genmm_retriever.training.builtin.looking import load_data
from genmm_retriever.training.triplets.book import KnownTriplet, read_triplets

_AT_ONCE = 256
_HELD_OUT = 0.1
_SHARPNESS = 20.0
"""Inverse temperature; that at which the contrastive heads begin."""


@dataclass(frozen=True)
class Changes:
    """Triplets as vectors, all of unit length.

    Attributes:
        pictures: Of n pictures, among which targets are looked for, [n, d].
        texts: Of m changes, [m, d].
        references: Rows of the pictures that change, [m].
        targets: Rows of what they become, [m].
    """

    pictures: Tensor
    texts: Tensor
    references: Tensor
    targets: Tensor

    def of(self, rows: Sequence[int]) -> Changes:
        """Some of the triplets, among the same pictures."""
        chosen = torch.tensor(list(rows), dtype=torch.long)
        return Changes(
            self.pictures, self.texts[chosen], self.references[chosen], self.targets[chosen]
        )

    def __len__(self) -> int:
        """Number of triplets."""
        return len(self.texts)


def train_composer(
    sources: Sequence[Path],
    triplets: Sequence[Path],
    output: Path,
    *,
    model: BuiltinMLLM | None = None,
    epochs: int = 8,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Fit a composer for the builtin model's contrastive heads, which stay as they are.

    Args:
        sources: Captioned-images JSONL files with an `id` a line.
        triplets: JSONL files of `{"reference", "target", "text", "reverse"}` by those ids.
        output: Folder of `composer.safetensors`; features of the pictures lie in its `work`.
        model: Whose heads; None for the builtin model.
        epochs: Passes over the triplets.
        seed: Of the split, the order, dropout and noise.
        device: Where the pictures are looked at; by default a GPU if there is one.
        progress: Show bars on stderr.

    Returns:
        Numbers of pictures and triplets, and recall@10 in percent on a held-out tenth, of the sum
        of both vectors and of what was learnt.

    Raises:
        SourceError: If a file cannot be read or a line is broken; it is named.
        InputError: If an option is out of range, or fewer than ten triplets are about the
            pictures.
    """
    if epochs < 1:
        raise InputError(f"epochs is {epochs}", "give at least 1")
    if model is None:
        from genmm_retriever.models.builtin.mllm import load_builtin
        from genmm_retriever.models.loading import pick_device

        model = load_builtin(device=pick_device(device), progress=progress)
    work = output / "work"
    work.mkdir(parents=True, exist_ok=True)
    rows = {name: row for row, name in enumerate(_ids(sources))}
    known, _ = read_triplets(triplets, rows.get)
    data = load_data(sources, model.model, work, limit=None, progress=progress)
    changes = _changes(model, torch.from_numpy(data.features[:]), known)
    learnt, held = _split(changes, seed)
    composer = fit(learnt, epochs=epochs, seed=seed, progress=progress)
    untrained = Composer(changes.pictures.shape[1]).eval()
    tensors = {name: value.half().contiguous() for name, value in composer.state_dict().items()}
    save_file(tensors, output / COMPOSER_FILE)
    return {
        "pictures": len(data),
        "triplets": len(learnt),
        "held_out": len(held),
        "recall@10_of_the_sum": recall(untrained, held),
        "recall@10": recall(composer, held),
    }


def _ids(sources: Sequence[Path]) -> list[str]:
    """Ids of the pictures, in the order in which `load_data` reads them."""
    return [
        record_id(record, source, number)
        for source in sources
        for number, record in iter_jsonl(source)
        if any(text.strip() for text in captions_of(record, source, number))
    ]


def _changes(model: BuiltinMLLM, features: Tensor, triplets: Sequence[KnownTriplet]) -> Changes:
    both = [(one.reference, one.text, one.target) for one in triplets]
    both += [(one.target, one.reverse, one.reference) for one in triplets if one.reverse]
    texts = [text for _, text, _ in both]
    starts = range(0, len(features), _AT_ONCE)
    pictures = [model.embed_images(features[n : n + _AT_ONCE]) for n in starts]
    words = [model.embed_texts(texts[n : n + _AT_ONCE]) for n in range(0, len(texts), _AT_ONCE)]
    return Changes(
        torch.cat(pictures).float().cpu(),
        torch.cat(words).float().cpu(),
        torch.tensor([reference for reference, _, _ in both]),
        torch.tensor([target for _, _, target in both]),
    )


def _split(changes: Changes, seed: int) -> tuple[Changes, Changes]:
    """What is learnt and what is held out; both ways between two pictures are on one side."""
    ways = [
        tuple(sorted(way))
        for way in zip(changes.references.tolist(), changes.targets.tolist(), strict=True)
    ]
    pairs = sorted(set(ways))
    if len(pairs) < 1 / _HELD_OUT:
        raise InputError(f"there are {len(pairs)} pairs of pictures in the triplets", "give ten")
    held = set(random.Random(seed).sample(pairs, int(_HELD_OUT * len(pairs))))
    places = range(len(changes))
    return (
        changes.of([n for n in places if ways[n] not in held]),
        changes.of([n for n in places if ways[n] in held]),
    )


def fit(
    changes: Changes,
    *,
    epochs: int = 8,
    batch: int = 128,
    learning_rate: float = 5e-4,
    noise: float = 0.7,
    seed: int = 0,
    progress: bool = True,
) -> Composer:
    """Fit a composer by InfoNCE against all pictures but the references.

    Args:
        changes: What it learns from.
        epochs: Passes over the triplets.
        batch: Triplets a step.
        learning_rate: Of AdamW.
        noise: Length of what is added to the vectors in a random direction: those of pictures
            that the heads were trained on lie closer to their texts than others do.
        seed: Of the order, dropout and noise.
        progress: Show a bar on stderr.
    """
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        composer = Composer(changes.pictures.shape[1])
        optimiser = torch.optim.AdamW(composer.parameters(), lr=learning_rate, weight_decay=0.05)
        for _ in tqdm(range(epochs), desc="composer", disable=not progress):
            order = torch.randperm(len(changes)).tolist()
            for start in range(0, len(order), batch):
                loss = _loss(composer, changes.of(order[start : start + batch]), noise)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    finally:
        torch.random.set_rng_state(state)
    return composer.eval().requires_grad_(False)


def _loss(composer: Composer, changes: Changes, noise: float) -> Tensor:
    images = _shaken(changes.pictures[changes.references], noise)
    composed = composer(images, _shaken(changes.texts, noise))
    logits = _SHARPNESS * _cosines(composed, changes)
    return torch.nn.functional.cross_entropy(logits, changes.targets)


def _shaken(vectors: Tensor, noise: float) -> Tensor:
    unit = torch.nn.functional.normalize
    return unit(vectors + noise * unit(torch.randn_like(vectors), dim=-1), dim=-1)


def _cosines(composed: Tensor, changes: Changes) -> Tensor:
    """With all pictures, [m, n]; -inf for the references, which nobody looks for."""
    cosines = composed @ changes.pictures.T
    own = torch.zeros_like(cosines, dtype=torch.bool)
    own[torch.arange(len(changes)), changes.references] = True
    return cosines.masked_fill(own, -torch.inf)


@torch.no_grad()
def recall(composer: Composer, changes: Changes, k: int = 10) -> float:
    """Percent of the targets among the k nearest pictures, references left out."""
    images = changes.pictures[changes.references]
    cosines = _cosines(composer(images, changes.texts), changes)
    own = cosines.gather(1, changes.targets[:, None])
    return 100 * float(((cosines > own).sum(dim=1) < k).float().mean())
