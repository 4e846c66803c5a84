"""The parts that need no forward pass of the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from genmm_retriever.models.base import (
    MLLM,
    Composing,
    DualEncoder,
    ImagePart,
    NearToMany,
    ObjectMatcher,
)
from genmm_retriever.verification.features import (
    CandidateView,
    Parts,
    QueryVectors,
    QueryView,
)


def cheap_parts(model: MLLM, query: QueryView, candidates: Sequence[CandidateView]) -> Parts:
    """Cosines and objects where the model has them, and the first stage's scores."""
    return replace(
        Parts.unread(candidates),
        contrastive=_cosines(model, query, candidates),
        objects=_objects(model, query, candidates),
    )


def _by_encoder(query: QueryVectors, candidates: Sequence[CandidateView]) -> np.ndarray:
    """Cosines by an encoder, [n]: what they lie above the even one.

    Within a kind, words with words or a picture with pictures, they lie on another level, which
    is not known: there they are told from their mean over the candidates.
    """
    cosines = np.full(len(candidates), np.nan)
    known = [i for i, one in enumerate(candidates) if one.vector is not None]
    if not known:
        return cosines
    vectors = np.stack([np.asarray(candidates[i].vector) for i in known])
    pictures = np.array([candidates[i].image is not None for i in known])
    sums, parts = np.zeros(len(known)), 0
    for asked, same in ((query.words, ~pictures), (query.picture, pictures)):
        if asked is None:
            continue
        near = vectors @ np.asarray(asked)
        near[~same] -= query.even
        if np.isfinite(near[same]).any():
            near[same] -= np.nanmean(near[same])
        sums, parts = sums + near, parts + 1
    cosines[known] = sums / max(1, parts)
    return cosines


def _cosines(model: MLLM, query: QueryView, candidates: Sequence[CandidateView]) -> np.ndarray:
    if query.vectors is not None:
        return _by_encoder(query.vectors, candidates)
    cosines = np.full(len(candidates), np.nan)
    if not isinstance(model, DualEncoder) or not candidates:
        return cosines
    pictures = [i for i, c in enumerate(candidates) if c.cached is not None]
    texts = [i for i, c in enumerate(candidates) if c.image is None]
    words = model.embed_texts([query.text]) if query.text else None
    image = None
    if query.image is not None and query.image.features is not None:
        image = model.embed_images(_stack([query.image]))
    asked = [part for part in (words, image) if part is not None]
    if not asked:
        return cosines
    wanted = torch.nn.functional.normalize(torch.cat(asked).sum(dim=0), dim=-1)
    if pictures:
        found = model.embed_images(_stack([candidates[i].cached for i in pictures]))
        looked_for = wanted
        # Changes lead from pictures to pictures; beside texts the words are rather a question.
        if words is not None and image is not None and isinstance(model, Composing):
            [looked_for] = model.compose(image, words)
        near = found @ looked_for
        # What words usually look for is known, not what pictures do.
        if image is None and isinstance(model, NearToMany):
            near = near - model.nearness(found)
        cosines[pictures] = near.cpu().numpy()
    if texts:
        found = model.embed_texts([candidates[i].words for i in texts])
        near = found @ wanted
        # Beside pictures its level, which is not theirs, would count against the texts.
        if words is None and not pictures and isinstance(model, NearToMany):
            near = near - model.text_nearness(found)
        cosines[texts] = near.cpu().numpy()
    return cosines


def _objects(model: MLLM, query: QueryView, candidates: Sequence[CandidateView]) -> np.ndarray:
    similar = np.full(len(candidates), np.nan)
    pictures = [i for i, c in enumerate(candidates) if c.cached is not None]
    if isinstance(model, ObjectMatcher) and query.text and pictures:
        features = _stack([candidates[i].cached for i in pictures])
        similar[pictures] = model.match_objects(query.text, features).cpu().numpy()
    return similar


def _stack(images: Sequence[ImagePart | None]) -> torch.Tensor:
    return torch.stack([i.features for i in images if i is not None and i.features is not None])
