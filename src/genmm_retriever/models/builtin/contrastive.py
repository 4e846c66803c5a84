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

TOPIC_SHARPNESS = 15.0
"""Of a query's distribution over topics; on Flickr8k dev the pictures' own are likeliest so."""


class ContrastiveHead(nn.Module):
    """Pictures and sentences into one space, trained with InfoNCE.

    Attributes:
        label_vectors: Sentence vectors of the labels, [labels, sentence_dim]; filled when
            the model is put together.
        topics: Centres of the topics, [topics, contrastive_dim]; see `nearest_topics`.
        scale: Log of the inverse temperature.
    """

    label_vectors: Tensor
    topics: Tensor

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
        self.register_buffer("topics", torch.zeros(len(config.topics), width))

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

    def topic_logprobs(self, vectors: Tensor) -> Tensor:
        """How likely queries with these unit vectors [n, d] mean each topic, [n, topics], nats."""
        return (TOPIC_SHARPNESS * vectors @ self.topics.to(vectors.dtype).T).log_softmax(dim=-1)

    def nearest_topics(self, vectors: Tensor, most: int) -> Tensor:
        """Unit vectors [n, d] of pictures or texts -> their nearest topics, [n, most], int64.

        Euclidean distance, as K-Means has it, nearest first.
        """
        centres = self.topics.to(vectors.dtype)
        nearness = vectors @ centres.T - centres.square().sum(dim=1) / 2
        return nearness.topk(min(most, len(centres)), dim=1).indices
