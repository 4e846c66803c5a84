"""`genmm train builtin` from captioned pictures to files, over a tiny model."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from genmm_retriever.errors import ImageError, SourceError, StorageError
from genmm_retriever.models.sentences import HashingEncoder
from genmm_retriever.training.builtin.card import model_card

trainer_module = pytest.importorskip("genmm_retriever.training.builtin.train")
looking = pytest.importorskip("genmm_retriever.training.builtin.looking")
targets = pytest.importorskip("genmm_retriever.training.builtin.targets")


@pytest.fixture
def source(pictures):
    things = ("dog", "cat", "boat", "tree", "ball", "bike")
    path = pictures / "train.jsonl"
    lines = [
        json.dumps(
            {
                "id": str(i),
                "image": f"p{i}.png",
                "captions": [f"A {things[i]}.", f"One {things[i]}"],
            }
        )
        for i in range(6)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def small(monkeypatch, make_builtin):
    """Training of a tiny model in a few steps."""
    models = []

    def untrained(gguf):
        models.append(make_builtin(seed=3))
        return models[-1]

    real = trainer_module.Stage
    counts = {"captioning": 3, "telling-apart": 2, "finding": 2, "settling": 2}

    def short(name, *, steps, **options):
        return real(name, steps=counts[name], **{**options, "warmup": 1})

    monkeypatch.setattr(trainer_module, "untrained", untrained)
    monkeypatch.setattr(trainer_module, "fetch_gguf", lambda progress: None)
    monkeypatch.setattr(trainer_module, "MiniLMEncoder", lambda: HashingEncoder(384))
    monkeypatch.setattr(targets, "MiniLMEncoder", lambda: HashingEncoder(384))
    monkeypatch.setattr(trainer_module, "Stage", short)
    original = trainer_module.Curriculum.captioning
    monkeypatch.setattr(
        trainer_module.Curriculum, "captioning", lambda self, images: original(self, 2)
    )
    return models


def test_it_writes_what_ships(source, small, tmp_path):
    figures = trainer_module.train([source], tmp_path / "out", device="cpu", progress=False)
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [
        "MODEL_CARD.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "builtin.json",
        "head.safetensors",
        "work",
    ]
    assert (figures["pictures"], figures["captions"]) == (6, 12)
    assert figures["captioning"]["steps"] == 3
    assert {"nll", "accuracy", "find", "steps"} == set(figures["telling_apart"])
    for stage in ("finding", "settling"):
        assert {"nll", "accuracy", "find", "topic", "steps"} == set(figures[stage])
    names = json.loads((tmp_path / "out" / "builtin.json").read_text())["config"]["topics"]
    assert len(names) == len(set(names)) == figures["topics"] > 6
    head = load_file(tmp_path / "out" / "head.safetensors")
    assert "contrastive.label_vectors" not in head
    assert "matching.label_vectors" not in head
    assert "matching.blend.weight" in head
    assert "model.projector.up.weight" in head
    assert len(head["contrastive.topics"]) == len(names)
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "6 pictures with 12 captions" in card
    assert "pictures/train.jsonl" in card
    assert str(tmp_path) not in card  # no paths of the machine it was trained on


def test_a_finished_training_is_not_done_again(source, small, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = trainer_module.train([source], out, device="cpu", progress=False)
    before = load_file(out / "head.safetensors")

    def refused(*args, **options):
        raise AssertionError("this was done already")

    monkeypatch.setattr(trainer_module, "train_contrastive", refused)
    monkeypatch.setattr(looking, "open_image", refused)
    monkeypatch.setattr(targets, "fit_topics", refused)
    monkeypatch.setattr(trainer_module.StructuredIdentifiers, "fit", refused)
    assert trainer_module.train([source], out, device="cpu", progress=False) == first
    after = load_file(out / "head.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_features_are_computed_once_and_filled_up(source, make_builtin, tmp_path, monkeypatch):
    model, _ = make_builtin()
    monkeypatch.setattr(looking, "_BATCH", 2)
    expected = looking.load_data([source], model, tmp_path, limit=None, progress=False)
    assert expected.features.shape == (6, 5, 1280)
    opened = []
    real = looking.open_image

    def stops(path):
        opened.append(path)
        if len(opened) > 4:
            raise ImageError("stopped here")
        return real(path)

    (tmp_path / "again").mkdir()
    monkeypatch.setattr(looking, "open_image", stops)
    with pytest.raises(ImageError):
        looking.load_data([source], model, tmp_path / "again", limit=None, progress=False)
    opened.clear()
    found = looking.load_data([source], model, tmp_path / "again", limit=None, progress=False)
    assert len(opened) == 2
    assert np.array_equal(found.features, expected.features)


def test_a_disk_without_room_for_features_is_told(source, make_builtin, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(looking.os, "posix_fallocate", full, raising=False)
    with pytest.raises(StorageError, match="No space left"):
        looking.load_data([source], make_builtin()[0], tmp_path, limit=None, progress=False)
    assert not list(tmp_path.glob("features-*"))


def test_limit_counts_over_all_sources(source, make_builtin, tmp_path):
    model, _ = make_builtin()
    data = looking.load_data([source, source], model, tmp_path, limit=8, progress=False)
    assert len(data) == len(data.captions) == 8
    assert data.captions[6] == data.captions[0]


def test_no_source_is_named(make_builtin, tmp_path):
    with pytest.raises(SourceError, match="no captioned picture"):
        looking.load_data([], make_builtin()[0], tmp_path, limit=None, progress=False)


def test_visual_tokens_begin_at_the_scale_of_words(make_builtin):
    model, _ = make_builtin()
    torch.manual_seed(0)
    trainer_module._start_at_word_scale(model)
    with torch.no_grad():
        features = torch.randn(8, 4, 1280)
        seen = model.model.projector(features) - model.model.projector.place
    words = model.get_input_embeddings().weight.std()
    assert 0.2 < float(seen.std().detach() / words.detach()) < 3


def test_neighbours_leave_the_picture_itself_out(source, make_builtin, tmp_path):
    model, _ = make_builtin()
    data = looking.load_data([source], model, tmp_path, limit=None, progress=False)
    near = trainer_module._neighbours(model, data)
    assert near.shape == (6, 5)
    assert all(sorted([row, *near[row].tolist()]) == list(range(6)) for row in range(6))


def test_the_card_tells_figures_and_folder_names_only(tmp_path):
    figures = {
        "pictures": 7,
        "captions": 9,
        "questions": 4,
        "contrastive_loss": 1.234,
        "matching_loss": 5.678,
        "captioning": {"nll": 2.34567},
        "telling_apart": {"accuracy": 0.5},
        "finding": {"find": 1.5},
        "settling": {"topic": 4.5},
        "topics": 12,
    }
    card = model_card([tmp_path / "flickr8k" / "train.jsonl"], figures)
    assert "from: flickr8k/train.jsonl." in card
    assert "final loss 1.23 nats" in card
    assert "5.68 of the second" in card
    assert "nll 2.35" in card
    assert "accuracy 0.5" in card
    assert "12 topics" in card
    assert "4 pictures with a question" in card
    assert "find 1.5" in card


def test_sources_are_looked_at_before_the_model(tmp_path, monkeypatch):
    def load(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(trainer_module, "untrained", load)
    monkeypatch.setattr(trainer_module, "fetch_gguf", load)
    with pytest.raises(SourceError, match=r"none\.jsonl"):
        trainer_module.train([tmp_path / "none.jsonl"], tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
