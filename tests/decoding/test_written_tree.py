"""The tree of what was written against one bare forward of the model for each beginning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genmm_retriever.constraints import TokenTrie
from genmm_retriever.decoding import BeamConfig, Guide, Hypothesis, constrained_beam_search
from genmm_retriever.decoding.written_tree import TreeNode, written_tree
from genmm_retriever.models.base import Prompt

VOCAB, EOS = 24, 2
EXAMPLES = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
token = st.sampled_from([0, 1, 3, 4, VOCAB - 1])
identifier = st.lists(token, min_size=0, max_size=4).map(lambda body: (*body, EOS))


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], list[int], list[tuple[float, ...]]]:
    sequences = draw(st.lists(identifier, min_size=1, max_size=14))
    items = [draw(st.integers(0, 7)) for _ in sequences]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    by_prefix: dict[tuple[int, ...], float] = {}
    nulls = []
    for sequence in sequences:
        prefixes = [sequence[: i + 1] for i in range(len(sequence))]
        for prefix in prefixes:
            by_prefix.setdefault(prefix, float(np.float16(-rng.exponential(3.0))))
        nulls.append(tuple(by_prefix[prefix] for prefix in prefixes))
    return sequences, items, nulls


def paths(node: TreeNode, above: tuple[TreeNode, ...] = ()) -> list[tuple[TreeNode, ...]]:
    """Every way from the root down to a node, the root left out."""
    here = (*above, node) if node.tokens else above
    found = [here] if here else []
    for child in node.children:
        found += paths(child, here)
    return found


def odds(model: Any, prompt: Prompt, written: tuple[int, ...]) -> torch.Tensor:
    """log p of every token after a beginning, [V]."""
    with torch.no_grad():
        ids = torch.tensor([[*model.ids(prompt), *written]])
        return model.model(ids).logits[0, -1].log_softmax(-1)


def check(
    tree: TreeNode,
    model: Any,
    prompt: Prompt,
    corpus: Any,
    hypotheses: list[Hypothesis],
    allowed: np.ndarray | None,
    debias: float,
    alternatives: int,
) -> None:
    named = {
        (sequence, item)
        for sequence, item in zip(*corpus[:2], strict=True)
        if allowed is None or item in allowed
    }

    def under(written: tuple[int, ...]) -> set[int]:
        return {item for sequence, item in named if sequence[: len(written)] == written}

    def following(written: tuple[int, ...]) -> list[int]:
        n = len(written)
        return sorted({s[n] for s, _ in named if s[:n] == written and len(s) > n})

    nodes = [tree, *(path[-1] for path in paths(tree))]
    for node in nodes:
        assert node.items.tolist() == sorted(under(node.written))
        legal = following(node.written)
        if not node.children:
            continue
        assert node.legal == len(legal)
        logprobs = odds(model, prompt, node.written)
        share = (logprobs[legal] - logprobs[legal].logsumexp(0)).exp().tolist()
        expected = dict(zip(legal, share, strict=True))
        taken = [child.tokens[0] for child in node.children]
        assert set(taken) <= set(legal)
        for child in [*node.children, *node.others]:
            assert child.probability == pytest.approx(expected[child.tokens[0]], abs=1e-5)
            for n in range(1, len(child.tokens)):
                # The rest of a piece had no alternative.
                before = node.written + child.tokens[:n]
                assert following(before) == [child.tokens[n]]
        left = sorted((p for t, p in expected.items() if t not in taken), reverse=True)
        found = [other.probability for other in node.others]
        assert found == pytest.approx(left[:alternatives], abs=1e-5)
        for other in node.others:
            assert other.items == len(under(node.written + other.tokens))
    ends = {h.tokens: path for path in paths(tree) for h in path[-1].named}
    assert set(ends) == {h.tokens for h in hypotheses}
    for h in hypotheses:
        path = ends[h.tokens]
        assert path[-1].written == h.tokens[: h.length]
        assert sum(n.logprob for n in path) == pytest.approx(h.logprob, abs=2e-4)
        assert sum(n.null_logprob for n in path) == pytest.approx(h.null_logprob, abs=2e-4)
        assert path[-1].score == pytest.approx(h.score, abs=5e-4)
        parts = sum(n.logprob - debias * n.null_logprob + n.guide for n in path)
        assert path[-1].score == pytest.approx(parts, abs=1e-4)
        plain = model.plain_logprob(prompt, h.tokens[: h.length])
        assert sum(n.logprob for n in path) == pytest.approx(plain, abs=2e-4)
        assert path[-1].complete == (h.length == len(h.tokens))


@EXAMPLES
@given(corpus=corpora(), data=st.data())
def test_tree_agrees_with_the_search_and_with_brute_force(
    tiny: Any, prompts: list[Prompt], corpus: Any, data: st.DataObject
) -> None:
    prompt = data.draw(st.sampled_from(prompts))
    rows = data.draw(st.none() | st.lists(st.integers(0, 8), max_size=6))
    subset = None if rows is None else np.array(sorted(set(rows)), np.int64)
    debias = data.draw(st.sampled_from([0.0, 0.7, 1.0]))
    config = BeamConfig(
        num_beams=data.draw(st.sampled_from([1, 3, 16])),
        debias=debias,
        max_leaves_exact=data.draw(st.sampled_from([0, 3])),
        open_leaves=data.draw(st.sampled_from([0, 2])),
        level_end=data.draw(st.sampled_from([None, 1, 3, 4])),
    )
    guide = data.draw(
        st.sampled_from([None, Guide.over([((3, 4), -0.5), ((3, 1), -2.0), ((0,), -3.0)])])
    )
    trie = TokenTrie.build(*corpus)
    [found] = constrained_beam_search(
        tiny, [prompt], trie, None if subset is None else [subset], config, guides=[guide]
    )
    shown = data.draw(st.lists(st.sampled_from(found), unique=True)) if found else []
    alternatives = data.draw(st.sampled_from([0, 2, 9]))
    tree = written_tree(
        tiny,
        prompt,
        trie,
        shown,
        subset=subset,
        debias=debias,
        guide=guide,
        alternatives=alternatives,
    )
    check(tree, tiny, prompt, corpus, shown, subset, debias, alternatives)


def test_tree_ends_where_a_level_does(tiny: Any, prompts: list[Prompt]) -> None:
    """Behind the level's end goes on what has no alternative, and was not written."""
    corpus = (
        [(3, 4, 1, 5, EOS), (3, 4, 1, 6, EOS), (7, 4, 8, EOS), (9, 1, EOS)],
        [0, 1, 2, 3],
        [
            (-1.0, -2.0, -0.5, -1.5, -0.25),
            (-1.0, -2.0, -0.5, -3.0, -0.75),
            (-0.5, -1.25, -4.0, -1.0),
            (-2.5, -1.0, -0.5),
        ],
    )
    trie = TokenTrie.build(*corpus)
    config = BeamConfig(max_leaves_exact=0, open_leaves=2, level_end=4)
    [found] = constrained_beam_search(tiny, prompts[:1], trie, None, config)
    lengths = {h.tokens[0]: h.length for h in found}
    assert lengths == {3: 2, 7: 2, 9: 3}
    tree = written_tree(tiny, prompts[0], trie, found)
    check(tree, tiny, prompts[0], corpus, found, None, 1.0, 3)
    [level] = [node for node in tree.children if node.tokens[0] == 3]
    assert level.tokens == (3, 4)
    assert (level.children, level.items.tolist()) == ([], [0, 1])


def test_tree_of_nothing_still_shows_what_was_legal(tiny: Any, prompts: list[Prompt]) -> None:
    trie = TokenTrie.build([(3, 4, EOS), (3, EOS), (5, EOS)], [0, 1, 2])
    tree = written_tree(tiny, prompts[0], trie, [], alternatives=1)
    assert (tree.legal, tree.children, tree.items.tolist()) == (2, [], [0, 1, 2])
    assert len(tree.others) == 1
    assert tree.others[0].probability >= 0.5
    empty = written_tree(tiny, prompts[0], trie, [], subset=np.zeros(0, np.int64))
    assert (empty.legal, empty.others, empty.items.tolist()) == (0, [], [])


def test_one_pass_a_level(counted: Any, prompts: list[Prompt]) -> None:
    sequences = [(a, b, c, EOS) for a in (3, 4) for b in (5, 6) for c in (7, 8)]
    trie = TokenTrie.build(sequences, range(8))
    [found] = constrained_beam_search(counted, prompts[:1], trie)
    counted.passes = 0
    tree = written_tree(counted, prompts[0], trie, found)
    assert len(paths(tree)) == 2 + 4 + 8
    assert counted.passes <= 4
    total = sum(
        math.exp(sum(math.log(n.probability) for n in p)) for p in paths(tree) if len(p) == 3
    )
    assert total == pytest.approx(1.0, abs=1e-5)


@EXAMPLES
@given(corpus=corpora(), more=corpora(), data=st.data())
def test_items_under_an_updated_trie(corpus: Any, more: Any, data: st.DataObject) -> None:
    trie = TokenTrie.build(*corpus)
    added = (more[0], [item + 8 for item in more[1]])
    trie = trie.add(*added)
    gone = data.draw(st.sets(st.integers(0, 15), max_size=6))
    trie = trie.delete(np.array(sorted(gone), np.int64))
    subset = data.draw(st.none() | st.sets(st.integers(0, 15)))
    named = [
        (sequence, item)
        for sequence, item in [*zip(*corpus[:2], strict=True), *zip(*added, strict=True)]
        if item not in gone and (subset is None or item in subset)
    ]
    rows = None if subset is None else [np.array(sorted(subset), np.int64)]
    state, written = trie.start(1, rows), [()]
    while written:
        for beginning, items in zip(written, trie.items_under(state), strict=True):
            expected = {item for seq, item in named if seq[: len(beginning)] == beginning}
            assert items.tolist() == sorted(expected)
        legal = trie.legal(state)
        pairs = zip(legal.rows.tolist(), legal.tokens.tolist(), strict=True)
        written = [(*written[row], token) for row, token in pairs]
        state = trie.advance(state, legal.rows, legal.tokens)
        open_ = torch.nonzero(~state.complete).flatten()
        written = [written[i] for i in open_.tolist()]
        state = trie.choose(state, open_)
