"""What the last stage is to write: topics, and identifiers under them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genmm_retriever.identifiers import StructuredIdentifiers
from genmm_retriever.models.builtin.labels import label_names
from genmm_retriever.models.builtin.mllm import TOPIC_SHARPNESS
from genmm_retriever.models.builtin.modeling import GenmmBuiltinForConditionalGeneration
from genmm_retriever.models.sentences import MiniLMEncoder
from genmm_retriever.training.builtin.contrastive import ContrastiveData
from genmm_retriever.training.builtin.data import CaptionedImages
from genmm_retriever.training.builtin.finding import FindingData
from genmm_retriever.training.builtin.topics import fit_topics

TOPICS_A_PICTURE = 2
OBJECTS_LEAST = 0.15


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
    centres = work / "topics.npy"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        _set_topics(model, torch.from_numpy(np.load(centres)), kept.pop("topics"))
    else:
        kept = _make_finding_data(model, data, centres, seed)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(kept | {"topics": model.config.topics}), encoding="utf-8")
        temporary.replace(path)
    kept["topics"] = model.config.topics
    kept["of_queries"] = _topics_of_queries(model, data, work / "topics-of-queries.npy")
    if asked is None:
        return FindingData(**kept)
    pictures, questions = asked
    rows = list(zip(range(len(questions)), questions, pictures.captions, strict=True))
    return FindingData(**kept, asked=rows, questioned=pictures)


def _topics_of_queries(
    model: GenmmBuiltinForConditionalGeneration, data: CaptionedImages, path: Path
) -> np.ndarray:
    """Probability of each topic given each caption, [captions, topics], float16; made once."""
    if path.is_file():
        kept: np.ndarray = np.load(path)
        if len(kept) == sum(map(len, data.captions)):
            return kept
    head = model.contrastive.cpu().eval()
    texts = [text for some in data.captions for text in some]
    with torch.no_grad():
        vectors = head.embed_texts(torch.from_numpy(MiniLMEncoder().encode(texts)))
        found = (TOPIC_SHARPNESS * vectors @ head.topics.T).softmax(dim=1).half().numpy()
    np.save(path, found)
    return found


def _make_finding_data(
    model: GenmmBuiltinForConditionalGeneration, data: CaptionedImages, centres: Path, seed: int
) -> dict[str, Any]:
    head = model.contrastive.cpu().eval()
    seen = contrastive_data(model, data)
    labels = [", ".join(names) for names in label_names()]
    found, names = fit_topics(head, seen, data.captions, labels, seed=seed)
    np.save(centres, found.numpy())
    _set_topics(model, found, names)

    def topics(vectors: Tensor, most: int) -> list[list[str]]:
        return [[names[i] for i in row] for row in head.nearest_topics(vectors, most).tolist()]

    with torch.no_grad():
        of_picture = topics(head.embed_images(seen.features, seen.probabilities), TOPICS_A_PICTURE)
        of_caption = topics(head.embed_texts(seen.sentences), TOPICS_A_PICTURE)
        of_label = topics(head.embed_texts(head.label_vectors), TOPICS_A_PICTURE)
    scheme = StructuredIdentifiers.over_topics(MiniLMEncoder())
    described = [
        [*texts, *objects]
        for texts, objects in zip(data.captions, _objects(seen.probabilities), strict=True)
    ]
    by_topic = [
        scheme.assign(described, taken=set(), topics=[[some[rank]] for some in of_picture])
        for rank in range(TOPICS_A_PICTURE)
    ]
    texts = [[text] * TOPICS_A_PICTURE for some in data.captions for text in some]
    said = iter(scheme.assign(texts, taken=set(), topics=of_caption))
    first = [[names[0]] * TOPICS_A_PICTURE for names in label_names()]
    named = scheme.assign(first, taken=set(), topics=of_label)
    return {
        "of_pictures": [list(some) for some in zip(*by_topic, strict=True)],
        "of_captions": [[next(said) for _ in some] for some in data.captions],
        "of_labels": [[names[0], some] for names, some in zip(label_names(), named, strict=True)],
    }


def _set_topics(
    model: GenmmBuiltinForConditionalGeneration, centres: Tensor, names: list[str]
) -> None:
    model.contrastive.topics = centres
    model.config.topics = names


def _objects(probabilities: Tensor) -> list[list[str]]:
    """What the classifier sees in each picture, as one description or none."""
    names = label_names()
    best, label = probabilities.topk(5, dim=1)
    seen = [
        [names[i][0] for p, i in zip(some, places, strict=True) if p >= OBJECTS_LEAST]
        for some, places in zip(best.tolist(), label.tolist(), strict=True)
    ]
    return [[", ".join(some)] if some else [] for some in seen]
