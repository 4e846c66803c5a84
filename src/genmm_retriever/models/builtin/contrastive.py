"""Two small contrastive heads: the cheap half of a fused verifier.

Both sides of a head share one linear map of sentence space: the text side maps the query's
sentence vector, the picture side the expected sentence vector of its labels. Objects that no
caption named in training are still matched through it. The first head also carries the topics.
The second reads the words of a text beside its sentence vector, and the lower layers of the vision
backbone beside the last, and it knows what is near to whatever is asked for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genmm_retriever.models.builtin.configuration import GenmmBuiltinConfig

TOPIC_SHARPNESS = 15.0
"""Of a query's distribution over topics; on Flickr8k dev the pictures' own are likeliest so."""
USUAL_SHARPNESS = 20.0
"""How much the nearest of the usual queries count for what a picture is near to."""
USUAL_WEIGHT = 0.75
"""Of what a picture is near to anyway, beside its cosine with the query; 1 would be a quotient.

On Flickr8k dev this and the sharpness raise R@1 of both heads from 29 to 31.
"""
USUAL_TEXT_WEIGHT = 0.5
"""As `USUAL_WEIGHT`, of texts beside their cosine with a picture: R@1 35 to 38 on Flickr8k dev."""
_WORD_DROPOUT = 0.15
_WORD_SCALE = 8.0
"""Of unit word vectors: about what the layers behind them are initialised for."""


class TwinTowers(nn.Module):
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
        """Features [n, rows, vision_dim] and label probabilities -> unit vectors [n, d]."""
        weight = self.shared.weight
        expected = probabilities.to(weight.dtype) @ self.label_vectors.to(weight.dtype)
        seen = self._look(features.to(weight.dtype)) + self.shared(expected)
        return nn.functional.normalize(seen, dim=-1)

    def _look(self, features: Tensor) -> Tensor:
        out: Tensor = self.image(features[:, :-1].mean(dim=1))
        return out

    def _sentences(self, sentences: Tensor) -> Tensor:
        sentences = sentences.to(self.shared.weight.dtype)
        out: Tensor = self.text(sentences) + self.shared(sentences)
        return out


class WordedHead(TwinTowers):
    """Twin towers whose text side also reads the words, by the language model's embedding.

    Their picture side also reads the lower layers.

    Attributes:
        lower_mean: Of each channel of the lower layers over the training pictures, [lower_dim].
        lower_deviation: Their standard deviation, [lower_dim].
        usual: Centres of the queries that pictures are usually asked for with, [queries, d].
        usual_shares: Share of the queries that each centre stands for, [queries].
        usual_nearness: Mean of what `nearness` takes off, over the training pictures.
    """

    lower_mean: Tensor
    lower_deviation: Tensor
    usual: Tensor
    usual_shares: Tensor
    usual_nearness: Tensor

    def __init__(self, config: GenmmBuiltinConfig) -> None:
        super().__init__(config)
        words, width = config.text_config.hidden_size, config.contrastive_dim
        self.weigh = nn.Linear(words, 1)
        self.words = nn.Sequential(nn.Linear(words, width), nn.GELU(), nn.Dropout(0.3))
        self.blend = nn.Linear(width, width)
        self.lower = nn.Sequential(
            nn.LayerNorm(config.lower_dim),
            nn.Dropout(0.6),
            nn.Linear(config.lower_dim, config.contrastive_hidden),
        )
        self.register_buffer("lower_mean", torch.zeros(config.lower_dim))
        self.register_buffer("lower_deviation", torch.ones(config.lower_dim))
        queries = config.usual_queries
        self.register_buffer("usual", torch.zeros(queries, width))
        self.register_buffer("usual_shares", torch.full((queries,), 1 / queries))
        self.register_buffer("usual_nearness", torch.zeros(()))

    def _look(self, features: Tensor) -> Tensor:
        norm, dropout, up, *rest = self.image
        hidden = up(dropout(norm(features[:, :-1].mean(dim=1))))
        lower = features[:, -1, : len(self.lower_mean)]
        deviation = self.lower_deviation.to(lower.dtype)
        out: Tensor = hidden + self.lower((lower - self.lower_mean.to(lower.dtype)) / deviation)
        for layer in rest:
            out = layer(out)
        return out

    def nearness(self, pictures: Tensor) -> Tensor:
        """How much nearer than others pictures are to queries in general, to take off cosines.

        Some pictures are near to whatever is asked for. Subtracting what a bank of usual queries
        finds near is the inverted softmax of Smith et al. (ICLR 2017), with a bank as Bogolin et
        al., "Cross Modal Retrieval with Querybank Normalisation" (CVPR 2022), have it.

        Args:
            pictures: Unit vectors of `embed_images`, [n, d].

        Returns:
            [n], on average zero over the pictures of the training.
        """
        return USUAL_WEIGHT * (self.near_to_usual(pictures) - self.usual_nearness)

    def text_nearness(self, texts: Tensor) -> Tensor:
        """As `nearness`, of texts that pictures look for.

        What says little is near to many captions, and so to many pictures: the usual queries
        stand in for the pictures that ask, of which no bank is kept.

        Args:
            texts: Unit vectors of `embed_texts`, [n, d].

        Returns:
            [n]; its level is not that of `nearness`.
        """
        return USUAL_TEXT_WEIGHT * self.near_to_usual(texts)

    def near_to_usual(self, vectors: Tensor) -> Tensor:
        """A soft maximum of the cosines with the usual queries, [n, d] -> [n]."""
        logits = USUAL_SHARPNESS * vectors @ self.usual.to(vectors.dtype).T
        logits = logits + self.usual_shares.to(vectors.dtype).log()
        return logits.logsumexp(dim=-1) / USUAL_SHARPNESS

    def embed_texts(self, sentences: Tensor, tokens: Tensor, embedding: Tensor) -> Tensor:
        """Sentence vectors and token ids of texts -> unit vectors [n, d].

        Args:
            sentences: [n, sentence_dim].
            tokens: [n, L], -1 beyond a text's end.
            embedding: Vectors of all tokens, [vocabulary, hidden]; not trained.
        """
        dtype = self.shared.weight.dtype
        there = tokens >= 0
        if self.training:
            there = there & (torch.rand(there.shape, device=there.device) > _WORD_DROPOUT)
        vectors = nn.functional.normalize(embedding[tokens.clamp_min(0)].to(dtype), dim=-1)
        vectors = _WORD_SCALE * vectors
        weights = self.weigh(vectors).squeeze(-1).masked_fill(~there, -1e4).softmax(dim=-1)
        read = torch.einsum("nl,nld->nd", weights, self.words(vectors))
        return nn.functional.normalize(self._sentences(sentences) + self.blend(read), dim=-1)


class ContrastiveHead(TwinTowers):
    """Twin towers over sentence vectors, and the topics in their space.

    Attributes:
        topics: Centres of the topics, [topics, contrastive_dim]; see `nearest_topics`.
    """

    topics: Tensor

    def __init__(self, config: GenmmBuiltinConfig) -> None:
        super().__init__(config)
        self.register_buffer("topics", torch.zeros(len(config.topics), config.contrastive_dim))

    def embed_texts(self, sentences: Tensor) -> Tensor:
        """Sentence vectors [n, sentence_dim] -> unit vectors [n, d]."""
        return nn.functional.normalize(self._sentences(sentences), dim=-1)

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
