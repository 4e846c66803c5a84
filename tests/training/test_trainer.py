"""The training loop: what it trains, and that interrupting it changes nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from genmm_retriever.training.builtin import checkpoint, trainer
from genmm_retriever.training.builtin.packing import pack
from genmm_retriever.training.builtin.stages import Curriculum
from genmm_retriever.training.builtin.train import add_adapter
from genmm_retriever.training.builtin.trainer import Learner, Stage, run_stage


class Interrupted(Exception):
    pass


@pytest.fixture
def fresh(make_builtin):
    """Makes learners that begin with equal weights."""

    def make():
        model, processor = make_builtin(seed=2)
        torch.manual_seed(6)
        add_adapter(model)
        return Learner(model, torch.device("cpu")), processor.tokenizer

    return make


def losses(captioned, learner, tokenizer, stop=None):
    config = learner.model.config
    for number, loss in enumerate(Curriculum(captioned, tokenizer, config).captioning(3)):
        if number == stop:
            raise Interrupted
        yield loss


def weights(learner):
    return {name: value.detach().clone() for name, value in learner.trainable.items()}


def test_only_adapter_projector_and_object_words_are_trained(fresh, captioned, tmp_path):
    learner, tokenizer = fresh()
    assert learner.trainable
    assert all(
        "lora_" in name or name.startswith(("model.projector.", "model.objects."))
        for name in learner.trainable
    )
    assert any("lora_" in name for name in learner.trainable)
    before = {n: v.clone() for n, v in learner.model.named_parameters()}
    run_stage(
        learner,
        Stage("a", steps=3, warmup=1),
        losses(captioned, learner, tokenizer),
        tmp_path,
        progress=False,
    )
    moved = {n for n, v in learner.model.named_parameters() if not torch.equal(v, before[n])}
    assert moved <= set(learner.trainable)
    assert {"model.projector.up.weight", "model.projector.place"} <= moved
    assert any("lora_B" in name for name in moved)


def test_loss_goes_down(fresh, captioned, tmp_path):
    learner, tokenizer = fresh()
    seen = []

    def watched():
        for loss in losses(captioned, learner, tokenizer):

            def record(learner, loss=loss):
                out, metrics = loss(learner)
                seen.append(metrics["nll"])
                return out, metrics

            yield record

    stage = Stage("a", steps=30, learning_rate=2e-2, projector_rate=5e-3, warmup=3)
    means = run_stage(learner, stage, watched(), tmp_path, progress=False)
    assert sum(seen[-5:]) < 0.7 * sum(seen[:5])
    assert means["steps"] == 30
    assert seen[-1] < means["nll"] < seen[0]


def test_interrupted_is_as_unbroken(fresh, captioned, tmp_path):
    stage = Stage("captioning", steps=7, warmup=2, save_every=2)
    learner, tokenizer = fresh()
    expected = run_stage(
        learner, stage, losses(captioned, learner, tokenizer), tmp_path / "one", progress=False
    )
    other, _ = fresh()
    broken = losses(captioned, other, tokenizer, stop=5)
    with pytest.raises(Interrupted):
        run_stage(other, stage, broken, tmp_path / "two", progress=False)
    # A new process: fresh weights, a fresh optimiser, another random state.
    again, _ = fresh()
    torch.manual_seed(12345)
    found = run_stage(
        again, stage, losses(captioned, again, tokenizer), tmp_path / "two", progress=False
    )
    assert found == expected
    for name, value in weights(learner).items():
        assert torch.equal(value, again.trainable[name]), name
    one = load_file(tmp_path / "one/captioning/state.safetensors")
    two = load_file(tmp_path / "two/captioning/state.safetensors")
    assert one.keys() == two.keys()
    assert any(name.startswith("exp_avg_sq.") for name in one)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_finished_stage_is_skipped_but_its_weights_are_taken(fresh, captioned, tmp_path):
    stage = Stage("captioning", steps=2, warmup=1)
    learner, tokenizer = fresh()
    means = run_stage(
        learner, stage, losses(captioned, learner, tokenizer), tmp_path, progress=False
    )
    other, _ = fresh()
    never = losses(captioned, other, tokenizer, stop=0)
    assert run_stage(other, stage, never, tmp_path, progress=False) == means
    for name, value in weights(learner).items():
        assert torch.equal(value, other.trainable[name])


def test_a_checkpoint_holds_weights_optimiser_and_progress(tmp_path):
    def made(seed):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(3, 2)
        optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1)
        layer(torch.ones(1, 3)).sum().backward()
        optimiser.step()
        return dict(layer.named_parameters()), optimiser

    one, its = made(0)
    assert checkpoint.load(tmp_path, one, its) is None
    checkpoint.save(tmp_path, one, its, {"step": 4, "means": {"nll": 1.5}})
    other, theirs = made(1)
    assert checkpoint.load(tmp_path, other, theirs) == {"step": 4, "means": {"nll": 1.5}}
    for name in one:
        assert torch.equal(one[name], other[name])
        for key, value in its.state[one[name]].items():
            assert torch.equal(value, theirs.state[other[name]][key])
    assert checkpoint.load(tmp_path, made(2)[0], None) is not None


def test_a_kill_while_saving_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    layer = torch.nn.Linear(2, 2)
    parameters = dict(layer.named_parameters())
    optimiser = torch.optim.AdamW(layer.parameters())
    checkpoint.save(tmp_path, parameters, optimiser, {"step": 1})

    def half_written(tensors, path, metadata):
        path.write_bytes(b"half")
        raise Interrupted

    monkeypatch.setattr(checkpoint, "save_file", half_written)
    with pytest.raises(Interrupted):
        checkpoint.save(tmp_path, parameters, optimiser, {"step": 2})
    assert checkpoint.load(tmp_path, parameters, optimiser) == {"step": 1}


def test_the_rate_warms_up_and_decays(fresh, tmp_path, monkeypatch):
    learner, _ = fresh()
    rates = []

    class Watched(torch.optim.AdamW):
        def step(self, closure=None):
            rates.append([group["lr"] for group in self.param_groups])

    monkeypatch.setattr(trainer.torch.optim, "AdamW", Watched)

    def constant(learner):
        return sum(p.sum() for p in learner.trainable.values()) * 0, {}

    stage = Stage("a", steps=20, learning_rate=1.0, projector_rate=2.0, warmup=4)
    run_stage(learner, stage, iter([constant] * 20), tmp_path, progress=False)
    adapter = [one for one, _ in rates]
    assert [two for _, two in rates] == [2 * one for one in adapter]
    assert adapter[0] == pytest.approx(0.25)
    assert adapter[:4] == sorted(adapter[:4])
    assert adapter[4:] == sorted(adapter[4:], reverse=True)
    assert 0.1 < adapter[-1] < 0.12


def test_minutes_end_a_stage_and_count_as_finished(fresh, tmp_path, monkeypatch):
    learner, _ = fresh()
    clock = SimpleNamespace(now=0.0)

    def tick():
        clock.now += 10.0
        return clock.now

    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=tick))  # of nobody else

    def constant(learner):
        return sum(p.sum() for p in learner.trainable.values()) * 0, {"nll": 1.0}

    stage = Stage("a", steps=1000, minutes=1.0)
    means = run_stage(learner, stage, iter([constant] * 1000), tmp_path, progress=False)
    assert means == {"nll": 1.0, "steps": 5}
    assert run_stage(learner, stage, iter([]), tmp_path, progress=False) == means


def test_scores_in_training_are_those_of_the_model(fresh):
    learner, _ = fresh()
    model = learner.model
    picture = [model.config.image_token_id] * model.config.image_seq_length
    features = torch.randn(1, 4, 1280)
    batch = pack([[1, *picture, 40, 2]], [[[50, 51], [60]]], eos=2)
    model.eval()
    with torch.no_grad():
        total, _ = learner.logprobs(batch, features)
        ids = torch.tensor([[1, *picture, 40, 2, 60]])
        logits = model(input_ids=ids, image_features=features).logits[0, -2:].log_softmax(-1)
    # Training computes in bfloat16.
    assert float(total[1]) == pytest.approx(float(logits[0, 60] + logits[1, 2]), abs=0.3)
