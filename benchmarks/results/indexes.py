"""Indexes of every recipe, made of one described index: nothing is described twice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.results.settings import IndexRecipe
from genmm_retriever.building import Builder, keep_scheme, knows_topics
from genmm_retriever.corpus.images import open_image
from genmm_retriever.corpus.readers import read_sources
from genmm_retriever.corpus.store import Description, IndexReader, IndexSettings, IndexWriter
from genmm_retriever.describing import text_descriptions
from genmm_retriever.errors import IndexNotFoundError
from genmm_retriever.identifiers import (
    CaptionIdentifiers,
    Identifiers,
    SentenceEncoder,
    StructuredIdentifiers,
)
from genmm_retriever.schema import Item


@dataclass(frozen=True)
class Described:
    """Items with everything that identifiers are made of.

    Attributes:
        items: n of them.
        descriptions: Of each item.
        features: Of pictures, [n, ...] half precision, or None.
    """

    items: list[Item]
    descriptions: list[list[Description]]
    features: NDArray[np.float16] | None

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items)


def described_pictures(index: Path) -> Described:
    """What a finished index knows of its items."""
    with IndexReader.open(index) as reader:
        rows = reader.live_rows().tolist()
        features = reader.features(rows)
        kept = None if features is None else np.array(features)
        return Described(reader.items(rows), reader.descriptions(rows), kept)


def described_captions(captioned: Path, per_item: int) -> Described:
    """Each caption of captioned-images JSONL as a text that describes itself."""
    items = list(read_sources(captioned, items="captions"))
    words = [
        [
            Description(text, "text")
            for text in text_descriptions(item.text or "", per_item=per_item)
        ]
        for item in items
    ]
    return Described(items, words, None)


def later_rows(count: int, share: float, seed: int) -> list[int]:
    """Which of `count` items come after the build: ascending places, a seeded sample.

    Examples:
        >>> later_rows(10, 0.2, 0), later_rows(10, 0.0, 0)
        ([6, 9], [])
    """
    return sorted(random.Random(seed).sample(range(count), round(share * count)))


def is_complete(path: Path, count: int) -> bool:
    """Whether a finished index with so many items is there."""
    try:
        with IndexReader.open(path) as reader:
            return len(reader) == count
    except IndexNotFoundError:
        return False


def make_index(
    path: Path,
    recipe: IndexRecipe,
    described: Described,
    model: Any,
    encoder: SentenceEncoder,
    *,
    seed: int = 0,
    per_item: int = 4,
) -> None:
    """Build an index, or go on with one that was broken off.

    The scheme of identifiers sees the first part of the items alone; what the recipe adds later
    is named by it as it is.

    Args:
        path: Folder of the index.
        recipe: How to make it.
        described: Its items.
        model: Whose tokens and likelihoods it is for.
        encoder: Sentence vectors for clusters and keywords.
        seed: Of clusters, and of which items come later.
        per_item: Most identifiers an item.
    """
    settings = IndexSettings(
        model=model.name,
        model_fingerprint=model.fingerprint,
        identifiers=recipe.identifiers,
        identifiers_per_item=per_item,
        items="images" if recipe.direction == "text-to-image" else "captions",
        seed=seed,
        extra={"recipe": recipe.key},
    )
    later = set(later_rows(len(described), recipe.added, seed))
    first = [place for place in range(len(described)) if place not in later]
    reusable = _same_features(described, model)
    with IndexWriter.create(path, settings) as writer:
        known = [described.descriptions[place] for place in first]
        scheme = _fitted(recipe, known, model, encoder, seed)
        if scheme is not None and writer.json("identifiers") is None:
            keep_scheme(writer, scheme)
        for part in (first, sorted(later)):
            if part:
                _stage(writer, described, part, reusable=reusable)
                Builder(writer, model, progress=False).run()


def _fitted(
    recipe: IndexRecipe,
    descriptions: Sequence[Sequence[Description]],
    model: Any,
    encoder: SentenceEncoder,
    seed: int,
) -> Identifiers | None:
    """The scheme with the recipe's own sizes; None where the builder's defaults are meant."""
    texts = [[one.text for one in own] for own in descriptions]
    if recipe.identifiers == "structured" and recipe.clusters is None and knows_topics(model):
        return StructuredIdentifiers.over_topics(
            encoder, texts, lexical_length=recipe.lexical_length
        )
    if recipe.identifiers == "structured":
        return StructuredIdentifiers.fit(
            texts,
            encoder,
            lexical_length=recipe.lexical_length,
            clusters=recipe.clusters,
            seed=seed,
        )
    if recipe.identifiers == "caption":
        return CaptionIdentifiers.fit(texts, encoder, length=2 * recipe.lexical_length)
    return None


def _stage(
    writer: IndexWriter, described: Described, places: Sequence[int], *, reusable: bool
) -> None:
    """Take items in with what is known of them."""
    # What a broken-off build staged of the later part must not be named with the first one.
    writer.stage_items([described.items[place] for place in places], only=True)
    rows = writer.pending("descriptions")
    by_id = {described.items[place].id: place for place in places}
    own = [by_id[item.id] for item in writer.items(rows)]
    if not rows:
        return
    # Features first: a broken-off staging then lacks descriptions, by which it is found again.
    if described.features is not None and reusable:
        writer.put_features(rows, described.features[own])
    writer.put_descriptions(
        {row: described.descriptions[place] for row, place in zip(rows, own, strict=True)}
    )


def _same_features(described: Described, model: Any) -> bool:
    """Whether the model sees what is kept: another one may share the pictures, not the eyes."""
    if described.features is None or not len(described):
        return False
    reference = described.items[0].image
    if reference is None:
        return False
    seen = model.encode_images([open_image(reference)])
    if seen is None or tuple(seen.shape[1:]) != described.features.shape[1:]:
        return False
    kept = torch.from_numpy(described.features[:1]).float()
    return bool(torch.allclose(seen.float(), kept, rtol=0.02, atol=0.02))
