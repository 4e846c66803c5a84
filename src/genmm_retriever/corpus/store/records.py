"""The plain records of the store: settings, descriptions, identifiers, reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from genmm_retriever.schema import IDENTIFIERS_PER_ITEM, Scalar

Stage = Literal["features", "descriptions", "identifiers"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class IndexSettings(BaseModel):
    """How an index is made; fixed for its life.

    Args:
        model: Name or path of the model that describes and identifies.
        model_fingerprint: Hash of the model's weights, so that another model is noticed.
        identifiers: Scheme of the identifiers; with `"clue"` any phrase of an item's text is one.
        identifiers_per_item: Most identifiers that one item has.
        items: Whether pictures or their captions are the items.
        use_text: Field of human text that is indexed beside the picture, or None.
        prompt_version: Version of the prompts that the descriptions were made with.
        seed: Seed of everything random in the build.
        extra: Further flat settings of the caller.

    Examples:
        >>> IndexSettings(model="builtin", model_fingerprint="ab").identifiers_per_item
        4
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str
    model_fingerprint: str
    identifiers: Literal["structured", "numeric", "clue", "caption"] = "structured"
    identifiers_per_item: int = Field(default=IDENTIFIERS_PER_ITEM, ge=1)
    items: Literal["images", "captions"] = "images"
    use_text: str | None = None
    prompt_version: str = ""
    seed: int = 0
    extra: dict[str, Scalar] = Field(default_factory=dict)

    def differences(self, other: IndexSettings) -> str:
        """The fields that differ, as `name: ours -> theirs`, or an empty string."""
        ours, theirs = self.model_dump(), other.model_dump()
        return ", ".join(
            f"{name}: {ours[name]!r} -> {theirs[name]!r}"
            for name in ours
            if ours[name] != theirs[name]
        )


@dataclass(frozen=True)
class Description:
    """Words for an item.

    Args:
        text: The words.
        source: Where they come from: `"model"`, `"objects"` or `"text"`.
    """

    text: str
    source: str = "model"


@dataclass(frozen=True)
class IdentifierRecord:
    """One identifier of one item.

    Args:
        row: The item's row.
        text: The identifier as written.
        tokens: Its token ids, end token included.
        null_logprobs: Unconditional natural log-probability of each token, one per token or
            empty; kept in single precision.
    """

    row: int
    text: str
    tokens: tuple[int, ...]
    null_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class StageReport:
    """What `IndexWriter.stage_items` did, in numbers of items.

    Args:
        added: With ids that were not there.
        replaced: With other content than before.
        unchanged: There already, as they are.
        left_out: Known, as they are, and skipped by an earlier publication.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Changes:
    """What the next publication changes for readers, in numbers of items.

    Args:
        added: Ids that they have not seen.
        replaced: Ids that they have seen with other content.
        skipped: Items left out since the publication before.
    """

    added: int
    replaced: int
    skipped: int


@dataclass(frozen=True)
class Problem:
    """Something that `check_index` found.

    Args:
        file: The file, relative to the index folder.
        what: What is wrong with it.
        mend: What the user can do about it.
    """

    file: str
    what: str
    mend: str
