"""The last stage: topics, identifiers under them, and what a step shows."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from genmm_retriever.errors import SourceError
from genmm_retriever.identifiers import HashingEncoder, StructuredIdentifiers
from genmm_retriever.models.builtin.text import answer_ids
from genmm_retriever.training.builtin.contrastive import ContrastiveData
from genmm_retriever.training.builtin.data import CaptionedImages, read_questions
from genmm_retriever.training.builtin.finding import FindingData, FindingExamples
from genmm_retriever.training.builtin.topics import fit_topics

from .test_examples import Recorder


@pytest.fixture(scope="module")
def made(make_builtin):
    model, processor = make_builtin()
    return model, processor.tokenizer


@pytest.fixture
def targets(captioned):
    n = len(captioned)
    return FindingData(
        of_pictures=[
            [[f"near{i}, w{c}" for c in range(3)], [f"far{i}, w{c}" for c in range(3)]]
            for i in range(n)
        ],
        of_captions=[[[f"said{i} {c}"] for c in range(3)] for i in range(n)],
        of_labels=[("espresso", ["drink, espresso"])],
        topics=["sure", "maybe", "never", *(f"rest{i}" for i in range(4))],
        of_queries=np.tile(np.array([0.5, 0.2, 0.0, 0.1, 0.1, 0.05, 0.05], np.float16), (3 * n, 1)),
        asked=[(1, "What is it?", ["tench"])],
        questioned=CaptionedImages(captioned.paths[:2], [["x"]] * 2, captioned.features[:2] + 1),
    )


def answers_of(batch, tokenizer, ended=True):
    rows = {}
    for row, answer, target in zip(
        batch.row.tolist(), batch.answer.tolist(), batch.target.tolist(), strict=True
    ):
        rows.setdefault(row, {}).setdefault(answer, []).append(target)
    return {
        row: [tokenizer.decode(ids[: -1 if ended else None]).strip() for ids in some.values()]
        for row, some in rows.items()
    }


def test_a_step_shows_every_form(captioned, made, targets):
    model, tokenizer = made
    examples = FindingExamples(
        captioned, targets, tokenizer, model.config, finds=6, looks=3, asks=2
    )
    recorder = Recorder()
    _, metrics = examples(recorder, random.Random(0))
    assert metrics["find"] == 1.5
    assert metrics["topic"] == 0.0  # the recorder finds everything certain
    (batch, features), *worded = recorder.seen
    assert [seen for _, seen in worded] == [None] * 4
    rows = [len(one.input_ids) for one, _ in worded]
    assert sum(rows[:2]) == 6 + 2 + 1 + 2  # queries, names, paraphrases, two empty prompts
    assert sum(rows[2:]) == 60
    begun = answers_of(worded[3][0], tokenizer, ended=False)
    assert all(len(some) == 4 for some in begun.values())
    assert all(
        text.endswith(",") and text.count(",") == 1 for some in begun.values() for text in some
    )
    assert worded[0][0].input_ids.shape[1] <= worded[1][0].input_ids.shape[1]
    assert features.shape[0] == 3 + 2
    # The pictures asked about come after those that are looked at, as their prompts do.
    assert torch.equal(features[3], torch.from_numpy(targets.questioned.features[1]))
    pictured = (batch.input_ids == model.config.image_token_id).any(dim=1)
    assert pictured.tolist() == [True] * 5
    said = answers_of(batch, tokenizer)
    spelled = tokenizer.decode(answer_ids(tokenizer, "tench")).strip()
    assert said[3] == said[4] == [spelled]


def test_words_asked_for_are_not_copied(captioned, made, targets):
    model, tokenizer = made
    examples = FindingExamples(captioned, targets, tokenizer, model.config)
    rng = random.Random(1)
    firsts = set()
    for _ in range(200):
        found = examples._of_picture(4, 1, rng)
        assert all(not text.endswith("w1") for text in found)
        assert found[0].startswith("near4")
        firsts |= set(found)
    assert firsts == {"near4, w0", "near4, w2", "far4, w0", "far4, w2"}


def test_topics_are_clusters_of_the_shared_space(captioned, made):
    model, _ = made
    head = model.contrastive.eval()
    n, labels = len(captioned), head.label_vectors.shape[0]
    torch.manual_seed(0)
    data = ContrastiveData(
        torch.from_numpy(captioned.features).float(),
        torch.rand(n, labels).softmax(1),
        torch.nn.functional.normalize(torch.randn(3 * n, 384), dim=1),
        np.repeat(np.arange(n), 3),
    )
    names = [f"thing{i}" for i in range(labels)]
    centres, called = fit_topics(head, data, captioned.captions, names, count=5, seed=1)
    assert len(centres) == len(called) == len(set(called)) <= 5
    again, _ = fit_topics(head, data, captioned.captions, names, count=5, seed=1)
    assert torch.equal(centres, again)
    head.topics = centres
    vectors = head.embed_texts(data.sentences)
    expected = torch.cdist(vectors, centres).argsort(dim=1)[:, :2]
    assert torch.equal(head.nearest_topics(vectors, 2), expected)


def test_identifiers_begin_with_the_topics_in_turn():
    scheme = StructuredIdentifiers.over_topics(HashingEncoder())
    assert scheme.needs_topics
    found = scheme.assign(
        [["a brown dog", "a cat", "a red bus"], [], ["a boat"]],
        taken=set(),
        topics=[["pets", "dog street"], ["pets"], ["sea", "lake"]],
    )
    assert [text.split(",")[0] for text in found[0]] == ["pets", "dog street", "pets"]
    assert found[1][0].startswith("pets")
    assert found[2] == ["sea, boat", "lake, boat"]
    arrays, state = scheme.to_state()
    again = StructuredIdentifiers.from_state(arrays, state, HashingEncoder())
    assert again.needs_topics


def test_questions_are_read(tmp_path):
    path = tmp_path / "asked.jsonl"
    line = {"id": "1", "image": "a.png", "question": "What?", "answers": ["tench"]}
    path.write_text(json.dumps(line))
    assert read_questions(path) == ([tmp_path / "a.png"], ["What?"], [["tench"]])
    for broken in ({**line, "answers": []}, {**line, "answers": [1]}, {"image": "a.png"}):
        path.write_text(json.dumps(line) + "\n" + json.dumps(broken))
        with pytest.raises(SourceError, match="2"):
            read_questions(path)
    path.write_text("")
    with pytest.raises(SourceError):
        read_questions(path)


def test_topics_of_a_query_are_a_distribution(captioned, made, targets):
    model, tokenizer = made
    examples = FindingExamples(captioned, targets, tokenizer, model.config)
    rng, seen = random.Random(2), np.zeros(7)
    spelled = [answer_ids(tokenizer, f"{topic},") for topic in targets.topics]
    rounds = 400
    for _ in range(rounds):
        (_, answers), weights = examples._begun(rng)
        assert sum(weights) == pytest.approx(1.0, abs=2e-3)
        for answer, weight in zip(answers, weights, strict=True):
            seen[spelled.index(answer)] += weight
    assert seen[2] == 0
    assert seen / rounds == pytest.approx(targets.of_queries[0].astype(float), abs=0.02)


def test_topics_are_learnt_as_likely_as_they_are(captioned, made, targets):
    model, tokenizer = made
    examples = FindingExamples(captioned, targets, tokenizer, model.config, begins=2)

    class Uniform(Recorder):
        def logprobs(self, batch, features):
            return torch.full((batch.answers,), -2.0), torch.tensor(1.0)

    assert float(examples._beginnings(Uniform(), random.Random(0))) == pytest.approx(2.0, abs=1e-2)
