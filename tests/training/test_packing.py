"""Packed answers are scored as if each stood alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm_retriever.training.builtin.packing import LENGTH_STEP, answer_logprobs, pack

EOS = 2
tokens = st.lists(st.integers(3, 258), min_size=1, max_size=7)
rows = st.lists(
    st.tuples(tokens, st.booleans(), st.lists(tokens, min_size=0, max_size=4)),
    min_size=1,
    max_size=3,
).filter(lambda rows: any(answers for _, _, answers in rows))


@pytest.fixture(scope="module")
def model(make_builtin):
    return make_builtin(seed=1)[0]


def packed(model, prompts, answers, features):
    batch = pack(prompts, answers, eos=EOS)
    embeds = model.model.embed(batch.input_ids, image_features=features)
    hidden = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask=batch.mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    return answer_logprobs(hidden, model.lm_head, batch)


def alone(model, prompt, answer, features):
    """log p(answer and its end | prompt) by one bare forward pass."""
    fed = torch.tensor([[*prompt, *answer]])
    logits = model(input_ids=fed, image_features=features).logits[0, len(prompt) - 1 :]
    wanted = torch.tensor([*answer, EOS])
    return logits.log_softmax(-1)[torch.arange(len(wanted)), wanted].sum()


@settings(max_examples=25, deadline=None)
@given(rows)
def test_packed_is_as_if_alone(model, rows):
    config = model.config
    picture = [config.image_token_id] * config.image_seq_length
    prompts = [[1, *(picture if seen else []), *words] for words, seen, _ in rows]
    answers = [some for _, _, some in rows]
    with_picture = [seen for _, seen, _ in rows]
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(sum(with_picture), 4, 1280, generator=draw)
    with torch.no_grad():
        total, nll = packed(model, prompts, answers, features if any(with_picture) else None)
        expected, at = [], 0
        for prompt, seen, some in zip(prompts, with_picture, answers, strict=True):
            own = features[at : at + 1] if seen else None
            at += seen
            expected += [alone(model, prompt, answer, own) for answer in some]
    torch.testing.assert_close(total, torch.stack(expected), rtol=1e-4, atol=1e-3)
    count = sum(len(answer) + 1 for some in answers for answer in some)
    torch.testing.assert_close(nll, -total.sum() / count, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_separate_passes(model):
    prompt, answers = [1, 30, 31], [[40, 41], [50], [60, 61, 62]]
    weight = model.model.language_model.layers[0].self_attn.q_proj.weight
    total, _ = packed(model, [prompt], [answers], None)
    (found,) = torch.autograd.grad(total.sum(), weight)
    separate = torch.stack([alone(model, prompt, answer, None) for answer in answers])
    (expected,) = torch.autograd.grad(separate.sum(), weight)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@settings(deadline=None)
@given(st.lists(st.tuples(tokens, st.lists(tokens, max_size=4)), min_size=1, max_size=4))
def test_what_sees_what(rows):
    batch = pack([prompt for prompt, _ in rows], [some for _, some in rows], eos=EOS)
    length = batch.input_ids.shape[1]
    assert length % LENGTH_STEP == 0
    assert batch.answers == sum(len(some) for _, some in rows)
    assert batch.mask.shape == (len(rows), 1, length, length)
    for r, (prompt, some) in enumerate(rows):
        # Owner of each place: 0 the prompt, n the n-th answer, None nothing.
        owner = [0] * len(prompt) + [n for n, text in enumerate(some, 1) for _ in text]
        owner += [None] * (length - len(owner))
        for i in range(length):
            seen = {j for j in range(length) if batch.mask[r, 0, i, j]}
            assert i in seen
            if owner[i] is None:
                continue
            assert seen == {j for j in range(i + 1) if owner[j] in (0, owner[i])}
    assert batch.target.tolist() == [t for _, some in rows for text in some for t in [*text, EOS]]


def test_several_devices_are_not_needed_for_the_targets():
    # Targets are made on the CPU; hidden states may come from elsewhere.
    batch = pack([[1, 4]], [[[5, 6]]], eos=EOS)
    hidden = torch.randn(1, batch.input_ids.shape[1], 8, device="meta")
    total, nll = answer_logprobs(hidden, torch.nn.Linear(8, 12, device="meta"), batch)
    assert (total.device.type, total.shape, nll.shape) == ("meta", (1,), ())


def test_means_are_by_token_not_by_answer():
    batch = pack([[1]], [[[5, 6, 7], [8]]], eos=EOS)
    hidden = torch.zeros(1, batch.input_ids.shape[1], 4)
    total, nll = answer_logprobs(hidden, torch.nn.Linear(4, 16, bias=False), batch)
    expected = torch.log(torch.tensor(16.0))
    torch.testing.assert_close(total, -expected * torch.tensor([4.0, 2.0]))
    torch.testing.assert_close(nll, expected)
