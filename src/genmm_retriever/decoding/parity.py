"""The beam search of transformers 5, decision by decision, under a constraint.

What is reproduced was read in transformers 5.23 (`GenerationMixin._beam_search`): the best
2 * num_beams continuations of a query are ranked; those that end and stand among the first
num_beams enter a pool of num_beams finished sequences, the best num_beams that do not end go
on; a query is closed by the rule of `early_stopping=False`, after which nothing more of it may
finish. The placeholders that transformers pads a beam with (scores of -1e9) are left out; only
its `early_stopping=True` would count them, which is why that rule is not offered.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genmm_retriever.constraints.base import Constraint, StateT
from genmm_retriever.decoding.config import BeamConfig
from genmm_retriever.decoding.hypotheses import (
    Expansion,
    Hypothesis,
    Live,
    Ranking,
    best_of_each,
    expand,
    written,
)
from genmm_retriever.models.base import MLLM


def transformers_beam_search(
    model: MLLM, live: Live[StateT], constraint: Constraint[StateT], config: BeamConfig
) -> list[Ranking]:
    """Search as transformers does.

    Args:
        model: The language model.
        live: One row a query, at its prompt.
        constraint: What may be written.
        config: `num_beams`, `debias` (0 in transformers) and `length_penalty` (1 there).

    Returns:
        For each query at most `num_hypotheses` (or num_beams) hypotheses, best first; none of
        them is called proven.
    """
    queries = len(live.logprob)
    pools: list[list[Hypothesis]] = [[] for _ in range(queries)]
    closed = torch.zeros(queries, dtype=torch.bool, device=live.logprob.device)
    while len(live.logprob):
        expansion = expand(live, constraint, config.debias)
        most = torch.full((queries,), 2 * config.num_beams, device=closed.device)
        order = best_of_each(expansion.query, expansion.score, most)
        top = order[_rank(expansion, order) < config.num_beams]
        _finish(pools, live, expansion, top[expansion.finishes[top]], constraint, config)
        running = order[~expansion.finishes[order]]
        running = running[_rank(expansion, running) < config.num_beams]
        length = len(live.tokens[0]) + 1
        best = torch.full((queries,), -torch.inf, device=closed.device)
        best.scatter_reduce_(0, expansion.query[running], expansion.score[running], "amax")
        closed |= _closing(pools, best.tolist(), length, config).to(closed.device)
        picks = running[~closed[expansion.query[running]]]
        if not len(picks):
            break
        rows, tokens = expansion.rows[picks], expansion.tokens[picks]
        state = constraint.advance(live.constraint, rows, tokens)
        live = Live(
            model=model.step(live.model, rows, tokens),
            constraint=state,
            tokens=written(live, rows, tokens[:, None].tolist()),
            logprob=expansion.logprob[picks],
            null=expansion.null[picks],
        )
    return [Ranking(pool[: config.num_hypotheses]) for pool in pools]


def _rank(expansion: Expansion, ordered: Tensor) -> Tensor:
    """Rank within the query of pairs that are ordered by query and falling score."""
    query = expansion.query[ordered].contiguous()
    return torch.arange(len(query), device=query.device) - torch.searchsorted(query, query)


def _closing(
    pools: list[list[Hypothesis]], best: list[float], length: int, config: BeamConfig
) -> Tensor:
    """The queries that may be left, [Q], bool.

    Their pool is full, and the best running score, divided by the present length, does not beat
    the worst of the pool. With a length penalty that is a heuristic, kept as it is.
    """
    reach = [running / length**config.length_penalty for running in best]
    return torch.tensor(
        [
            len(pool) == config.num_beams and reachable <= pool[-1].score
            for pool, reachable in zip(pools, reach, strict=True)
        ]
    )


def _finish(
    pools: list[list[Hypothesis]],
    live: Live[StateT],
    expansion: Expansion,
    done: Tensor,
    constraint: Constraint[StateT],
    config: BeamConfig,
) -> None:
    """Merge what ends at this step into the pools."""
    if not len(done):
        return
    rows, tokens = expansion.rows[done], expansion.tokens[done]
    state = constraint.advance(live.constraint, rows, tokens)
    scale = (len(live.tokens[0]) + 1) ** config.length_penalty
    columns = (
        state.query.tolist(),
        written(live, rows, tokens[:, None].tolist()),
        constraint.documents(state),
        expansion.logprob[done].tolist(),
        expansion.null[done].tolist(),
        (expansion.score[done] / scale).tolist(),
    )
    for query, *rest in zip(*columns, strict=True):
        sequence, items, logprob, null, score = rest
        pools[query].append(Hypothesis(sequence, items, logprob, null, score))
    for pool in pools:
        pool.sort(key=lambda hypothesis: -hypothesis.score)
        del pool[config.num_beams :]
