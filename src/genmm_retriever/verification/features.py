"""What a verifier looks at: the query and its candidates, as prompts and vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genmm_retriever.models.base import ImagePart


@dataclass(frozen=True, eq=False)
class QueryView:
    """A query as the model sees it.

    Attributes:
        text: Its words, or None.
        image: Its picture, or None.
    """

    text: str | None = None
    image: ImagePart | None = None


@dataclass(frozen=True, eq=False)
class CandidateView:
    """A candidate as the model sees it.

    Attributes:
        words: The words it is known by: its own text, or its caption.
        image: Its picture, or None for a text item.
        generation: Its first-stage score in nats, or None if no identifier led to it.
    """

    words: str
    image: ImagePart | None = None
    generation: float | None = None


@dataclass(frozen=True, eq=False)
class Parts:
    """A verifier's parts for n candidates; NaN where one was not computed.

    Attributes:
        likelihood: Nats a token that the candidate adds to the text's likelihood, [n].
        contrastive: Cosine by the contrastive head, [n].
        objects: Similarity of the query's words and the objects seen in the picture, [n].
        generation: First-stage score in nats, [n].
    """

    likelihood: np.ndarray
    contrastive: np.ndarray
    objects: np.ndarray
    generation: np.ndarray
