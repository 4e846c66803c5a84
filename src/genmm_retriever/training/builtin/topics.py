"""Topics: what identifiers begin with, learned once and the same in every collection.

SemCORE (arXiv 2504.13172) clusters the captions of each collection. Here the clusters lie in
the space that pictures and sentences share, are found on the training pictures, and ship with
the weights: so the language model can be trained to write their names, and a new collection,
or a new item, needs neither clustering nor training. On Flickr8k dev the pictures' own topics
lead to more of them than their captions' clusters do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from genmm_retriever.identifiers.clusters import cluster_names, kmeans
from genmm_retriever.identifiers.keywords import content_words
from genmm_retriever.models.builtin.contrastive import ContrastiveHead
from genmm_retriever.training.builtin.contrastive import ContrastiveData

TOPICS = 320
_COMMON = 5
"""Captions that a word must stand in to be part of a name: misspellings stand in fewer."""


def fit_topics(
    head: ContrastiveHead,
    data: ContrastiveData,
    captions: Sequence[Sequence[str]],
    labels: Sequence[str],
    *,
    count: int = TOPICS,
    seed: int = 0,
) -> tuple[Tensor, list[str]]:
    """Centres and names of the topics.

    Points are the pictures, as many captions, and the classifier's labels, so that there are
    topics for things that no training picture shows.

    Args:
        head: Trained; gives the space.
        data: What it was trained on.
        captions: Captions of each picture, in the order of `data.sentences`.
        labels: What the classifier can name, in the order of `head.label_vectors`.
        count: Topics wanted; fewer if fewer points differ.
        seed: Of K-Means and of the choice of captions.

    Returns:
        Centres [topics, d], and a distinct name of a few words for each.
    """
    with torch.no_grad():
        pictures = head.embed_images(data.features, data.probabilities).numpy()
        sentences = head.embed_texts(data.sentences).numpy()
        named = head.embed_texts(head.label_vectors).numpy()
    chosen = np.random.default_rng(seed).permutation(len(sentences))[: len(pictures)]
    centres, places = kmeans(np.concatenate([pictures, sentences[chosen], named]), count, seed=seed)
    # A topic is called by the captions in it and those of its pictures, and by its labels.
    texts = _without_rare_words([text for some in captions for text in some])
    of_picture = places[: len(pictures)][data.owner]
    of_label = places[len(pictures) + len(chosen) :]
    names = cluster_names(
        [*texts, *(texts[i] for i in chosen), *labels],  # a label is a name, however rare
        np.concatenate([of_picture, places[len(pictures) : len(pictures) + len(chosen)], of_label]),
    )
    return torch.from_numpy(centres), names


def _without_rare_words(texts: Sequence[str]) -> list[str]:
    split = [content_words(text) for text in texts]
    seen = Counter(word for words in split for word in set(words))
    return [" ".join(word for word in words if seen[word] >= _COMMON) for words in split]
