"""From an answer to its explanation.

Worked out after the search, from the model itself, so that every number can be checked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from genmm_retriever.asking import Answer, Asker, Trace
from genmm_retriever.decoding.aggregate import Candidate
from genmm_retriever.decoding.hypotheses import Hypothesis
from genmm_retriever.decoding.written_tree import NotTaken, TreeNode, written_tree
from genmm_retriever.describing import identify_prompt
from genmm_retriever.errors import InputError
from genmm_retriever.explaining.explanation import (
    Alternative,
    AskedQuery,
    Contribution,
    ExplainedHit,
    Explanation,
    NamedIdentifier,
    WrittenNode,
)
from genmm_retriever.finding import IdentifierStage
from genmm_retriever.models.base import MLLM
from genmm_retriever.schema import Hit, Query
from genmm_retriever.verification.contributions import contributions

MAX_BEAMS = 50
MAX_ALTERNATIVES = 50
_NAMED_AT_MOST = 12
"""Identifiers told at the end of a beginning, at most."""
_ITEMS_AT_MOST = 24
"""Ids told of an identifier, at most."""


def explain_written(
    asker: Asker, query: Query, *, k: int, verify: str, beams: int, alternatives: int
) -> Explanation:
    """Ask, and work out how the answer was written; see `GenerativeMMRetriever`.

    Raises:
        InputError: If `beams` or `alternatives` is out of range.
    """
    _check("beams", beams, 1, MAX_BEAMS)
    _check("alternatives", alternatives, 0, MAX_ALTERNATIVES)
    trace = Trace()
    [hits] = asker.ask([query], k, verify=verify, trace=trace)
    [answer] = trace.answers
    start = time.perf_counter()
    fields: dict[str, Any] = {"way": "clues"}
    if isinstance(asker.first, IdentifierStage):
        fields = {
            "way": "identifiers",
            **_written(asker, asker.first, answer, hits, beams, alternatives),
        }
    explained = tuple(_explained(asker, answer, hit, verify) for hit in hits)
    return Explanation(
        query=AskedQuery(
            text=query.text,
            has_image=query.image is not None,
            filters=query.filters,
            kind=query.kind,
            ids=query.ids,
        ),
        hits=explained,
        verify=verify,
        seconds={**trace.timings, "explain": time.perf_counter() - start},
        **fields,
    )


def _written(
    asker: Asker,
    stage: IdentifierStage,
    answer: Answer,
    hits: Sequence[Hit],
    beams: int,
    alternatives: int,
) -> dict[str, Any]:
    """The fields of an explanation that tell what was written."""
    places = {item.id: place for place, item in enumerate(answer.found.items)}
    candidates = [c for c in answer.found.candidates if isinstance(c, Candidate)]
    of_hits = [answer.found.candidates[places[hit.item.id]] for hit in hits]
    shown, count = best_beginnings(
        [c for c in of_hits if isinstance(c, Candidate)], candidates, beams
    )
    guide = stage.guide(answer.view)
    root = written_tree(
        stage.model,
        identify_prompt(answer.view.sought, answer.view.image, stage.model),
        stage.trie,
        shown,
        subset=answer.subset,
        debias=stage.beam.debias,
        guide=guide,
        alternatives=alternatives,
    )
    return {
        "tree": _Telling(stage.model, asker, stage.beam.debias).node(root),
        "beams": count,
        "hypotheses": len({h.tokens for c in candidates for h in c.hypotheses}),
        "guided": guide is not None,
    }


def best_beginnings(
    of_hits: Sequence[Candidate], candidates: Iterable[Candidate], beams: int
) -> tuple[list[Hypothesis], int]:
    """The hypotheses behind the best so many beginnings, and how many beginnings there are.

    The best hypothesis of each hit comes first, then the others of the candidates by score.

    Args:
        of_hits: The candidates that became hits, best first.
        candidates: All of them.
        beams: Most beginnings; hypotheses left open at the same one count once.
    """
    others = {h.tokens: h for candidate in candidates for h in candidate.hypotheses}
    ordered = {c.hypotheses[0].tokens: c.hypotheses[0] for c in of_hits}
    ordered |= {h.tokens: h for h in sorted(others.values(), key=lambda h: (-h.score, h.tokens))}
    beginnings: set[tuple[int, ...]] = set()
    shown = []
    for hypothesis in ordered.values():
        beginning = hypothesis.tokens[: hypothesis.length]
        if beginning in beginnings or len(beginnings) < beams:
            beginnings.add(beginning)
            shown.append(hypothesis)
    return shown, len(beginnings)


class _Telling:
    """Tokens into text, rows into ids."""

    def __init__(self, model: MLLM, asker: Asker, debias: float) -> None:
        self._model = model
        self._asker = asker
        self._debias = debias

    def node(self, node: TreeNode) -> WrittenNode:
        first, rest = node.tokens[:1], node.tokens[1:]
        return WrittenNode(
            text=self._text(node.before, node.tokens),
            forced=self._text(node.before + first, rest),
            forced_tokens=len(rest),
            probability=node.probability,
            logprob=node.logprob,
            debias=-self._debias * node.null_logprob if node.null_logprob else 0.0,
            guide=node.guide,
            score=node.score,
            legal=node.legal,
            items=len(node.items),
            complete=node.complete,
            children=tuple(self.node(child) for child in node.children),
            alternatives=tuple(self._alternative(node, other) for other in node.others),
            identifiers=tuple(map(self._named, node.named[:_NAMED_AT_MOST])),
        )

    def _alternative(self, node: TreeNode, other: NotTaken) -> Alternative:
        text = self._text(node.written, other.tokens)
        return Alternative(text=text, probability=other.probability, items=other.items)

    def _named(self, hypothesis: Hypothesis) -> NamedIdentifier:
        written, rest = (
            hypothesis.tokens[: hypothesis.length],
            hypothesis.tokens[hypothesis.length :],
        )
        items = self._asker.reader.items(list(hypothesis.items[:_ITEMS_AT_MOST]))
        return NamedIdentifier(
            text=self._model.decode(hypothesis.tokens).strip(),
            left_open=self._text(written, rest),
            items=tuple(item.id for item in items),
        )

    def _text(self, before: tuple[int, ...], tokens: tuple[int, ...]) -> str:
        """What tokens add to a text; half a character belongs to what completes it."""
        begun = self._model.decode(before).rstrip("\ufffd") if before else ""
        whole = self._model.decode(before + tokens)
        return whole[len(begun) :] if whole.startswith(begun) else self._model.decode(tokens)


def _explained(asker: Asker, answer: Answer, hit: Hit, verify: str) -> ExplainedHit:
    if answer.parts is None:
        return ExplainedHit(hit=hit)
    calibration = asker.verifier_for(verify, answer.view, answer.found).calibration
    place = next(i for i, item in enumerate(answer.found.items) if item.id == hit.item.id)
    terms = contributions(calibration, answer.parts, place)
    return ExplainedHit(
        hit=hit,
        looked_at=bool({"likelihood", "choice", "yes"} & hit.evidence.parts.keys()),
        contributions=tuple(
            Contribution(name=t.name, value=t.value, weight=t.weight, adds=t.adds) for t in terms
        ),
        log_odds=sum(t.adds for t in terms) if terms else None,
    )


def _check(name: str, value: int, least: int, most: int) -> None:
    if not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name} is {value!r}", f"give a whole number from {least} to {most}")
