"""The loss and its gradients, on tiny models of every kind of cache."""

from __future__ import annotations

import pytest
import torch

from genmm_retriever.describing import identify_prompt, null_prompt
from genmm_retriever.models.base import ImagePart
from genmm_retriever.training.learner import Learner
from genmm_retriever.training.lessons import Lesson
from genmm_retriever.training.lora import Adapted, language_layers

KINDS = [
    "llama",
    "mistral-sliding",
    "gemma2-softcap",
    "mamba",
    "lfm2-hybrid",
    "llava",
    "qwen3-vl",
    "idefics3",
    "smolvlm",
    "internvl",
]


def lessons_for(model, noise):
    answers = [
        [*model.encode(text), model.eos_token_id] for text in ("dog", "cat", "red", "boat, sea")
    ]
    lessons = [
        Lesson(identify_prompt("a dog", None, model), answers[:2]),
        Lesson(identify_prompt("red", None, model), answers[2:3]),
        Lesson(null_prompt(model), answers[3:]),
    ]
    if model.supports_images:
        prompt = identify_prompt(None, ImagePart(image=noise(20, 20)), model)
        lessons.append(Lesson(prompt, answers[2:]))
    return lessons


def gradients(adapted, *groups):
    for value in adapted.trainable.values():
        value.grad = None
    weights = [sum(len(a) for one in group for a in one.answers) for group in groups]
    learner = Learner(adapted.mllm)
    losses = [learner.step(group) for group in groups]
    grads = {n: v.grad.clone() for n, v in adapted.trainable.items() if v.grad is not None}
    return sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights), grads


@pytest.mark.parametrize("kind", KINDS)
def test_few_steps_learn_a_few_answers_and_leave_the_model_as_it_was(build, noise, kind):
    model = build(kind).copy()
    lessons = lessons_for(model, noise)
    fingerprint = model.fingerprint
    untouched = {n: v.detach().clone() for n, v in model.model.named_parameters()}
    adapted = Adapted(model, rank=4, alpha=8)
    learner = Learner(model)
    optimiser = torch.optim.AdamW(list(adapted.trainable.values()), lr=2e-2)
    before = learner.loss(lessons)
    for _ in range(16):
        optimiser.zero_grad()
        learner.step(lessons)
        optimiser.step()
    assert learner.loss(lessons) < before - 1.0
    assert all(value.grad is not None for value in adapted.trainable.values())
    assert not any("vision" in name or "visual" in name for name in adapted.trainable)
    adapted.remove()
    assert learner.loss(lessons) == pytest.approx(before, abs=1e-4)
    after = dict(model.model.named_parameters())
    assert after.keys() == untouched.keys()
    assert all(torch.equal(value, untouched[name]) for name, value in after.items())
    model._fingerprint = None
    assert model.fingerprint == fingerprint


@pytest.mark.parametrize("kind", ["llama", "mistral-sliding", "qwen3-vl"])
def test_answers_that_share_a_prompt_have_the_gradients_they_have_alone(build, noise, kind):
    model = build(kind).copy()
    lessons = lessons_for(model, noise)
    adapted = Adapted(model, rank=4, alpha=8, seed=1)
    with torch.no_grad():  # LoRA begins at zero, where half of the gradients vanish
        for value in adapted.trainable.values():
            value.normal_(std=0.1)
    loss, packed = gradients(adapted, lessons)
    alone = [Lesson(one.prompt, [answer]) for one in lessons for answer in one.answers]
    tokens = sum(len(answer) for one in lessons for answer in one.answers)
    loss_alone, separate = gradients(adapted, *[[one] for one in alone])
    assert loss == pytest.approx(loss_alone, rel=1e-4)
    assert packed.keys() == separate.keys()
    # Each step has the mean over its own tokens; weigh them as the packed step does.
    summed = {name: torch.zeros_like(value) for name, value in packed.items()}
    for one in alone:
        _, grads = gradients(adapted, [one])
        for name, value in grads.items():
            summed[name] += value * len(one.answers[0]) / tokens
    for name, value in packed.items():
        assert torch.allclose(value, summed[name], atol=1e-5, rtol=1e-3), name
    adapted.remove()


def test_the_loss_is_what_retrieval_scores(build):
    model = build("llama").copy()
    tokens = [*model.encode("dog"), model.eos_token_id]
    prompt = identify_prompt("a dog", None, model)
    [scored] = model.score([prompt], [tokens])
    assert Learner(model).loss([Lesson(prompt, [tokens])]) == pytest.approx(
        -float(scored.mean()), abs=1e-5
    )


@pytest.mark.parametrize("kind", ["llama", "llava", "qwen3-vl", "smolvlm"])
def test_the_head_and_what_sees_are_not_adapted(build, kind):
    names = language_layers(build(kind).model)
    assert names
    assert all("layers" in name for name in names)
    assert not any("lm_head" in name or "vision" in name or "visual" in name for name in names)
    kinds = {name.rpartition(".")[2] for name in names}
    assert {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} <= kinds
