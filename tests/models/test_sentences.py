from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from genmm_retriever.errors import MissingExtraError, ModelError
from genmm_retriever.models import sentences as encoders
from genmm_retriever.models.sentences import HashingEncoder, MiniLMEncoder, SentenceEncoder

TEXTS = ["a dog", "", "\N{DOG FACE}", "a dog", "犬がいる", "word " * 10_000, "\ud800 lone", "a b c"]


@pytest.fixture(scope="module")
def minilm():
    return MiniLMEncoder(dtype="float32")


def test_encoders_follow_the_protocol(minilm):
    assert isinstance(minilm, SentenceEncoder)
    assert isinstance(HashingEncoder(), SentenceEncoder)


@pytest.mark.parametrize("which", ["minilm", "hashing"])
def test_unit_vectors_of_any_text(which, minilm):
    encoder = minilm if which == "minilm" else HashingEncoder()
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), encoder.dimensions)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[3])
    assert encoder.encode([]).shape == (0, encoder.dimensions)


def test_minilm_equals_the_published_pipeline(minilm):
    """Mean pooling over a padded batch, straight from the transformers model."""
    import torch

    texts = ["A man rides a horse.", "Two children", "The sea at night, seen from a small boat"]
    batch = minilm._tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = minilm._model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    expected = torch.nn.functional.normalize(pooled, dim=-1).numpy()
    np.testing.assert_allclose(minilm.encode(texts), expected, atol=1e-5)


def test_minilm_knows_meaning(minilm):
    puppy, dog, stocks = minilm.encode(["a puppy", "a young dog", "the stock market"])
    assert puppy @ dog > puppy @ stocks + 0.3


def test_bfloat16_is_accurate(minilm):
    texts = ["A man rides a horse.", "snow", "Two girls in red dresses dance on a stage"]
    cosines = (MiniLMEncoder(dtype="bfloat16").encode(texts) * minilm.encode(texts)).sum(axis=1)
    assert cosines.min() > 0.999


def test_small_batches_give_the_same(minilm):
    texts = [f"caption number {i} of a dog" for i in range(20)]
    small = MiniLMEncoder(dtype="float32", batch_tokens=16).encode(texts)
    np.testing.assert_allclose(small, minilm.encode(texts), atol=1e-5)


def test_missing_weights_name_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"genmm-retriever\[builtin\]"):
        encoders.default_encoder()


def test_damaged_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(encoders, "_weights_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        MiniLMEncoder()


def test_draws_no_progress_bar(capfd):
    MiniLMEncoder().encode(["a dog"])
    assert capfd.readouterr() == ("", "")
