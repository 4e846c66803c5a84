"""`genmm train composer`: from triplets to a file that the builtin model loads."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from genmm_retriever.errors import InputError, ModelError, SourceError
from genmm_retriever.models.base import Composing
from genmm_retriever.models.builtin import BuiltinMLLM, mllm
from genmm_retriever.models.builtin.composer import Composer, load_composer
from genmm_retriever.training.builtin import composing

DIM = 16


def unit(*shape, seed=0):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


@pytest.fixture
def changes():
    """Targets are where the picture and a turned change lead: the sum does not know the turn."""
    turn = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(9)))[0]
    count = 600
    old, texts = unit(count, DIM, seed=1), unit(count, DIM, seed=2)
    new = torch.nn.functional.normalize(old + texts @ turn, dim=-1)
    rows = torch.arange(count)
    return composing.Changes(torch.cat([old, new]), texts, rows, rows + count)


def test_an_untrained_composer_is_the_sum():
    images, texts = unit(5, DIM, seed=3), unit(5, DIM, seed=4)
    found = Composer(DIM).eval()(images, texts)
    torch.testing.assert_close(found, torch.nn.functional.normalize(images + texts, dim=-1))


def test_it_learns_what_the_sum_does_not_know(changes):
    learnt, held = composing._split(changes, seed=0)
    assert len(learnt) + len(held) == len(changes)
    assert not set(learnt.references.tolist()) & set(held.references.tolist())
    composer = composing.fit(learnt, epochs=40, batch=64, noise=0.1, progress=False)
    before = composing.recall(Composer(DIM).eval(), held)
    assert composing.recall(composer, held) > before + 10
    again = composing.fit(learnt, epochs=40, batch=64, noise=0.1, progress=False)
    for one, other in zip(composer.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_recall_leaves_references_out():
    # The reference is nearest to what is composed, the target next.
    pictures = torch.eye(DIM)
    changes = composing.Changes(pictures, 0.5 * pictures[1:2], torch.tensor([0]), torch.tensor([1]))
    assert composing.recall(Composer(DIM).eval(), changes, k=1) == 100.0
    changes = composing.Changes(pictures, 0.5 * pictures[1:2], torch.tensor([0]), torch.tensor([2]))
    assert composing.recall(Composer(DIM).eval(), changes, k=1) == 0.0


@pytest.fixture
def source(pictures):
    path = pictures / "train.jsonl"
    lines = [{"id": f"n{i}", "image": f"p{i}.png", "captions": [f"One {i}"]} for i in range(6)]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


@pytest.fixture
def triplets(tmp_path):
    path = tmp_path / "triplets.jsonl"
    pairs = [(i, j) for i in range(6) for j in range(i)]
    lines = [
        {"reference": f"n{i}", "target": f"n{j}", "text": f"now {j}", "reverse": f"now {i}"}
        for i, j in pairs
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_from_files_to_the_model(source, triplets, tiny_builtin, tmp_path):
    out = tmp_path / "out"
    figures = composing.train_composer(
        [source], [triplets], out, model=tiny_builtin, epochs=2, progress=False
    )
    assert figures["pictures"] == 6
    assert figures["triplets"] + figures["held_out"] == 30
    assert figures["held_out"] == 2
    assert set(figures) >= {"recall@10_of_the_sum", "recall@10"}
    dim = tiny_builtin.embed_texts(["x"]).shape[1]
    composer = load_composer(out / mllm.COMPOSER_FILE, dim)
    assert {v.dtype for v in load_file(out / mllm.COMPOSER_FILE).values()} == {torch.float16}
    model = BuiltinMLLM(tiny_builtin.model, tiny_builtin.processor, composer=composer)
    images, texts = unit(3, dim, seed=5), unit(3, dim, seed=6)
    assert isinstance(model, Composing)
    torch.testing.assert_close(model.compose(images, texts), composer(images, texts))
    torch.testing.assert_close(
        tiny_builtin.compose(images, texts),
        torch.nn.functional.normalize(images + texts, dim=-1),
    )
    # What indexes depend on is the same with and without.
    assert model.fingerprint == tiny_builtin.fingerprint


def test_topics_of_a_composed_query_are_those_of_what_is_composed(make_builtin, noise):
    tiny, processor = make_builtin(topics=["dog grass", "boat sea", "snow mountain"])
    with torch.no_grad():
        tiny.contrastive.topics.copy_(unit(*tiny.contrastive.topics.shape, seed=7))
    plain = BuiltinMLLM(tiny, processor)
    composer = Composer(plain.embed_texts(["x"]).shape[1]).eval()
    torch.nn.init.normal_(composer.change[-1].weight, std=3.0)
    model = BuiltinMLLM(tiny, processor, composer=composer)
    features = model.encode_images([noise(40, 30)])[0]
    assert model.topic_logprobs("snow", features) != plain.topic_logprobs("snow", features)
    assert model.topic_logprobs("snow", None) == plain.topic_logprobs("snow", None)
    assert model.topic_logprobs(None, features) == plain.topic_logprobs(None, features)


def test_what_cannot_be_trained_is_named(source, triplets, tiny_builtin, tmp_path):
    def train(**options):
        given = {"sources": [source], "triplets": [triplets], **options}
        return composing.train_composer(
            given.pop("sources"), given.pop("triplets"), tmp_path / "out", model=tiny_builtin,
            progress=False, **given,
        )  # fmt: skip

    with pytest.raises(InputError, match="epochs is 0"):
        train(epochs=0)
    few = tmp_path / "few.jsonl"
    few.write_text(triplets.read_text().splitlines()[0], encoding="utf-8")
    with pytest.raises(InputError, match="1 pairs of pictures"):
        train(triplets=[few])
    with pytest.raises(SourceError, match=r"nothing\.jsonl"):
        train(triplets=[tmp_path / "nothing.jsonl"])
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text('{"reference": "a", "target": "b", "text": "c"}', encoding="utf-8")
    with pytest.raises(InputError, match="no triplet"):
        train(triplets=[foreign])


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "composer.safetensors"
    assert load_composer(path, DIM) is None
    save_file(Composer(DIM).state_dict(), path)
    assert load_composer(path, DIM) is not None
    with pytest.raises(ModelError, match="composer"):
        load_composer(path, 2 * DIM)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="composer"):
        load_composer(path, DIM)
