"""A language model whose likelihoods are written down, and candidates for it."""

from __future__ import annotations

import pytest
import torch

from genmm_retriever.models.base import ImagePart, TextPart
from genmm_retriever.verification import CandidateView


class Scripted:
    """Adds `pictures[i]` nats a token after picture i, `words[text]` after words, else none.

    Attributes:
        looked: Pictures looked at so far, in order.
        read: Words read so far, in order.
        calls: Prompts of each pass.
        seconds: What its passes have taken: one a pass.
    """

    prompt_style = "builtin"
    eos_token_id = 0

    def __init__(self, pictures=(), words=None, *, picture_tokens=1000):
        self.pictures, self.words = list(pictures), dict(words or {})
        self.picture_tokens = picture_tokens
        self.looked, self.read, self.calls = [], [], []

    @property
    def seconds(self):
        return float(len(self.calls))

    def encode(self, text):
        return list(range(1, 1 + len(text.split())))

    def encode_prompt(self, prompt):
        lengths = [
            len(self.encode(part.text)) if isinstance(part, TextPart) else self.picture_tokens
            for part in prompt.parts
        ]
        return {"input_ids": torch.zeros(1, sum(lengths), dtype=torch.long)}

    def score(self, prompts, tails):
        self.calls.append(len(prompts))
        return [
            torch.full((len(tail),), -5.0 + self._gain(p.parts))
            for p, tail in zip(prompts, tails, strict=True)
        ]

    def _gain(self, parts):
        if isinstance(parts[0], ImagePart):
            number = int(parts[0].features[0])
            self.looked.append(number)
            return self.pictures[number]
        text = parts[0].text.removeprefix("Describe:").strip()
        if text == "Describe.":
            return 0.0
        self.read.append(text)
        return self.words[text]


def views(generation, *, words=None, opened=None):
    """Pictures 0, 1, ... known as "caption 0", ... that note when they are opened."""

    def opening(number):
        def open_it():
            if opened is not None:
                opened.append(number)
            return ImagePart(features=torch.tensor([float(number)]))

        return open_it

    return [
        CandidateView(f"caption {i}" if words is None else words[i], opening(i), score)
        for i, score in enumerate(generation)
    ]


@pytest.fixture(scope="session")
def scripted():
    return Scripted


@pytest.fixture(scope="session")
def make_views():
    return views
