"""What is varied: settings of an index and of asking it, and the questions they answer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Scheme = Literal["structured", "numeric", "clue", "caption"]
Direction = Literal["text-to-image", "image-to-text"]


@dataclass(frozen=True)
class IndexRecipe:
    """How an index is made from what is described already.

    Attributes:
        identifiers: Kind of identifiers.
        lexical_length: Keywords of a structured identifier, words of a caption's beginning (twice
            as many, since half of a caption's words are not keywords).
        clusters: Of the captions, instead of the model's own topics; None for what the index
            would choose.
        added: Share of all items, in [0, 1), that come after the index was built.
        direction: Whether pictures are looked for by texts or texts by pictures.
        model: Another model than the runner's, by name or path; None for that one.
    """

    identifiers: Scheme = "structured"
    lexical_length: int = 4
    clusters: int | None = None
    added: float = 0.0
    direction: Direction = "text-to-image"
    model: str | None = None

    @property
    def key(self) -> str:
        """A short name that differs where anything differs."""
        return _key(asdict(self))


@dataclass(frozen=True)
class Setting:
    """One row: an index, and how it is asked.

    Attributes:
        index: The index.
        verify: Verifier, or "off".
        beams: Width of the search; None for what the kind of index does best with.
        guided: Whether the contrastive head looks ahead to topics, or the language model is alone.
    """

    index: IndexRecipe = IndexRecipe()
    verify: str = "off"
    beams: int | None = None
    guided: bool = True

    @property
    def key(self) -> str:
        """A short name that differs where anything differs."""
        return _key(asdict(self))

    def to_json(self) -> dict[str, Any]:
        """Flat, as a row keeps it."""
        flat = asdict(self)
        return {**flat.pop("index"), **flat}


def _key(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Question:
    """Rows that belong together.

    Attributes:
        name: For `--only`.
        title: Heading in the document.
        varied: Fields that differ between its rows: the table's first columns.
        settings: Its rows.
    """

    name: str
    title: str
    varied: tuple[str, ...]
    settings: tuple[Setting, ...]


def _with(**changes: Any) -> Setting:
    asking = {name: changes.pop(name) for name in ("verify", "beams", "guided") if name in changes}
    return replace(Setting(), index=replace(IndexRecipe(), **changes), **asking)


def questions(untrained: str | None = None) -> list[Question]:
    """The questions of the experiments, in the order of the document.

    Args:
        untrained: A model whose decoder was never trained on identifiers, by name or path, to
            compare with; None to leave that question out.
    """
    verifiers = ("off", "likelihood", "choice", "yesno")
    schemes: tuple[Scheme, ...] = ("structured", "numeric", "clue", "caption")
    both = ("off", "likelihood")
    found = [
        Question(
            "identifiers",
            "Which identifiers?",
            ("identifiers", "verify"),
            tuple(_with(identifiers=kind, verify=v) for kind in schemes for v in both),
        ),
        Question(
            "verifiers",
            "What does verification add, and which verifier?",
            ("verify",),
            tuple(_with(verify=verifier) for verifier in verifiers),
        ),
        Question(
            "guide",
            "What does the contrastive head's look-ahead to topics add?",
            ("guided", "verify"),
            tuple(_with(guided=guided, verify=v) for guided in (True, False) for v in both),
        ),
        Question(
            "length",
            "How many keywords?",
            ("lexical_length",),
            tuple(_with(lexical_length=n) for n in (2, 4, 6)),
        ),
        Question(
            "clusters",
            "How many clusters?",
            ("clusters",),
            tuple(_with(clusters=n) for n in (16, 32, 64, 128, 256, 512)),
        ),
        Question(
            "beams",
            "How many beams?",
            ("beams",),
            tuple(_with(beams=n) for n in (5, 10, 20, 50, 100)),
        ),
        Question(
            "added",
            "Items added after the build, without retraining",
            ("added", "verify"),
            tuple(_with(added=share, verify=v) for share in (0.0, 0.1, 0.5) for v in both),
        ),
        Question(
            "image-to-text",
            "Texts looked for by pictures",
            ("identifiers", "verify"),
            tuple(
                _with(direction="image-to-text", identifiers=kind, verify=v)
                for kind in ("structured", "clue")
                for v in verifiers
            ),
        ),
    ]
    if untrained is not None:
        found.append(
            Question(
                "training",
                "Trained decoding against training-free",
                ("model", "identifiers"),
                tuple(
                    _with(model=model, identifiers=kind, guided=False)
                    for model in (None, untrained)
                    for kind in schemes
                ),
            )
        )
    return found
