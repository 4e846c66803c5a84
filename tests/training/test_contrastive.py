"""The contrastive head learns which sentence belongs to which picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genmm_retriever.models.builtin.configuration import GenmmBuiltinConfig
from genmm_retriever.models.builtin.contrastive import ContrastiveHead, WordedHead
from genmm_retriever.models.builtin.text import padded_words
from genmm_retriever.training.builtin.contrastive import (
    ContrastiveData,
    sentence_side,
    train_contrastive,
    worded_side,
)
from genmm_retriever.training.builtin.matching import fit_matching

PICTURES, CAPTIONS = 40, 3


@pytest.fixture(scope="module")
def config():
    return GenmmBuiltinConfig(
        vision_dim=24,
        lower_dim=6,
        usual_queries=7,
        num_labels_vision=10,
        contrastive_dim=16,
        contrastive_hidden=64,
        sentence_dim=12,
    )


@pytest.fixture(scope="module")
def toy():
    """Sentences are a noisy linear map of what the picture's features mean."""
    draw = torch.Generator().manual_seed(0)
    meaning = torch.randn(PICTURES, 12, generator=draw)
    spread = torch.randn(12, 24, generator=draw)
    features = (meaning @ spread)[:, None] + 0.1 * torch.randn(PICTURES, 5, 24, generator=draw)
    features[:, -1] = 0  # nothing in the lower layers
    owner = np.repeat(np.arange(PICTURES), CAPTIONS)
    sentences = meaning[owner] + 0.1 * torch.randn(len(owner), 12, generator=draw)
    probabilities = torch.full((PICTURES, 10), 0.1)
    return ContrastiveData(features, probabilities, sentences, owner)


def accuracy(head, data):
    with torch.no_grad():
        found = (
            head.embed_texts(data.sentences)
            @ head.embed_images(data.features, data.probabilities).T
        )
    return float((found.argmax(dim=1).numpy() == data.owner).mean())


def test_it_learns_a_toy_mapping(config, toy):
    torch.manual_seed(1)
    head = ContrastiveHead(config).eval()
    before = accuracy(head, toy)
    side = sentence_side(head, toy)
    loss = train_contrastive(head, toy, side, epochs=40, batch=20, progress=False)
    assert before < 0.3
    assert accuracy(head, toy) > 0.9
    assert loss < 0.7 * np.log(20)  # of guessing among a batch, with dropout
    assert not head.training


def test_words_tell_apart_what_sentence_vectors_do_not(config, toy):
    torch.manual_seed(1)
    head = WordedHead(config)
    blind = ContrastiveData(
        toy.features, toy.probabilities, torch.ones_like(toy.sentences), toy.owner
    )
    embedding = torch.randn(PICTURES + 5, config.text_config.hidden_size)
    # A word of the picture's own, among words that say nothing.
    tokens = [
        [PICTURES + i % 5, int(one), PICTURES][: 2 + i % 2] for i, one in enumerate(toy.owner)
    ]
    side = worded_side(head, blind, tokens, embedding)
    train_contrastive(head, blind, side, epochs=90, batch=20, progress=False)
    with torch.no_grad():
        pictures = head.embed_images(blind.features, blind.probabilities)
        found = (side(range(len(tokens))) @ pictures.T).argmax(dim=1)
        longer = torch.tensor([[*tokens[4], -1, -1]])
        padded = head.embed_texts(blind.sentences[[4]], longer, embedding)
        assert torch.allclose(side([4]), padded, atol=1e-6)  # nothing beyond the end is read
    assert float((found.numpy() == toy.owner).mean()) > 0.8


def test_what_only_the_lower_layers_show_is_learnt_and_hubs_are_known(config, toy):
    draw = torch.Generator().manual_seed(2)
    features = torch.zeros_like(toy.features)
    features[:, -1, :6] = 3 + 5 * torch.randn(PICTURES, 6, generator=draw)
    data = ContrastiveData(features, toy.probabilities, toy.sentences, toy.owner)
    tokens = [[int(one)] for one in toy.owner]
    embedding = torch.randn(PICTURES, config.text_config.hidden_size, generator=draw)
    torch.manual_seed(1)
    head = WordedHead(config)
    fit_matching(head, data, tokens, embedding, progress=False, epochs=120, batch=20)
    torch.testing.assert_close(head.lower_mean, features[:, -1, :6].mean(dim=0))
    with torch.no_grad():
        pictures = head.embed_images(features, toy.probabilities)
        texts = head.embed_texts(toy.sentences, padded_words(tokens), embedding)
    found = (texts @ pictures.T).argmax(dim=1).numpy()
    assert float((found == toy.owner).mean()) > 0.5  # by chance one in forty
    assert float(head.usual_shares.sum()) == pytest.approx(1)
    assert float(head.nearness(pictures).mean()) == pytest.approx(0, abs=1e-6)
    # What is nearest to all texts is nearest to the few that stand for them.
    near, to_all = head.nearness(pictures).numpy(), (20 * pictures @ texts.T).logsumexp(1).numpy()
    assert np.corrcoef(near, to_all)[0, 1] > 0.7


def test_fewer_texts_than_usual_queries_are_enough(config, toy):
    few = ContrastiveData(
        toy.features[:2], toy.probabilities[:2], toy.sentences[[0, 3]], np.array([0, 1])
    )
    embedding = torch.randn(4, config.text_config.hidden_size)
    head = WordedHead(config)
    fit_matching(head, few, [[0], [1]], embedding, progress=False, epochs=1)
    assert int((head.usual_shares > 0).sum()) == 2
    assert head.nearness(torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)).isfinite().all()


def test_texts_of_different_lengths_in_one_table():
    assert padded_words([[3], [], [4, 5]]).tolist() == [[3, -1], [-1, -1], [4, 5]]
    assert padded_words([[]]).tolist() == [[-1]]


def test_equal_seeds_give_equal_heads(config, toy):
    heads = []
    for noise in (3, 4):
        torch.manual_seed(9)
        head = ContrastiveHead(config)
        torch.manual_seed(noise)  # what happened before must not matter
        side = sentence_side(head, toy)
        train_contrastive(head, toy, side, epochs=2, batch=16, seed=5, progress=False)
        heads.append(head.state_dict())
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_labels_reach_sentence_space_through_the_shared_map(config):
    # What no caption taught is still known by its label's sentence.
    head = ContrastiveHead(config).eval()
    with torch.no_grad():
        for part in (head.image, head.text):
            for value in part.parameters():
                value.zero_()
        head.label_vectors.copy_(torch.randn(10, 12))
        seen = torch.eye(10)
        images = head.embed_images(torch.randn(10, 5, 24), seen)
        texts = head.embed_texts(head.label_vectors)
    torch.testing.assert_close(images, texts)
    assert "label_vectors" not in dict(head.named_parameters())
