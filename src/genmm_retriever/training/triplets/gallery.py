"""The pictures of an index as the making of triplets sees them: words, looks, groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.errors import InputError
from genmm_retriever.identifiers import default_encoder
from genmm_retriever.models.base import MLLM, DualEncoder, ImagePart
from genmm_retriever.training.corpus import Corpus, open_part
from genmm_retriever.training.triplets.words import Words

Vectors = NDArray[np.float32]
_AT_ONCE = 256


class Gallery:
    """The pictures of an index that have identifiers.

    Of their descriptions only those that a model wrote are seen, and what a classifier named;
    texts of people beside a picture only where the index was built with a field for them
    (`--use-text`).

    Args:
        reader: The open index; stays the caller's.
        model: Whoever writes the texts; it looks at features that the index keeps if the
            index was built with it, else at the pictures themselves.

    Attributes:
        rows: Rows of the pictures, ascending.
    """

    def __init__(self, reader: IndexReader, model: MLLM) -> None:
        self.reader, self.model, self.corpus = reader, model, Corpus(reader)
        self.rows = [row for row in self.corpus.rows if self.corpus.is_picture(row)]
        self._own = model.fingerprint == reader.settings.model_fingerprint

    def words(self, row: int) -> Words:
        """What is known of a picture in words."""
        corpus = self.corpus
        texts = corpus.captions[row]
        if self.reader.settings.use_text is not None:
            named = ", ".join(corpus.objects[row])
            texts = [text for text in corpus.words[row] if text != named]
        return Words(tuple(texts), tuple(corpus.objects[row]))

    def part(self, row: int) -> ImagePart | None:
        """A picture for a prompt of the model, as features if it has any; None if unreadable."""
        part = self.corpus.picture(row) if self._own else open_part(self.corpus.item(row).image)
        if part is None or part.image is None:
            return part
        features = self.model.encode_images([part.image])
        return part if features is None else ImagePart(features=features[0])

    def vectors(self) -> tuple[list[int], Vectors]:
        """Unit vectors of what the pictures look like.

        By the contrastive head where the index's own model has one, else the kept features'
        mean over places; of an index without features, sentence vectors of the descriptions.

        Returns:
            Rows that have a vector, ascending, and the vectors, [n, d].
        """
        rows: list[int] = []
        parts: list[Vectors] = []
        for found, features in self._kept():
            rows += found
            parts.append(self._looks(features))
        if not rows:
            return self._word_vectors()
        return rows, _unit(np.concatenate(parts))

    def _kept(self) -> Iterator[tuple[list[int], np.ndarray]]:
        for start in range(0, len(self.rows), _AT_ONCE):
            batch = self.rows[start : start + _AT_ONCE]
            features = self.reader.features(batch)
            if features is not None:
                yield batch, features
                continue
            for row in batch:
                one = self.reader.features([row])
                if one is not None:
                    yield [row], one

    def _looks(self, features: np.ndarray) -> Vectors:
        if self._own and isinstance(self.model, DualEncoder):
            vectors = self.model.embed_images(torch.from_numpy(np.array(features)))
            return np.asarray(vectors.float().cpu().numpy(), dtype=np.float32)
        flat = np.asarray(features, dtype=np.float32).reshape(len(features), -1, features.shape[-1])
        return np.asarray(flat.mean(axis=1), dtype=np.float32)

    def _word_vectors(self) -> tuple[list[int], Vectors]:
        texts = {row: " ".join(self.words(row).texts) for row in self.rows}
        rows = [row for row in self.rows if texts[row].strip()]
        if not rows:
            return [], np.zeros((0, 1), dtype=np.float32)
        encoder = default_encoder()
        return rows, _unit(np.asarray(encoder.encode([texts[row] for row in rows])))

    def groups(self, category: str | None) -> dict[int, list[str]]:
        """The groups that each picture is in; pictures of no group are left out.

        Args:
            category: A field of the metadata, whose values are the groups; None for the topics
                of structured identifiers and the object seen first.

        Raises:
            InputError: If no picture has the field, or nothing tells groups.
        """
        groups = self._by_field(category) if category is not None else self._by_topic()
        found = {row: names for row, names in groups if names}
        if not found and category is None:
            raise InputError(
                f"the identifiers of {str(self.reader.path)!r} have no topics to pair pictures by",
                "name a field of the metadata: --category FIELD",
            )
        return found

    def _by_field(self, field: str) -> list[tuple[int, list[str]]]:
        items = self.reader.items(self.rows)
        if not any(field in item.metadata for item in items):
            known = sorted({name for item in items for name in item.metadata})
            has = f"they have {', '.join(known[:8])}" if known else "they have none"
            raise InputError(
                f"no picture of {str(self.reader.path)!r} has the metadata {field!r}", has
            )
        found = []
        for row, item in zip(self.rows, items, strict=True):
            value = item.metadata.get(field)
            values = value if isinstance(value, list) else [] if value is None else [value]
            found.append((row, list(dict.fromkeys(map(str, values)))))
        return found

    def _by_topic(self) -> list[tuple[int, list[str]]]:
        texts: Sequence[list[str]] = [[] for _ in self.rows]
        if self.reader.settings.identifiers == "structured":
            texts = self.reader.identifiers_of(self.rows)
        found = []
        for row, identifiers in zip(self.rows, texts, strict=True):
            topics = [text.partition(",")[0].strip() for text in identifiers]
            seen = [f"object {name}" for name in self.corpus.objects[row][:1]]
            found.append((row, [name for name in dict.fromkeys([*topics, *seen]) if name]))
        return found


def _unit(vectors: np.ndarray) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
