"""Examples beside plain captioning: queries and pictures to identifiers, captions to captions."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from genmm_retriever.models.builtin.configuration import GenmmBuiltinConfig
from genmm_retriever.models.builtin.text import answer_ids
from genmm_retriever.training.builtin.data import CaptionedImages
from genmm_retriever.training.builtin.forms import Forms
from genmm_retriever.training.builtin.packing import pack
from genmm_retriever.training.builtin.trainer import Learner

Metrics = dict[str, float]
_ROWS_AT_ONCE = 1024


class IdentifierExamples(Forms):
    """Mixed examples of the forms that retrieval uses; a loss to add to another one's.

    A query is one human caption, the answer an identifier made of another caption of the same
    picture, so that the words asked for are not simply copied. The empty query gets random
    identifiers: its likelihood is what debiases the search.

    Args:
        data: Pictures and captions.
        identifiers: Identifiers of each picture, one a caption where they differ.
        tokenizer: Of the language model.
        config: Of the model.
        finds: Rows of text queries.
        looks: Rows of picture queries.
        paraphrases: Rows of caption -> another caption.
        nulls: Rows of each kind of empty prompt.
    """

    def __init__(
        self,
        data: CaptionedImages,
        identifiers: Sequence[Sequence[str]],
        tokenizer: PreTrainedTokenizerBase,
        config: GenmmBuiltinConfig,
        *,
        finds: int = 14,
        looks: int = 4,
        paraphrases: int = 3,
        nulls: int = 2,
    ) -> None:
        super().__init__(data, tokenizer, config)
        self.identifiers = [[answer_ids(tokenizer, text) for text in some] for some in identifiers]
        self.counts = {"find": finds, "look": looks, "paraphrase": paraphrases, "null": nulls}

    def __call__(self, learner: Learner, rng: random.Random) -> tuple[Tensor, Metrics]:
        """Mean NLL a token over one mixed batch."""
        prompts, answers, pictures = self._rows(rng)
        features = self.data.batch(pictures, grid=self.config.grid)
        _, nll = learner.logprobs(pack(prompts, answers, eos=self.eos), features)
        return nll, {"find": float(nll.detach())}

    def _rows(self, rng: random.Random) -> tuple[list[list[int]], list[list[list[int]]], list[int]]:
        """Prompts and answers; those with a picture come first, as their features do."""
        prompts: list[list[int]] = []
        answers: list[list[list[int]]] = []
        pictures = [rng.randrange(len(self.data)) for _ in range(self.counts["look"])]
        for picture in pictures:
            prompts.append(self._prompt(None, "Find."))
            answers.append(self._some_identifiers(picture, None, rng))
        for _ in range(self.counts["find"]):
            picture = rng.randrange(len(self.data))
            place, query = self._caption(picture, rng)
            prompts.append(self._prompt(f"Find: {query}"))
            answers.append(self._some_identifiers(picture, place, rng))
        for _ in range(self.counts["paraphrase"]):
            picture = rng.randrange(len(self.data))
            one, other = rng.choices(self.data.captions[picture], k=2)
            prompts.append(self._prompt(f"Describe: {one}"))
            answers.append([answer_ids(self.tokenizer, other)])
        for _ in range(self.counts["null"]):
            picture, another = rng.randrange(len(self.data)), rng.randrange(len(self.data))
            prompts += [self._prompt("Find: "), self._prompt("Describe.")]
            answers.append(self._some_identifiers(picture, None, rng))
            answers.append([answer_ids(self.tokenizer, rng.choice(self.data.captions[another]))])
        return prompts, answers, pictures

    def _some_identifiers(
        self, picture: int, not_of: int | None, rng: random.Random
    ) -> list[list[int]]:
        own = self.identifiers[picture]
        aligned = len(own) == len(self.data.captions[picture])
        others = [ids for place, ids in enumerate(own) if not (aligned and place == not_of)]
        return rng.sample(others or own, min(2, len(others or own)))


def nearest_pictures(vectors: Tensor, *, count: int, skip: int = 0) -> Tensor:
    """Rows of each vector's nearest neighbours, itself left out.

    Args:
        vectors: Unit vectors [n, d].
        count: Neighbours each.
        skip: The very nearest left out: near duplicates are no negatives.

    Returns:
        [n, count], int64.
    """
    found = []
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        similar = vectors[start : start + _ROWS_AT_ONCE] @ vectors.T
        # By place, not by rank: a picture may come twice.
        similar.diagonal(start).fill_(-torch.inf)
        places = similar.topk(min(count + skip, len(vectors) - 1), dim=1).indices
        found.append(places[:, skip:])
    return torch.cat(found)
