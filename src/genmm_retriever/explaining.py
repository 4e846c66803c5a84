"""How an answer came about: what was written, as a tree, and what the verifier made of it.

Worked out after the search, from the model itself, so that every number can be checked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from genmm_retriever.asking import Answer, Asker, Trace
from genmm_retriever.decoding.aggregate import Candidate
from genmm_retriever.decoding.hypotheses import Hypothesis
from genmm_retriever.decoding.written_tree import NotTaken, TreeNode, written_tree
from genmm_retriever.describing import identify_prompt
from genmm_retriever.errors import InputError
from genmm_retriever.finding import IdentifierStage
from genmm_retriever.models.base import MLLM
from genmm_retriever.schema import Hit, Kind, Query, Scalar
from genmm_retriever.verification.contributions import contributions

MAX_BEAMS = 50
MAX_ALTERNATIVES = 50
_NAMED_AT_MOST = 12
"""Identifiers told at the end of a beginning, at most."""
_ITEMS_AT_MOST = 24
"""Ids told of an identifier, at most."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Contribution(_Frozen):
    """One term of a hit's log-odds.

    Args:
        name: The part, as in `Evidence.parts`; `"bias"` is the same for all candidates.
        value: The part's value; of `choice` and `yes` its log-odds.
        weight: What one of it is worth, by the calibration.
        adds: `value * weight`.
    """

    name: str
    value: float
    weight: float
    adds: float


class ExplainedHit(_Frozen):
    """A hit, and what its verification is made of.

    Args:
        hit: With its evidence: identifiers, or clues and where they stand in the text.
        looked_at: Whether the verifier's own part was computed: the likelihood, the choice, the
            yes and no. Others are kept below those that were looked at.
        contributions: The terms of its log-odds, bias last; empty without verification.
        log_odds: Their sum; if it was looked at, the sigmoid of it is `hit.score`.
    """

    hit: Hit
    looked_at: bool = False
    contributions: tuple[Contribution, ...] = ()
    log_odds: float | None = None

    @field_serializer("hit")
    def _plain(self, hit: Hit) -> dict[str, Any]:
        told = hit.to_json()
        del told["image"]  # may be a path, which is nobody else's business
        return {**told, "kind": hit.item.kind}


class Alternative(_Frozen):
    """What could have been written, and was not in any of the hypotheses shown.

    Args:
        text: The token with all that it forces.
        probability: Of the token among the legal ones.
        items: How many items it leads to.
    """

    text: str
    probability: float
    items: int


class NamedIdentifier(_Frozen):
    """An identifier at the end of what was written.

    Args:
        text: All of it.
        left_open: The part that was not written, as few items are called so; empty if all was.
        items: Ids of the items that it names; the first 24.
    """

    text: str
    left_open: str
    items: tuple[str, ...]


class WrittenNode(_Frozen):
    """A piece of writing: a chosen token with what it forces. The root has written nothing.

    Along a path, `logprob`, `debias` and `guide` add up to `score`, and at its end that is the
    score of the identifier; the `logprob`s add up to `GeneratedIdentifier.logprob`.

    Args:
        text: The piece.
        forced: The part of the piece that followed without alternative.
        forced_tokens: How many tokens that was.
        probability: Of the chosen token among the legal ones, by the model.
        logprob: Natural log-probability of the piece, over the whole vocabulary.
        debias: What its being unlikely without a query adds.
        guide: What looking ahead adds: what the contrastive head says of topics.
        score: Of all that has been written so far.
        legal: How many tokens could follow; 0 where writing ended.
        items: How many items it still leads to.
        complete: Whether it ends an identifier.
        children: Pieces that follow, likeliest first.
        alternatives: The likeliest of those that do not.
        identifiers: Those that end here or were left open here, those of hits first; the
            first 12.
    """

    text: str
    forced: str = ""
    forced_tokens: int = 0
    probability: float
    logprob: float
    debias: float
    guide: float
    score: float
    legal: int
    items: int
    complete: bool = False
    children: tuple[WrittenNode, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    identifiers: tuple[NamedIdentifier, ...] = ()


class AskedQuery(_Frozen):
    """What was asked.

    Args:
        text: Its words.
        has_image: Whether there was a picture.
        filters: Metadata that hits had to have.
        kind: Only pictures, or only texts.
    """

    text: str | None
    has_image: bool
    filters: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict)
    kind: Kind | None = None


class Explanation(_Frozen):
    """How an answer came about; `model_dump(mode="json")` holds no pictures and no paths of them.

    Args:
        query: What was asked.
        hits: What came out, best first.
        way: What leads to items in this index.
        tree: What was written; None in an index of clues, whose evidence is with the hits.
        beams: How many beginnings the tree shows.
        hypotheses: How many identifiers the search ended with.
        guided: Whether the search looked ahead.
        verify: The verifier, or `"off"`.
        seconds: Of `encode`, `decode`, `verify`, and `explain`.
    """

    query: AskedQuery
    hits: tuple[ExplainedHit, ...]
    way: Literal["identifiers", "clues"]
    tree: WrittenNode | None = None
    beams: int = 0
    hypotheses: int = 0
    guided: bool = False
    verify: str
    seconds: dict[str, float]


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
        identify_prompt(answer.view.text, answer.view.image, stage.model),
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
    calibration = asker.verifier_named(verify).calibration
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
