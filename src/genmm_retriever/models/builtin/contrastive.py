"""A small contrastive head: the cheap half of a fused verifier.

Both sides share one linear map of sentence space: the text side maps the query's sentence
vector, the picture side the expected sentence vector of its labels. Objects that no caption
named in training are still matched through it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genmm_retriever.models.builtin.configuration import GenmmBuiltinConfig


class ContrastiveHead(nn.Module):
    """Pictures and sentences into one space, trained with InfoNCE.

    Attributes:
        label_vectors: Sentence vectors of the labels, [labels, sentence_dim]; filled when
            the model is put together.
        scale: Log of the inverse temperature.
    """

    label_vectors: Tensor

    def __init__(self, config: GenmmBuiltinConfig) -> None:
        super().__init__()
        hidden, width = config.contrastive_hidden, config.contrastive_dim
        self.image = nn.Sequential(
            nn.LayerNorm(config.vision_dim),
            nn.Dropout(0.6),
            nn.Linear(config.vision_dim, hidden),
            nn.GELU(),
            nn.Dropout(0.4),
            nn.Linear(hidden, width),
        )
        self.text = nn.Sequential(
            nn.Linear(config.sentence_dim, hidden),
            nn.GELU(),
            nn.Dropout(0.2),
            nn.Linear(hidden, width),
        )
        self.shared = nn.Linear(config.sentence_dim, width, bias=False)
        self.scale = nn.Parameter(torch.tensor(math.log(20.0)))
        self.register_buffer(
            "label_vectors",
            torch.zeros(config.num_labels_vision, config.sentence_dim),
        )

    def embed_images(self, features: Tensor, probabilities: Tensor) -> Tensor:
        """Grid features [n, cells, vision_dim] and label probabilities -> unit vectors [n, d]."""
        weight = self.shared.weight
        pooled = features.to(weight.dtype).mean(dim=1)
        expected = probabilities.to(weight.dtype) @ self.label_vectors.to(weight.dtype)
        return nn.functional.normalize(self.image(pooled) + self.shared(expected), dim=-1)

    def embed_texts(self, sentences: Tensor) -> Tensor:
        """Sentence vectors [n, sentence_dim] -> unit vectors [n, d]."""
        sentences = sentences.to(self.shared.weight.dtype)
        return nn.functional.normalize(self.text(sentences) + self.shared(sentences), dim=-1)
