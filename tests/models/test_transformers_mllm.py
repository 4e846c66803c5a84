"""prefill, step, score and score_from against a plain forward pass of each sequence alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from genmm_retriever.errors import InputError
from genmm_retriever.models.base import MLLM, ImagePart, Prompt, TextPart
from genmm_retriever.models.transformers_mllm import TransformersMLLM

Picture = Callable[..., Image.Image]
TAILS = ["a red dog", "b", "two cats on it", "sea"]


def text_prompts() -> list[Prompt]:
    """Prompts of several lengths."""
    words = ["Find: a dog", "Find: two cats asleep on a red sofa", "", "x"]
    return [Prompt((TextPart(w),), answer="It is " if i == 1 else "") for i, w in enumerate(words)]


def image_prompts(picture: Picture) -> list[Prompt]:
    """One picture, two of different sizes, none, and one between words."""
    return [
        Prompt((ImagePart(picture(40, 30, 1)), TextPart("Describe."))),
        Prompt((ImagePart(picture(64, 20, 2)), ImagePart(picture(24, 48, 3)), TextPart("Both?"))),
        Prompt((TextPart("Find: a dog"),)),
        Prompt((TextPart("See"), ImagePart(picture(33, 57, 4)), TextPart("there, in red"))),
    ]


def plain(model: TransformersMLLM, prompt: Prompt, tail: Sequence[int]) -> Tensor:
    """Log-probabilities [len(tail) + 1, V] by the model's own forward, unbatched, no cache."""
    inputs = dict(model.encode_prompt(prompt))
    length = inputs["input_ids"].shape[1]
    for key, fill in (("input_ids", None), ("attention_mask", 1), ("mm_token_type_ids", 0)):
        if key in inputs:
            more = torch.tensor([tail]) if fill is None else torch.full((1, len(tail)), fill)
            inputs[key] = torch.cat([inputs[key], more.long()], dim=1)
    with torch.no_grad():
        logits = model.model(**model.accepted(inputs), use_cache=False).logits[0, length - 1 :]
    return torch.log_softmax(logits.float(), -1)


def token_scores(logprobs: Tensor, tail: Sequence[int]) -> Tensor:
    """What a plain pass says about each token of the tail."""
    return logprobs[torch.arange(len(tail)), torch.tensor(tail)]


def prompts_for(model: TransformersMLLM, picture: Picture) -> list[Prompt]:
    """The hardest prompts that the model takes."""
    return image_prompts(picture) if model.supports_images else text_prompts()


def close(found: Tensor, wanted: Tensor) -> None:
    """Equal up to float32 noise."""
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_is_an_mllm(mllm: TransformersMLLM) -> None:
    assert isinstance(mllm, MLLM)


def test_prefill_equals_plain_forward(mllm: TransformersMLLM, picture: Picture) -> None:
    prompts = prompts_for(mllm, picture)
    state = mllm.prefill(prompts)
    assert state.logits.shape == (4, mllm.vocab_size)
    assert state.logits.dtype == torch.float32
    assert state.query.tolist() == [0, 1, 2, 3]
    for row, prompt in enumerate(prompts):
        close(torch.log_softmax(state.logits[row], -1), plain(mllm, prompt, [])[0])


def test_steps_equal_plain_forward(mllm: TransformersMLLM, picture: Picture) -> None:
    prompts = prompts_for(mllm, picture)
    state = mllm.prefill(prompts)
    histories: list[tuple[int, list[int]]] = [(row, []) for row in range(4)]
    letters = [mllm.encode(c)[0] for c in "abcdefgh"]
    for parents in ([3, 0, 0, 1, 2], [4, 4, 1, 0], [0, 1, 2, 3], [2, 0], [1]):
        tokens = [letters[i] for i in range(len(parents))]
        state = mllm.step(state, torch.tensor(parents), torch.tensor(tokens))
        histories = [
            (histories[p][0], [*histories[p][1], t]) for p, t in zip(parents, tokens, strict=True)
        ]
        assert state.query.tolist() == [query for query, _ in histories]
        for row, (query, tail) in enumerate(histories):
            wanted = plain(mllm, prompts[query], tail)[-1]
            close(torch.log_softmax(state.logits[row], -1), wanted)


def test_score_equals_plain_forward(mllm: TransformersMLLM, picture: Picture) -> None:
    prompts = prompts_for(mllm, picture)
    tails = [mllm.encode(text) for text in TAILS]
    for prompt, tail, found in zip(prompts, tails, mllm.score(prompts, tails), strict=True):
        close(found, token_scores(plain(mllm, prompt, tail), tail))


def test_score_runs_equal_prompts_once(mllm: TransformersMLLM, picture: Picture) -> None:
    first, second, *_ = prompts_for(mllm, picture)
    prompts = [first, second, first, first]
    tails = [mllm.encode(text) for text in TAILS]
    for prompt, tail, found in zip(prompts, tails, mllm.score(prompts, tails), strict=True):
        close(found, token_scores(plain(mllm, prompt, tail), tail))


def test_score_from_equals_plain_forward(mllm: TransformersMLLM, picture: Picture) -> None:
    prompts = prompts_for(mllm, picture)
    start = mllm.encode("a")[0]
    parents = torch.tensor([1, 1, 3, 0])
    state = mllm.step(mllm.prefill(prompts), torch.arange(4), torch.tensor([start] * 4))
    before = state.logits.clone()
    tails = [mllm.encode(text) for text in TAILS]
    for _ in range(2):  # the state is left as it was
        found = mllm.score_from(state, parents, tails)
        for parent, tail, score in zip(parents.tolist(), tails, found, strict=True):
            wanted = token_scores(plain(mllm, prompts[parent], [start, *tail])[1:], tail)
            close(score, wanted)
    assert torch.equal(state.logits, before)
    after = mllm.step(state, torch.tensor([2]), torch.tensor([start]))
    close(torch.log_softmax(after.logits[0], -1), plain(mllm, prompts[2], [start, start])[-1])


def test_passes_are_cut_to_the_budget(
    mllm: TransformersMLLM, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mllm.engine.kept, "most_at_once", 0)
    prompts = prompts_for(mllm, picture)
    tails = [mllm.encode(text) for text in TAILS]
    parents = torch.tensor([3, 2, 1, 0])
    whole = mllm.score(prompts, tails)
    packed = mllm.score_from(mllm.prefill(prompts), parents, tails)
    monkeypatch.setattr(mllm.engine, "tokens_per_pass", 60)
    monkeypatch.setattr(mllm, "batch_size", 3)
    for one, other in zip(whole, mllm.score(prompts, tails), strict=True):
        close(one, other)
    again = mllm.score_from(mllm.prefill(prompts), parents, tails)
    for one, other in zip(packed, again, strict=True):
        close(one, other)


def test_equal_prompts_are_cut_to_the_budget_too(build: Callable[[str], TransformersMLLM]) -> None:
    mllm = build("llama")
    short = [Prompt((TextPart(f"number {i}"),)) for i in range(6)]
    prompts = [Prompt((TextPart("word " * 60),)), *short, short[0]]
    tails = [mllm.encode("cat")] * len(prompts)
    expected = [
        mllm.score([prompt], [tail])[0] for prompt, tail in zip(prompts, tails, strict=True)
    ]
    fed: list[int] = []
    run = mllm.engine.forward.run

    def counted(inputs: dict[str, torch.Tensor], *given: Any, **named: Any) -> Any:
        fed.append(inputs["input_ids"].numel())
        return run(inputs, *given, **named)

    mllm.engine.kept.most_at_once = 0  # as if they were too many to be kept
    mllm.engine.forward.run = counted  # type: ignore[method-assign]
    try:
        scores = mllm.score(prompts, tails)
    finally:
        mllm.engine.forward.run = run  # type: ignore[method-assign]
        mllm.engine.kept.most_at_once = 128
    for score, right in zip(scores, expected, strict=True):
        torch.testing.assert_close(score, right, atol=1e-4, rtol=1e-4)
    # The short ones are not padded to the long one.
    longest = max(fed)
    assert sum(fed) < 2 * longest


def test_head_sees_only_scored_positions(
    build: Callable[[str], TransformersMLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    mllm = build("llama")
    monkeypatch.setattr(mllm.engine.kept, "most_at_once", 0)
    mllm.can_gather  # noqa: B018 - the probe is not what is counted
    rows = []
    head = mllm.model.lm_head
    hook = head.register_forward_hook(lambda module, args, out: rows.append(out.shape[:-1].numel()))
    try:
        tails = [mllm.encode(text) for text in TAILS]
        mllm.score(text_prompts(), tails)
    finally:
        hook.remove()
    assert sum(rows) == sum(map(len, tails))


def test_empty_continuation_is_refused(build: Callable[[str], TransformersMLLM]) -> None:
    mllm = build("llama")
    with pytest.raises(InputError, match="empty"):
        mllm.score([text_prompts()[0]], [[]])
    with pytest.raises(InputError, match="2 continuations were given for 1 rows"):
        mllm.score([text_prompts()[0]], [[1], [1]])


def test_recomputing_is_chosen_by_itself(build: Callable[[str], TransformersMLLM]) -> None:
    assert not build("mamba").can_gather
    assert not build("lfm2-hybrid").can_gather
    assert build("mistral-sliding").can_gather
