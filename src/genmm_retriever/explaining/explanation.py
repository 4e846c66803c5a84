"""What an explanation consists of: frozen, and ready for JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from genmm_retriever.schema import Hit, Kind, Scalar


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
        ids: Among which items alone it was looked; None for all.
    """

    text: str | None
    has_image: bool
    filters: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict)
    kind: Kind | None = None
    ids: tuple[str, ...] | None = None


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
