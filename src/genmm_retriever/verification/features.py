"""What a verifier looks at: the query and its candidates, as prompts and vectors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from genmm_retriever.corpus.images import open_image
from genmm_retriever.describing.looking import picture_part
from genmm_retriever.models.base import MLLM, ImagePart
from genmm_retriever.models.contrastive import ContrastiveEncoder
from genmm_retriever.schema import Query

_MAX_CHARACTERS = 4_000
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class QueryVectors:
    """A query as a contrastive encoder sees it.

    Attributes:
        even: Cosine at which a picture and a text fit as likely as not.
        words: Unit vector of its words, [d], or None.
        picture: Unit vector of its picture, [d], or None.
    """

    even: float
    words: Tensor | None = None
    picture: Tensor | None = None

    @classmethod
    def of(cls, query: Query, view: QueryView, encoder: ContrastiveEncoder) -> QueryVectors:
        """What an encoder makes of a query.

        Args:
            query: Whose picture is opened.
            view: Of the same query; its words are those that are read.
            encoder: Gives the vectors.

        Raises:
            ImageError: If the picture cannot be opened.
        """
        words = encoder.embed_texts([view.text])[0] if view.text else None
        picture = None
        if query.image is not None:
            picture = encoder.embed_pictures([open_image(query.image)])[0]
        return cls(encoder.even, words, picture)


@dataclass(frozen=True, eq=False)
class QueryView:
    """A query as the model sees it.

    Attributes:
        text: Its words, or None.
        image: Its picture, or None.
        context: Words that guide the first stage alone, or None.
        vectors: What a contrastive encoder makes of it, or None.
    """

    text: str | None = None
    image: ImagePart | None = None
    context: str | None = None
    vectors: QueryVectors | None = None

    @property
    def sought(self) -> str | None:
        """What the first stage looks for: its words with the context, or None.

        Examples:
            >>> QueryView(text="a dog.", context="it runs in the snow").sought
            'a dog, it runs in the snow'
        """
        parts = [part.strip() for part in (self.text, self.context) if part and part.strip()]
        return ", ".join([*(part.rstrip(" .,;") for part in parts[:-1]), *parts[-1:]]) or None

    @classmethod
    def of(cls, query: Query, model: MLLM) -> QueryView:
        """A query with its picture opened, as features where the model's can be kept.

        Words beyond 4,000 characters are cut: prompts take 400 words, which in prose are fewer
        characters, but without blanks a query would be one word of any cost.

        Raises:
            ImageError: If the picture cannot be opened.
        """
        image = None if query.image is None else picture_part(query.image, model)
        return cls(_bounded(query.text), image, _bounded(query.context))


def _bounded(words: str | None) -> str | None:
    """Words as far as they are read, or None if there are none."""
    text = (words or "").strip()
    if len(text) > _MAX_CHARACTERS:
        log.warning(
            "of a query's %s characters the first %s are read",
            f"{len(text):,}",
            f"{_MAX_CHARACTERS:,}",
        )
    return text[:_MAX_CHARACTERS].strip() or None


@dataclass(frozen=True, eq=False)
class CandidateView:
    """A candidate as the model sees it.

    Attributes:
        words: The words it is known by: its own text, or its caption.
        image: Its picture, or what opens it (called only when it is looked at), or None for a
            text item.
        generation: Its first-stage score in nats, or None if no identifier led to it.
        vector: Unit vector by a contrastive encoder, [d]; NaN or None where there is none.
    """

    words: str
    image: ImagePart | Callable[[], ImagePart] | None = None
    generation: float | None = None
    vector: Tensor | None = None

    def picture(self) -> ImagePart | None:
        """Its picture, opened."""
        return self.image() if callable(self.image) else self.image

    @property
    def cached(self) -> ImagePart | None:
        """Its picture if its features are at hand, so that looking costs no opening."""
        image = self.image
        return image if isinstance(image, ImagePart) and image.features is not None else None


def generation_scores(
    candidates: Sequence[CandidateView], *, missing: float = np.nan
) -> np.ndarray:
    """First-stage scores in nats, [n]; `missing` where nothing led to a candidate."""
    scores = [missing if c.generation is None else c.generation for c in candidates]
    return np.array(scores, dtype=float)


@dataclass(frozen=True, eq=False)
class Parts:
    """A verifier's parts for n candidates; NaN where one was not computed.

    Attributes:
        likelihood: Nats a token that the candidate adds to the text's likelihood, [n].
        contrastive: Cosine by the contrastive head or encoder, less what is usual, [n].
        objects: Similarity of the query's words and the objects seen in the picture, [n].
        generation: First-stage score in nats, [n].
        text_likelihood: Nats a token that the words of a candidate with a picture add to the
            query's likelihood, [n]; a text item's are its `likelihood`. None if none were read.
        judged: What other verifiers say of each candidate, by name, [n] each.
    """

    likelihood: np.ndarray
    contrastive: np.ndarray
    objects: np.ndarray
    generation: np.ndarray
    text_likelihood: np.ndarray | None = None
    judged: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def unread(cls, candidates: Sequence[CandidateView], **judged: np.ndarray) -> Parts:
        """The first stage's scores, and what is judged of the candidates; nothing else."""
        none = np.full(len(candidates), np.nan)
        return cls(none, none, none, generation_scores(candidates), judged=judged)

    @property
    def words(self) -> np.ndarray:
        """`text_likelihood`, [n]; all NaN if no words were read."""
        if self.text_likelihood is None:
            return np.full(self.likelihood.shape, np.nan)
        return self.text_likelihood

    def of(self, place: int) -> dict[str, float]:
        """What is known of one candidate, by name, without the first stage's score."""
        named = {
            "likelihood": self.likelihood[place],
            "text_likelihood": self.words[place],
            "contrastive": self.contrastive[place],
            "objects": self.objects[place],
            **{name: values[place] for name, values in self.judged.items()},
        }
        return {name: float(value) for name, value in named.items() if not np.isnan(value)}
