"""`extend`: several tokens a row in one pass, against plain forward passes, for every family."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from genmm_retriever.errors import InputError
from genmm_retriever.models import tree_rows
from genmm_retriever.models.base import Prompt, TextPart
from genmm_retriever.models.branches import Branches
from genmm_retriever.models.transformers_mllm import TransformersMLLM
from genmm_retriever.models.tree_rows import TreeCache

from .test_transformers_mllm import close, plain, prompts_for, token_scores

Picture = Callable[..., Image.Image]


def letters(mllm: TransformersMLLM, text: str) -> list[int]:
    return [mllm.encode(letter)[0] for letter in text]


def test_branches_begin_once() -> None:
    grown = Branches.of([4, 4, 2, 4], [[7, 8], [7, 9], [7, 8], [7, 8, 5]])
    assert grown.tokens == [7, 8, 9, 7, 8, 5]
    assert grown.rows == [4, 4, 4, 2, 2, 4]
    assert grown.parents == [-1, 0, 0, -1, 3, 1]
    assert grown.depths == [0, 1, 1, 0, 1, 2]
    assert grown.paths == [[0, 1], [0, 2], [3, 4], [0, 1, 5]]


def test_a_node_sees_its_own_ancestors() -> None:
    grown = Branches.of([0, 0, 1], [[7, 8], [7, 9], [7]])
    seen = [row.nonzero().flatten().tolist() for row in grown.ancestors()]
    assert seen == [[0], [0, 1], [0, 2], [3]]


def test_extend_equals_plain_forward(mllm: TransformersMLLM, picture: Picture) -> None:
    """Branches of all lengths, some ending, over prompts of all lengths, many times over."""
    prompts = prompts_for(mllm, picture)
    noise = random.Random(3)
    state = mllm.prefill(prompts)
    histories: list[tuple[int, list[int]]] = [(row, []) for row in range(4)]
    words = ["a", "bc", "bd", "bde", "f", "bcc"]
    for _ in range(4):
        parents = [noise.randrange(len(histories)) for _ in range(7)]
        tails = [letters(mllm, noise.choice(words)) for _ in parents]
        ends = [noise.random() < 0.4 for _ in parents]
        ends[0] = False
        before = state.logits.clone()
        after, sums = mllm.extend(state, torch.tensor(parents), tails, ends)
        assert torch.equal(before, state.logits)
        for parent, tail, total in zip(parents, tails, sums, strict=True):
            query, written = histories[parent]
            logprobs = plain(mllm, prompts[query], [*written, *tail])
            scores = token_scores(logprobs[:-1], [*written, *tail])
            close(total, scores[len(written) :].sum())
        histories = [
            (histories[p][0], [*histories[p][1], *t])
            for p, t, end in zip(parents, tails, ends, strict=True)
            if not end
        ]
        assert after.query.tolist() == [query for query, _ in histories]
        for row, (query, written) in enumerate(histories):
            wanted = plain(mllm, prompts[query], written)[-1]
            close(torch.log_softmax(after.logits[row], -1), wanted)
            close(after.logits[row] - after.normaliser[row], wanted)
        state = after


@pytest.mark.parametrize("kind", ["llama", "mistral-sliding", "mamba"])
def test_a_state_may_be_extended_twice(build: Callable[[str], TransformersMLLM], kind: str) -> None:
    mllm = build(kind)
    state = mllm.prefill([Prompt((TextPart("x"),)), Prompt((TextPart("y z"),))])
    parents, tails = torch.tensor([1, 0, 1]), [letters(mllm, t) for t in ("ab", "c", "ad")]
    first, sums = mllm.extend(state, parents, tails, [False, True, False])
    second, again = mllm.extend(state, parents, tails, [False, True, False])
    assert torch.equal(sums, again)
    assert torch.equal(first.logits, second.logits)
    close(torch.stack([s.sum() for s in mllm.score_from(state, parents, tails)]), sums)


def test_many_ending_tails_are_cut_into_passes(
    build: Callable[[str], TransformersMLLM],
) -> None:
    mllm = build("llama")
    state = mllm.prefill([Prompt((TextPart("x"),))])
    tails = [letters(mllm, f"{a}{b}cd") for a in "abcdefgh" for b in "efg"]
    parents, ends = torch.zeros(len(tails), dtype=torch.int64), [True] * len(tails)
    _, whole = mllm.extend(state, parents, tails, ends)
    tree = mllm.engine.tree
    before, tree.nodes_at_once = tree.nodes_at_once, 10
    try:
        _, cut = mllm.extend(state, parents, tails, ends)
    finally:
        tree.nodes_at_once = before
    close(cut, whole)


@pytest.mark.parametrize("most", [12, 1024])
def test_queries_together_cost_no_more_than_alone(
    build: Callable[[str], TransformersMLLM], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Trees of very different sizes: few tokens are spent on making them equal."""
    mllm = build("llama")
    tree = mllm.engine.tree
    monkeypatch.setattr(tree, "nodes_at_once", most)
    monkeypatch.setattr(tree_rows, "pass_cost", lambda device: 4)
    fed: list[int] = []
    run = mllm.engine.forward.run

    def counting(inputs: Any, *values: Any, **options: Any) -> Any:
        fed.append(inputs["input_ids"].numel())
        return run(inputs, *values, **options)

    monkeypatch.setattr(mllm.engine.forward, "run", counting)
    prompts = [Prompt((TextPart(text),)) for text in ("x", "yy", "z")]
    words = [["ab", "cd"], ["a"], [f"{a}{b}{c}e" for a in "ab" for b in "cd" for c in "fgh"]]
    alone: list[torch.Tensor] = []
    spent = 0
    for prompt, own in zip(prompts, words, strict=True):
        state = mllm.prefill([prompt])
        fed.clear()
        parents = torch.zeros(len(own) + 1, dtype=torch.int64)
        tails = [letters(mllm, word) for word in ("k", *own)]
        _, sums = mllm.extend(state, parents, tails, [False] + [True] * len(own))
        spent += sum(fed)
        alone.append(sums)
    state = mllm.prefill(prompts)
    fed.clear()
    parents = torch.tensor([row for row, own in enumerate(words) for _ in range(len(own) + 1)])
    tails = [letters(mllm, word) for own in words for word in ("k", *own)]
    ends = [flag for own in words for flag in [False] + [True] * len(own)]
    after, sums = mllm.extend(state, parents, tails, ends)
    close(sums, torch.cat(alone))
    assert after.query.tolist() == [0, 1, 2]
    assert sum(fed) <= spent + 4
    # Whoever ends here is fed no more.
    fed.clear()
    after, _ = mllm.extend(after, torch.tensor([2, 0]), [tails[0]] * 2, [False, True])
    assert after.query.tolist() == [2]
    assert sum(fed) == 1
    logprobs = plain(mllm, prompts[2], [*tails[0], *tails[0]])[-1]
    close(torch.log_softmax(after.logits[0], -1), logprobs)


def test_the_cache_forgets_what_no_row_sees(
    build: Callable[[str], TransformersMLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_rows, "_UNSEEN", 64)
    mllm = build("llama")
    prompts = [Prompt((TextPart("x" * n),)) for n in (1, 5, 3)]
    state = mllm.prefill(prompts)
    cache = state.cache
    assert isinstance(cache, TreeCache)
    tokens = letters(mllm, "abcdefghijklmnopqrstuvwxyz")
    written: list[int] = []
    for token in tokens[:8]:
        # 20 branches of one query, of which one lives on.
        parents = torch.full((20,), 1 if not written else 0)
        tails = [[token, other] for other in tokens[:20]]
        state, _ = mllm.extend(state, parents, tails, [False] * 20)
        state = mllm.step(state, torch.tensor([4]), torch.tensor([token]))
        written += [token, tokens[4], token]
    cache = state.cache
    assert isinstance(cache, TreeCache)
    assert len(cache.prompt) == 1
    assert cache.visible.shape[1] <= len(written) + 64 + 21
    assert cache.past.get_seq_length() == cache.prompt.shape[1] + cache.visible.shape[1]
    close(torch.log_softmax(state.logits[0], -1), plain(mllm, prompts[1], written)[-1])


def test_extending_by_nothing_gives_no_rows(build: Callable[[str], TransformersMLLM]) -> None:
    mllm = build("llama")
    state = mllm.prefill([Prompt((TextPart("x"),))])
    after, sums = mllm.extend(state, torch.zeros(0, dtype=torch.int64), [], [])
    assert len(after.logits) == len(sums) == 0


def test_wrong_arguments_are_refused(build: Callable[[str], TransformersMLLM]) -> None:
    llama, mamba = build("llama"), build("mamba")
    state = llama.prefill([Prompt((TextPart("x"),))])
    with pytest.raises(InputError, match="empty"):
        llama.extend(state, torch.tensor([0]), [[]], [False])
    with pytest.raises(InputError, match="2 ends"):
        llama.extend(state, torch.tensor([0]), [[5]], [False, True])
    other = mamba.prefill([Prompt((TextPart("x"),))])
    other.cache = "of something else"
    with pytest.raises(InputError, match="another model"):
        llama.extend(other, torch.tensor([0]), [[5]], [True])
