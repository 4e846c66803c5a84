"""From items to an index: features, descriptions, identifiers, trie; each step durable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from genmm_retriever.building_clues import mark_described, update_clues
from genmm_retriever.constraints.keeping import write_trie
from genmm_retriever.corpus.images import open_image
from genmm_retriever.corpus.references import local_path
from genmm_retriever.corpus.store import Changes, Description, IdentifierRecord, IndexWriter
from genmm_retriever.corpus.store.files import BLOBS
from genmm_retriever.describing import Describer, null_prompt, text_descriptions
from genmm_retriever.errors import EmptyCorpusError, ImageError
from genmm_retriever.identifiers import (
    SCHEMES,
    Identifiers,
    StructuredIdentifiers,
    default_encoder,
)
from genmm_retriever.identifiers.centres import begins_with_topics, update_centres
from genmm_retriever.models.base import MLLM, ImagePart
from genmm_retriever.models.contrastive import ContrastiveEncoder
from genmm_retriever.schema import Item
from genmm_retriever.vectors import fitting_encoder, update_vectors

IMAGES_AT_ONCE = 16
IDENTIFIERS_AT_ONCE = 256
OBJECTS_LEAST = 0.15
TOPICS = 4
"""Topics of an item: its identifiers begin with them in turn."""


@dataclass(frozen=True)
class BuildReport:
    """What building or adding did.

    Args:
        items: Items in the index afterwards.
        added: New items.
        replaced: Items whose content was replaced.
        unchanged: Items that were there already.
        skipped: Id and reason of each item that could not be used.
    """

    items: int
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


class Builder:
    """Brings everything staged in a writer to the next generation.

    Each batch is durable before the next one begins, so that a killed build goes on where it
    was; what comes out does not depend on where it was killed.

    Args:
        writer: Holds the items.
        model: Describes and identifies.
        strict: Whether a broken picture ends the build instead of being skipped.
        progress: Whether to show bars on stderr.
        encoder: The one whose vectors the index has; by default loaded by its name.

    Attributes:
        changes: What `run` changed for readers.
    """

    def __init__(
        self,
        writer: IndexWriter,
        model: MLLM,
        *,
        strict: bool = False,
        progress: bool = True,
        encoder: ContrastiveEncoder | None = None,
    ) -> None:
        self.writer = writer
        self.model = model
        self.encoder = fitting_encoder(writer, encoder, getattr(model, "device", None))
        self.strict = strict
        self.progress = progress
        self.changes = Changes(0, 0, 0)
        settings = writer.settings
        self.most = settings.identifiers_per_item
        self.describer = Describer(
            model,
            # One of the doors is left to the object words.
            per_item=max(1, self.most - hasattr(model, "object_words")),
            max_new_tokens=32 if getattr(model, "prompt_style", "") == "builtin" else 80,
            seed=settings.seed,
        )

    def run(self) -> int:
        """Do what is pending and publish.

        Returns:
            The generation that is served now.

        Raises:
            ImageError: If `strict` and a picture is broken.
            EmptyCorpusError: If nothing usable is left.
        """
        self._features()
        self._descriptions()
        changed = self.writer.pending("identifiers")
        clues = self.writer.settings.identifiers == "clue"
        if clues:
            mark_described(self.writer)
        else:
            self._identifiers()
        if not len(self.writer.live_rows()):
            reasons = [f"{name}: {reason}" for name, reason in self.writer.skipped()[:1]]
            raise EmptyCorpusError(
                "no item is left to index" + (f"; {reasons[0]}" if reasons else ""),
                "give at least one picture that can be opened, or a text",
            )
        if clues:
            update_clues(self.writer, self.model, self._bar)
        else:
            if begins_with_topics(self.writer) and knows_topics(self.model):
                update_centres(self.writer, self.model, self._bar)
            write_trie(self.writer, changed)
        if self.encoder is not None:
            update_vectors(self.writer, self.encoder, self._bar)
        self.changes = self.writer.changes()
        return self.writer.publish()

    def _bar(self, total: int, what: str) -> tqdm[Any]:
        return tqdm(total=total, desc=what, disable=not self.progress or not total)

    def _batches(self, rows: Sequence[int], what: str) -> Iterator[list[int]]:
        """Rows by blocks of their numbers, so that batches are the same after any interruption."""
        with self._bar(len(rows), what) as bar:
            for _, block in groupby(rows, key=lambda row: row // IMAGES_AT_ONCE):
                batch = list(block)
                yield batch
                bar.update(len(batch))

    def _features(self) -> None:
        """Keep features of pictures, if the model's are small enough to be kept."""
        rows = self.writer.pending("features")
        if not rows or self.model.encode_images([_tiny_picture()]) is None:
            return
        for batch in self._batches(rows, "looking"):
            opened = list(self._opened(batch))
            if opened:
                features = self.model.encode_images([image for _, image in opened])
                assert features is not None
                self.writer.put_features([row for row, _ in opened], features.numpy())

    def _opened(self, rows: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Rows with their decoded pictures; broken ones are skipped, or end the build."""
        for row, item in zip(rows, self.writer.items(rows), strict=True):
            assert item.image is not None
            try:
                image = open_image(item.image, name=self._embedded(item))
            except ImageError as error:
                if self.strict:
                    raise
                self.writer.skip(row, str(error))
                continue
            yield row, image

    def _embedded(self, item: Item) -> str | None:
        """What messages call a picture that came within its item: no file of the user's."""
        path = local_path(item.image) if isinstance(item.image, str) else None
        if path is None or path.parent != self.writer.path / BLOBS:
            return None
        return f"the embedded image of item {item.id!r}"

    def _descriptions(self) -> None:
        rows = self.writer.pending("descriptions")
        for batch in self._batches(rows, "describing"):
            items = dict(zip(batch, self.writer.items(batch), strict=True))
            pictures = self._pictures([row for row in batch if items[row].kind == "image"])
            captions = self.describer.describe([part for _, part in pictures])
            objects = dict(self._object_words(pictures))
            found: dict[int, list[Description]] = {}
            for (row, _), texts in zip(pictures, captions, strict=True):
                seen = [Description(text, "model") for text in texts]
                others = [*objects.get(row, []), *self._own_words(items[row])]
                found[row] = [*seen[:1], *others, *seen[1:]][: self.most]
            for row, item in items.items():
                if item.kind == "text":
                    found[row] = self._own_words(item)
            for row in [row for row, described in found.items() if not described]:
                del found[row]
                self.writer.skip(row, "neither it nor what was written of it has visible words")
            if found:
                self.writer.put_descriptions(found)

    def _pictures(self, rows: Sequence[int]) -> list[tuple[int, ImagePart]]:
        if not rows:
            return []
        features = self.writer.features(rows)
        if features is not None:
            kept = torch.from_numpy(np.array(features))
            return [(row, ImagePart(features=one)) for row, one in zip(rows, kept, strict=True)]
        return [(row, ImagePart(image=image)) for row, image in self._opened(rows)]

    def _object_words(
        self, pictures: Sequence[tuple[int, ImagePart]]
    ) -> Iterator[tuple[int, list[Description]]]:
        """What the model's own classifier sees: words that no caption of its may have taught."""
        see = getattr(self.model, "object_words", None)
        looked = [(row, part.features) for row, part in pictures if part.features is not None]
        if see is None or not looked:
            return
        features = torch.stack([one for _, one in looked])
        for (row, _), seen in zip(looked, see(features, least=OBJECTS_LEAST), strict=True):
            if seen:
                yield row, [Description(", ".join(name for name, _ in seen), "objects")]

    def _own_words(self, item: Item) -> list[Description]:
        """The item's human text: all that a text item has, or `use_text` beside a picture."""
        if not item.text:
            return []
        most = self.most if item.kind == "text" else max(1, self.most // 2)
        return [Description(t, "text") for t in text_descriptions(item.text, per_item=most)]

    def _identifiers(self) -> None:
        rows = self.writer.pending("identifiers")
        ready = [
            (row, [d.text for d in described])
            for row, described in zip(rows, self.writer.descriptions(rows), strict=True)
            if described
        ]
        if not ready:
            return
        descriptions = [texts for _, texts in ready]
        scheme = self._scheme(descriptions)
        taken = self.writer.known_identifiers()
        if isinstance(scheme, StructuredIdentifiers) and scheme.needs_topics:
            topics = self._topics([row for row, _ in ready], descriptions)
            named = scheme.assign(descriptions, taken=taken, topics=topics)
        else:
            named = scheme.assign(descriptions, taken=taken)
        pairs = [
            (row, text) for (row, _), texts in zip(ready, named, strict=True) for text in texts
        ]
        score = null_scorer(self.model)
        # Batches end at an item's end: an item's identifiers are put together.
        with self._bar(len(pairs), "identifying") as bar:
            for group in _grouped(pairs):
                tokens = [[*self.model.encode(text), self.model.eos_token_id] for _, text in group]
                scored = score(tokens)
                self.writer.put_identifiers(
                    [
                        IdentifierRecord(row, text, tuple(ids), tuple(logprobs.tolist()))
                        for (row, text), ids, logprobs in zip(group, tokens, scored, strict=True)
                    ]
                )
                bar.update(len(group))

    def _topics(
        self, rows: Sequence[int], descriptions: Sequence[Sequence[str]]
    ) -> list[list[str]]:
        """The model's own topics of items: of the picture if there is one, else of the text."""
        see: Any = self.model
        found: list[list[str]] = []
        for start in range(0, len(rows), IDENTIFIERS_AT_ONCE):
            batch = rows[start : start + IDENTIFIERS_AT_ONCE]
            pictures = [
                row
                for row, item in zip(batch, self.writer.items(batch), strict=True)
                if item.kind == "image"
            ]
            features = self.writer.features(pictures) if pictures else None
            seen: dict[int, list[str]] = {}
            if features is not None:
                named = see.topics(TOPICS, features=torch.from_numpy(np.array(features)))
                seen = dict(zip(pictures, named, strict=True))
            worded = {
                row: texts[0]
                for row, texts in zip(batch, descriptions[start : start + len(batch)], strict=True)
                if row not in seen
            }
            if worded:
                seen |= zip(worded, see.topics(TOPICS, texts=list(worded.values())), strict=True)
            found += [seen[row] for row in batch]
        return found

    def _scheme(self, descriptions: Sequence[Sequence[str]]) -> Identifiers:
        """The scheme that the index was begun with, or one fitted on its first items."""
        kind = SCHEMES[self.writer.settings.identifiers]
        state = self.writer.json("identifiers")
        encoder = default_encoder()
        if state is not None:
            arrays = {name: self.writer.array(f"identifiers/{name}") for name in state["arrays"]}
            kept = {name: np.asarray(a) for name, a in arrays.items() if a is not None}
            return kind.from_state(kept, state["state"], encoder)
        scheme: Identifiers
        if kind is StructuredIdentifiers and knows_topics(self.model):
            scheme = StructuredIdentifiers.over_topics(encoder, descriptions)
        else:
            scheme = kind.fit(descriptions, encoder, seed=self.writer.settings.seed)
        keep_scheme(self.writer, scheme)
        return scheme


def keep_scheme(writer: IndexWriter, scheme: Identifiers) -> None:
    """Put a fitted scheme into an index; all its items, now and later, are named by it."""
    arrays, state = scheme.to_state()
    for name, array in arrays.items():
        writer.put_array(f"identifiers/{name}", array)
    writer.put_json("identifiers", {"arrays": sorted(arrays), "state": state})


def stage_and_build(
    writer: IndexWriter,
    items: Iterable[Item],
    model: MLLM,
    *,
    replace: bool = False,
    strict: bool = False,
    progress: bool = True,
    encoder: ContrastiveEncoder | None = None,
) -> BuildReport:
    """Take items into the writer's index and publish it.

    Raises:
        DuplicateIdError: If two items share an id.
        EmptyCorpusError: If there is no usable item.
    """
    builder = Builder(writer, model, strict=strict, progress=progress, encoder=encoder)
    # An interrupted build of other items is not what is asked for now.
    staged = writer.stage_items(items, replace=replace, only=True)
    builder.run()
    found = builder.changes
    given = staged.added + staged.replaced + staged.unchanged
    return BuildReport(
        items=len(writer.live_rows()),
        added=found.added,
        replaced=found.replaced,
        unchanged=max(0, given - found.added - found.replaced - found.skipped),
        skipped=writer.skipped(),
    )


def knows_topics(model: object) -> bool:
    """Whether a model brings topics along that identifiers begin with."""
    return bool(getattr(model, "topic_names", ()))


def null_scorer(model: MLLM) -> Callable[[Sequence[Sequence[int]]], list[Tensor]]:
    """What tells how likely each token of some identifiers is without a query.

    The empty query is run once, whatever is scored after it.
    """
    empty = model.prefill([null_prompt(model)])

    def score(sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        return model.score_from(empty, torch.zeros(len(sequences), dtype=torch.int64), sequences)

    return score


def _grouped(pairs: Sequence[tuple[int, str]]) -> list[list[tuple[int, str]]]:
    groups: list[list[tuple[int, str]]] = []
    for pair in pairs:
        full = groups and len(groups[-1]) >= IDENTIFIERS_AT_ONCE
        if not groups or (full and groups[-1][-1][0] != pair[0]):
            groups.append([])
        groups[-1].append(pair)
    return groups


def _tiny_picture() -> Any:
    from PIL import Image

    return Image.new("RGB", (8, 8))
