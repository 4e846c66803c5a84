"""Prompts that are kept: the same scores as without, nothing run twice, nothing kept too long."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from genmm_retriever.models.base import ImagePart, Prompt, TextPart
from genmm_retriever.models.kept_prompts import KeptPrompts, prompt_key

from .test_transformers_mllm import close, plain, text_prompts, token_scores


@pytest.fixture
def fed(request, monkeypatch):
    """Counts tokens that a model is fed: `fed(model)` returns a list that grows with passes."""

    def counting(model):
        counts = []
        run = model.engine.forward.run

        def counted(inputs, *values, **options):
            counts.append(inputs["input_ids"].shape[1])
            return run(inputs, *values, **options)

        monkeypatch.setattr(model.engine.forward, "run", counted)
        return counts

    return counting


def fresh(model):
    """The model, which has kept nothing yet."""
    model.engine.kept = KeptPrompts(model.engine.tree)
    return model


def test_scores_are_those_of_plain_passes(mllm):
    """New ones, kept ones of other lengths and both together; every family."""
    fresh(mllm)
    prompts = [p for p in text_prompts() if p.answer or p.parts[0].text]
    for chosen in ([prompts[0]], prompts, [prompts[2], prompts[0]], [prompts[1], prompts[1]]):
        tails = [mllm.encode(text) for text in ("a dog", "cats", "b")[: len(chosen)]]
        found = mllm.score(chosen, tails)
        for prompt, tail, one in zip(chosen, tails, found, strict=True):
            close(one, token_scores(plain(mllm, prompt, tail), tail))
    assert len(mllm.engine.kept) == (len(prompts) if mllm.engine.can_grow_trees else 0)


def test_a_kept_prompt_is_not_run_again(tiny_builtin, noise, fed):
    model = fresh(tiny_builtin)
    features = model.encode_images([noise(seed=1), noise(seed=2)])
    prompts = [Prompt((ImagePart(features=one), TextPart("Describe."))) for one in features]
    tails = [model.encode("a red dog"), model.encode("sea")]
    first = model.score(prompts, tails)
    counts = fed(model)
    # As the index gives them next time: other objects with the same content.
    again = [Prompt((ImagePart(features=f.clone()), TextPart("Describe."))) for f in features]
    for one, other in zip(first, model.score(again, tails), strict=True):
        assert torch.equal(one, other)
    assert counts == [max(map(len, tails)) - 1]
    longer = Prompt((*prompts[0].parts, TextPart("In words.")))
    model.score([longer, prompts[1]], tails)
    assert len(counts) == 3
    assert len(model.engine.kept) == 3


def test_changed_weights_are_noticed(make_builtin, noise):
    from genmm_retriever.models.builtin import BuiltinMLLM

    model = BuiltinMLLM(*make_builtin(seed=3), name="own")
    features = model.encode_images([noise()])
    prompts, tails = [Prompt((ImagePart(features=features[0]),))], [model.encode("a dog")]
    before = model.score(prompts, tails)[0]
    with torch.no_grad():
        next(model.model.model.language_model.parameters()).mul_(1.5)
    after = model.score(prompts, tails)[0]
    assert not torch.allclose(before, after)
    assert torch.equal(after, model.score(prompts, tails)[0])
    assert len(model.engine.kept) == 1


def test_those_not_used_for_longest_go_first(tiny_builtin, fed):
    model = fresh(tiny_builtin)
    kept = model.engine.kept
    prompts = [Prompt((TextPart(letter),)) for letter in "abc"]
    tail = model.encode("sea")
    model.score(prompts[:1], [tail])
    kept.most_bytes = 2 * kept._bytes + 1
    # A sixteenth of the room at most for one prompt, and here two fill it.
    model.score(prompts[1:2], [tail])
    assert len(kept) == 1
    kept.most_bytes = 16 * kept._bytes
    for place in (*range(3), 0):
        model.score([prompts[place]], [tail])
    counts = fed(model)
    kept.most_bytes = 2 * kept._bytes // 3
    kept._put({}, None)
    assert len(kept) == 2
    model.score([prompts[0], prompts[2]], [tail, tail])
    assert len(counts) == 1
    model.score([prompts[1]], [tail])
    assert len(counts) == 3


def test_what_cannot_be_kept_is_scored_as_ever(tiny_builtin, noise):
    model = fresh(tiny_builtin)
    tail = model.encode("sea")
    pixels = Prompt((ImagePart(noise()), TextPart("Describe.")))
    text = Prompt((TextPart("x"),))
    assert prompt_key(pixels) is None
    assert [len(one) for one in model.score([pixels, text], [tail, tail])] == [len(tail)] * 2
    model.engine.kept.most_at_once = 1
    many = [Prompt((TextPart(word),)) for word in ("a", "b")]
    assert len(model.score(many, [tail, tail])) == 2
    model.engine.kept.most_at_once = 64
    per_pass, model.engine.tokens_per_pass = model.engine.tokens_per_pass, 8
    try:
        assert len(model.score(many, [tail, tail])) == 2
    finally:
        model.engine.tokens_per_pass = per_pass
    assert model.score([], []) == []
    assert len(model.engine.kept) == 0


def test_prompts_differ_by_all_that_they_are_made_of(noise):
    features = torch.arange(8, dtype=torch.float16).reshape(2, 4)
    prompts = [
        Prompt((TextPart("a"), TextPart("b"))),
        Prompt((TextPart("ab"),)),
        Prompt((TextPart("a"),), answer="b"),
        Prompt((ImagePart(features=features),)),
        Prompt((ImagePart(features=features.reshape(4, 2)),)),
        Prompt((ImagePart(features=features.float()),)),
        Prompt((ImagePart(features=features + 1),)),
        Prompt((ImagePart(features=features), ImagePart(features=features))),
    ]
    keys = [prompt_key(prompt) for prompt in prompts]
    assert None not in keys
    assert len(set(keys)) == len(prompts)
    assert prompt_key(Prompt((ImagePart(features=features.clone()),))) == keys[3]


def test_eight_threads_at_once(tiny_builtin):
    model = fresh(tiny_builtin)
    prompts = [Prompt((TextPart(letter * n),)) for n, letter in enumerate("abcdefgh", start=1)]
    tail = model.encode("sea")
    wanted = [model.score([prompt], [tail])[0] for prompt in prompts]
    model.engine.kept.most_bytes = 20 * model.engine.kept._bytes // 8

    def ask(number):
        chosen = [prompts[(number + step) % 8] for step in range(3)]
        return chosen, model.score(chosen, [tail] * 3)

    with ThreadPoolExecutor(8) as pool:
        for chosen, found in pool.map(ask, range(64)):
            for prompt, one in zip(chosen, found, strict=True):
                close(one, wanted[prompts.index(prompt)])
