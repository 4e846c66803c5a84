"""What all examples of the builtin model's training are made with: prompts and queries."""

from __future__ import annotations

import random

from transformers import PreTrainedTokenizerBase

from genmm_retriever.models.builtin.configuration import GenmmBuiltinConfig
from genmm_retriever.models.builtin.text import normalise, prompt_ids
from genmm_retriever.training.builtin.data import CaptionedImages


class Forms:
    """Makes prompts in the model's form, and queries of captions.

    Args:
        data: Pictures and captions.
        tokenizer: Of the language model.
        config: Of the model.
    """

    def __init__(
        self,
        data: CaptionedImages,
        tokenizer: PreTrainedTokenizerBase,
        config: GenmmBuiltinConfig,
    ) -> None:
        self.data, self.tokenizer, self.config = data, tokenizer, config
        self.eos = int(tokenizer.eos_token_id)

    def _prompt(self, *parts: str | None) -> list[int]:
        config = self.config
        return prompt_ids(self.tokenizer, parts, config.image_token_id, config.image_seq_length)

    def _caption(self, picture: int, rng: random.Random) -> tuple[int, str]:
        """One caption of a picture as a query, and which it is."""
        captions = self.data.captions[picture]
        place = rng.randrange(len(captions))
        # Users write in any case, with or without a full stop.
        return place, captions[place] if rng.random() < 0.5 else normalise(captions[place])
