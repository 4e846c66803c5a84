"""compat="hf" against transformers' own beam search with `prefix_allowed_tokens_fn`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genmm_retriever.constraints import TokenTrie
from genmm_retriever.decoding import BeamConfig, constrained_beam_search
from genmm_retriever.models.base import Prompt, TextPart

VOCAB, EOS = 24, 2


def by_transformers(
    tiny: Any, ids: list[list[int]], corpora: list[list[tuple[int, ...]]], config: BeamConfig
) -> list[list[tuple[tuple[int, ...], float]]]:
    """Finished sequences and their scores; prompts of one length, one corpus each."""
    length = len(ids[0])
    after: list[dict[tuple[int, ...], set[int]]] = []
    for corpus in corpora:
        follow: dict[tuple[int, ...], set[int]] = {}
        for sequence in corpus:
            for i in range(len(sequence)):
                follow.setdefault(sequence[:i], set()).add(sequence[i])
        after.append(follow)

    def allowed(query: int, tokens: torch.Tensor) -> list[int]:
        return sorted(after[query].get(tuple(tokens[length:].tolist()), {EOS}))

    inputs = torch.tensor(ids)
    out = tiny.model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        num_beams=config.num_beams,
        num_return_sequences=config.num_beams,
        length_penalty=config.length_penalty,
        early_stopping=False,
        max_new_tokens=max(len(s) for corpus in corpora for s in corpus),
        do_sample=False,
        prefix_allowed_tokens_fn=allowed,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found: list[list[tuple[tuple[int, ...], float]]] = [[] for _ in ids]
    for i, (row, score) in enumerate(
        zip(out.sequences[:, length:].tolist(), out.sequences_scores.tolist(), strict=True)
    ):
        # Beams wider than the trie are padded with placeholders, which score -1e9 by length.
        if score > -1e6:
            sequence = (*row[: row.index(EOS)], EOS)
            found[i // config.num_beams].append((sequence, score))
    return found


def random_corpus(rng: np.random.Generator, size: int, tokens: int) -> list[tuple[int, ...]]:
    usable = rng.permutation([t for t in range(VOCAB) if t != EOS])[:tokens]
    bodies = {tuple(rng.choice(usable, rng.integers(1, 6)).tolist()) for _ in range(size)}
    return sorted((*body, EOS) for body in bodies)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 80),
    tokens=st.integers(2, 12),
    beams=st.integers(2, 12),
    queries=st.integers(1, 3),
    penalty=st.sampled_from([0.0, 1.0, 1.5, -0.5]),
)
def test_equals_transformers(
    tiny: Any,
    seed: int,
    size: int,
    tokens: int,
    beams: int,
    queries: int,
    penalty: float,
) -> None:
    rng = np.random.default_rng(seed)
    corpus = random_corpus(rng, size, tokens)
    ids = rng.integers(3, VOCAB, (queries, 4)).tolist()
    subsets = [np.flatnonzero(rng.random(len(corpus)) < 0.7) for _ in ids]
    subsets = [rows if len(rows) else np.array([0]) for rows in subsets]
    config = BeamConfig(
        num_beams=beams,
        debias=0.0,
        length_penalty=penalty,
        compat="hf",
    )
    prompts = [Prompt((TextPart(" ".join(map(str, one))),)) for one in ids]
    trie = TokenTrie.build(corpus, range(len(corpus)))
    ours = constrained_beam_search(tiny, prompts, trie, subsets, config)
    theirs = by_transformers(tiny, ids, [[corpus[i] for i in rows] for rows in subsets], config)
    for one, other in zip(ours, theirs, strict=True):
        assert [h.tokens for h in one] == [tokens for tokens, _ in other]
        assert [h.score for h in one] == pytest.approx([score for _, score in other], abs=1e-4)
        assert all(corpus[h.items[0]] == h.tokens for h in one)
