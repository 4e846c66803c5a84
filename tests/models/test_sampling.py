"""Free answers."""

from __future__ import annotations

import pytest
import torch

from genmm_retriever.errors import InputError
from genmm_retriever.models.base import ImagePart, Prompt, TextPart
from genmm_retriever.models.sampling import TokenChooser, _beams

SAMPLED = {"max_new_tokens": 6, "num_return_sequences": 2, "temperature": 1.0}


def prompts_for(model, picture):
    """Three prompts that differ in length, or only in their picture."""
    if model.supports_images:
        return [Prompt((ImagePart(picture(30, 40, i)), TextPart("Describe."))) for i in range(3)]
    return [Prompt((TextPart(words),)) for words in ("Find: a dog", "Find: two cats", "x")]


def test_greedy_takes_the_best_tokens(mllm, picture):
    prompts = prompts_for(mllm, picture)
    wanted = []
    for prompt in prompts:
        state, tokens = mllm.prefill([prompt]), []
        while len(tokens) < 5 and (best := int(state.logits[0].argmax())) != mllm.eos_token_id:
            tokens.append(best)
            state = mllm.step(state, torch.tensor([0]), torch.tensor([best]))
        wanted.append([mllm.decode(tokens).strip()])
    assert mllm.generate(prompts, max_new_tokens=5) == wanted


def test_greedy_equals_transformers(build, picture):
    mllm = build("qwen3-vl")
    prompts = prompts_for(mllm, picture)
    for prompt, [found] in zip(prompts, mllm.generate(prompts, max_new_tokens=5), strict=True):
        inputs = mllm.accepted(mllm.encode_prompt(prompt))
        whole = mllm.model.generate(**inputs, max_new_tokens=5, do_sample=False)
        assert mllm.decode(whole[0, inputs["input_ids"].shape[1] :].tolist()).strip() == found


def test_beams_of_one_token_are_the_best_tokens(mllm, picture):
    prompts = prompts_for(mllm, picture)
    best = mllm.prefill(prompts).logits.topk(3).indices.tolist()
    wanted = [[mllm.decode([token]).strip() for token in row] for row in best]
    assert mllm.generate(prompts, max_new_tokens=1, num_return_sequences=3) == wanted


def test_beams_come_best_first(build):
    mllm = build("llama")
    prompt = Prompt((TextPart("Find: a dog"),))
    encoded = [mllm.encode_prompt(prompt)]
    beams = _beams(mllm, encoded, 4, 6)
    scores = [float(s.sum()) for s in mllm.score([prompt] * 6, beams)]
    assert scores == sorted(scores, reverse=True)
    assert len({tuple(beam) for beam in beams}) == 6


def test_samples_depend_on_seed_and_prompt_but_not_on_the_batch(mllm, picture):
    prompts = prompts_for(mllm, picture)
    together = mllm.generate(prompts, **SAMPLED, seed=3)
    alone = [mllm.generate([prompt], **SAMPLED, seed=3)[0] for prompt in prompts]
    assert together == alone
    assert together != mllm.generate(prompts, **SAMPLED, seed=4)
    assert len({text for row in together for text in row}) > 3


def test_global_random_state_is_left_alone(build):
    mllm = build("llama")
    before = torch.random.get_rng_state()
    mllm.generate(prompts_for(mllm, None), **SAMPLED)
    assert torch.equal(before, torch.random.get_rng_state())


def test_samples_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(4000, 3)
    chosen = TokenChooser(0.5, range(4000)).choose(logits, range(4000))
    found = torch.bincount(chosen, minlength=3) / 4000
    torch.testing.assert_close(found, torch.softmax(logits[0] / 0.5, 0), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": 0}, {"num_return_sequences": 0}, {"temperature": -1.0}]
)
def test_numbers_out_of_range_are_refused(build, wrong):
    with pytest.raises(InputError, match="generate needs"):
        build("llama").generate([Prompt((TextPart("x"),))], **wrong)
