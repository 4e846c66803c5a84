"""Is it really the one: reverse likelihood, log p(query | candidate), by the same model.

Ranking by p(query | picture) is what TIGeR (arXiv 2406.05814) found to work best without
training. Where the text scored is the candidate's own, as for a picture that looks for
captions, its unconditional likelihood is taken off, since candidates then differ in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from genmm_retriever.describing.prompts import data_text, query_given_item_prompt
from genmm_retriever.models.base import (
    MLLM,
    DualEncoder,
    ImagePart,
    ObjectMatcher,
    Prompt,
    TextPart,
)
from genmm_retriever.verification.calibration import Calibration, sigmoid
from genmm_retriever.verification.features import CandidateView, Parts, QueryView

MAX_TEXT_TOKENS = 64


class LikelihoodVerifier:
    """Scores candidates in a cascade: the cheap parts for all, the likelihood for the best.

    Usable alone, as a reranker after any retriever.

    Args:
        model: The language model; if it has a contrastive head, that is the cheap part.
        budget: Candidates whose likelihood is computed; one packed pass.
        calibration: Weights of the parts; by default the model's own.
    """

    def __init__(
        self, model: MLLM, *, budget: int = 16, calibration: Calibration | None = None
    ) -> None:
        self.model = model
        self.budget = budget
        self.calibration = calibration or Calibration.of(model)

    def verify(
        self, query: QueryView, candidates: Sequence[CandidateView], *, at_least: int = 0
    ) -> tuple[np.ndarray, Parts]:
        """Probabilities that each candidate answers the query.

        Args:
            query: With text, a picture or both.
            candidates: n of them, in any order.
            at_least: Compute the likelihood of so many even if the budget is smaller.

        Returns:
            Probabilities [n], and the parts that they come from. A candidate beyond the budget
            never outranks one within it.
        """
        parts = self.cheap_parts(query, candidates)
        order = np.argsort(-self.calibration.cheap(parts), kind="stable")
        chosen = order[: max(self.budget, at_least)]
        likelihood = np.full(len(candidates), np.nan)
        likelihood[chosen] = self.likelihoods(query, [candidates[i] for i in chosen])
        parts = replace(parts, likelihood=likelihood)
        probability = sigmoid(self.calibration.cheap(parts))
        probability[chosen] = sigmoid(self.calibration.full(parts))[chosen]
        rest = order[len(chosen) :]
        if len(rest):
            probability[rest] = np.minimum(probability[rest], probability[chosen].min() * 0.999)
        return probability, parts

    def cheap_parts(self, query: QueryView, candidates: Sequence[CandidateView]) -> Parts:
        """The parts that need no forward pass of the language model."""
        n = len(candidates)
        generation = np.array(
            [np.nan if c.generation is None else c.generation for c in candidates], dtype=float
        )
        return Parts(
            likelihood=np.full(n, np.nan),
            contrastive=self._cosines(query, candidates),
            objects=self._objects(query, candidates),
            generation=generation,
        )

    def likelihoods(self, query: QueryView, candidates: Sequence[CandidateView]) -> np.ndarray:
        """Nats a token that each candidate adds to the likelihood of the text, [n].

        The text is the query's (reverse likelihood); for a query that is only a picture it is
        the candidate's words given the query's picture.
        """
        if not candidates:
            return np.zeros(0)
        if query.text:
            asked = [self._asked(c) for c in candidates]
            texts = [query.text] * len(candidates)
        else:
            asked = [query_given_item_prompt(self.model, image=query.image)] * len(candidates)
            texts = [c.words for c in candidates]
        tokens = {text: self._tokens(text) for text in texts}
        baselines = list(tokens)
        prompts = [*asked, *[self._baseline() for _ in baselines]]
        scored = self.model.score(prompts, [tokens[text] for text in [*texts, *baselines]])
        means = np.array([float(one.mean()) for one in scored])
        unconditional = dict(zip(baselines, means[len(texts) :], strict=True))
        gains: np.ndarray = means[: len(texts)] - [unconditional[text] for text in texts]
        return gains

    def _asked(self, candidate: CandidateView) -> Prompt:
        if candidate.image is not None:
            return query_given_item_prompt(self.model, image=candidate.image)
        if not data_text(candidate.words):
            return self._baseline()  # without visible words it adds nothing
        return query_given_item_prompt(self.model, text=candidate.words)

    def _tokens(self, text: str) -> list[int]:
        ids = self.model.encode(text)[:MAX_TEXT_TOKENS]
        return [*ids, self.model.eos_token_id]

    def _baseline(self) -> Prompt:
        """What a caption looks like when nothing is known of its picture."""
        return Prompt((TextPart("Describe."),))

    def _cosines(self, query: QueryView, candidates: Sequence[CandidateView]) -> np.ndarray:
        model = self.model
        cosines = np.full(len(candidates), np.nan)
        if not isinstance(model, DualEncoder) or not candidates:
            return cosines
        pictures = [i for i, c in enumerate(candidates) if _has_features(c.image)]
        texts = [i for i, c in enumerate(candidates) if c.image is None]
        asked = []
        if query.text:
            asked.append(model.embed_texts([query.text]))
        if _has_features(query.image):
            asked.append(model.embed_images(_stack([query.image])))
        if not asked:
            return cosines
        wanted = torch.nn.functional.normalize(torch.cat(asked).sum(dim=0), dim=-1)
        if pictures:
            found = model.embed_images(_stack([candidates[i].image for i in pictures]))
            cosines[pictures] = (found @ wanted).cpu().numpy()
        if texts:
            found = model.embed_texts([candidates[i].words for i in texts])
            cosines[texts] = (found @ wanted).cpu().numpy()
        return cosines

    def _objects(self, query: QueryView, candidates: Sequence[CandidateView]) -> np.ndarray:
        similar = np.full(len(candidates), np.nan)
        pictures = [i for i, c in enumerate(candidates) if _has_features(c.image)]
        if isinstance(self.model, ObjectMatcher) and query.text and pictures:
            features = _stack([candidates[i].image for i in pictures])
            similar[pictures] = self.model.match_objects(query.text, features).cpu().numpy()
        return similar


def _has_features(image: ImagePart | None) -> bool:
    return image is not None and image.features is not None


def _stack(images: Sequence[ImagePart | None]) -> torch.Tensor:
    return torch.stack([i.features for i in images if i is not None and i.features is not None])
