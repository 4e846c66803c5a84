"""What the last stage is to write: topics, and identifiers under them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genmm_retriever.building import OBJECTS_LEAST
from genmm_retriever.identifiers import StructuredIdentifiers
from genmm_retriever.models.builtin.labels import label_names, likely_labels
from genmm_retriever.models.builtin.modeling import GenmmBuiltinForConditionalGeneration
from genmm_retriever.models.sentences import MiniLMEncoder
from genmm_retriever.training.builtin.contrastive import ContrastiveData
from genmm_retriever.training.builtin.data import CaptionedImages
from genmm_retriever.training.builtin.finding import FindingData
from genmm_retriever.training.builtin.topics import fit_topics
from genmm_retriever.training.storing import store_json, storing

_TOPICS = 2
"""Of each picture and caption that are learnt; fewer than an item has, and surer."""
_CENTRES, _OF_QUERIES = "topics.npy", "topics-of-queries.npy"


def label_probabilities(model: GenmmBuiltinForConditionalGeneration, features: Tensor) -> Tensor:
    """Label probabilities [n, labels], on the CPU."""
    where = model.model.vision._fc.weight.device
    with torch.no_grad():
        return torch.cat(
            [
                model.model.classify(features[start : start + 512].to(where)).cpu()
                for start in range(0, len(features), 512)
            ]
        )


def contrastive_data(
    model: GenmmBuiltinForConditionalGeneration, data: CaptionedImages
) -> ContrastiveData:
    """What the contrastive head sees of the training data."""
    features = torch.from_numpy(np.array(data.features)).float()
    texts = [text for some in data.captions for text in some]
    owner = np.repeat(np.arange(len(data)), [len(some) for some in data.captions])
    sentences = torch.from_numpy(MiniLMEncoder().encode(texts))
    return ContrastiveData(features, label_probabilities(model, features), sentences, owner)


def finding_data(
    model: GenmmBuiltinForConditionalGeneration,
    data: CaptionedImages,
    work: Path,
    asked: tuple[CaptionedImages, list[str]] | None,
    *,
    seed: int = 0,
) -> FindingData:
    """Topics and the identifiers under them, made once; the topics are put into the model."""
    path = work / "finding.json"
    if not path.is_file():
        store_json(path, _make_finding_data(model, data, work, seed))
    kept = json.loads(path.read_text(encoding="utf-8"))
    _set_topics(model, torch.from_numpy(np.load(work / _CENTRES)), kept["topics"])
    kept["of_queries"] = np.load(work / _OF_QUERIES)
    if asked is None:
        return FindingData(**kept)
    pictures, questions = asked
    rows = list(zip(range(len(questions)), questions, pictures.captions, strict=True))
    return FindingData(**kept, asked=rows, questioned=pictures)


def _make_finding_data(
    model: GenmmBuiltinForConditionalGeneration, data: CaptionedImages, work: Path, seed: int
) -> dict[str, Any]:
    """What can be told as JSON; the arrays are in files before."""
    head = model.contrastive.cpu().eval()
    seen = contrastive_data(model, data)
    labels = [", ".join(names) for names in label_names()]
    found, names = fit_topics(head, seen, data.captions, labels, seed=seed)
    with storing(work / _CENTRES):
        np.save(work / _CENTRES, found.numpy())
    _set_topics(model, found, names)

    def topics(vectors: Tensor, most: int) -> list[list[str]]:
        return [[names[i] for i in row] for row in head.nearest_topics(vectors, most).tolist()]

    with torch.no_grad():
        queries = head.embed_texts(seen.sentences)
        likely = head.topic_logprobs(queries).exp().half().numpy()
        with storing(work / _OF_QUERIES):
            np.save(work / _OF_QUERIES, likely)
        of_picture = topics(head.embed_images(seen.features, seen.probabilities), _TOPICS)
        of_caption = topics(queries, _TOPICS)
        of_label = topics(head.embed_texts(head.label_vectors), _TOPICS)
    scheme = StructuredIdentifiers.over_topics(MiniLMEncoder())
    objects = likely_labels(seen.probabilities, OBJECTS_LEAST)
    described = [
        [*texts, *([", ".join(name for name, _ in some)] if some else [])]
        for texts, some in zip(data.captions, objects, strict=True)
    ]
    by_topic = [
        scheme.assign(described, taken=set(), topics=[[some[rank]] for some in of_picture])
        for rank in range(_TOPICS)
    ]
    texts = [[text] * _TOPICS for some in data.captions for text in some]
    said = iter(scheme.assign(texts, taken=set(), topics=of_caption))
    first = [[names[0]] * _TOPICS for names in label_names()]
    named = scheme.assign(first, taken=set(), topics=of_label)
    return {
        "topics": names,
        "of_pictures": [list(some) for some in zip(*by_topic, strict=True)],
        "of_captions": [[next(said) for _ in some] for some in data.captions],
        "of_labels": [[names[0], some] for names, some in zip(label_names(), named, strict=True)],
    }


def _set_topics(
    model: GenmmBuiltinForConditionalGeneration, centres: Tensor, names: list[str]
) -> None:
    model.contrastive.topics = centres
    model.config.topics = names
