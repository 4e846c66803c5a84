"""Options that several commands have, and how their values are read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..schema import Scalar

_BUDGET = re.compile(r"(?P<number>[0-9]{1,9}(\.[0-9]{1,9})?)\s*(?P<unit>ms|s)?")


class Verify(str, Enum):
    """How candidates are checked."""

    likelihood = "likelihood"
    choice = "choice"
    yesno = "yesno"
    off = "off"


class Kind(str, Enum):
    """Which items are looked for."""

    image = "image"
    text = "text"


class Items(str, Enum):
    """What a captioned-images line becomes."""

    images = "images"
    captions = "captions"


class Identifiers(str, Enum):
    """Which identifiers are built."""

    structured = "structured"
    clue = "clue"
    numeric = "numeric"
    caption = "caption"


class Note(str, Enum):
    """What a model writes about an item."""

    dense = "dense"
    refined = "refined"
    knowledge = "knowledge"


class Direction(str, Enum):
    """Which side of a captioned picture asks."""

    text_to_image = "text-to-image"
    image_to_text = "image-to-text"


IndexPath = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index.")]
Sources = Annotated[
    list[Path],
    typer.Argument(metavar="SOURCE...", help="Folders, picture files, JSONL or Parquet files."),
]
Model = Annotated[
    str | None,
    typer.Option(help="Model to ask, by name or path; the index's own when left out."),
]
Device = Annotated[str | None, typer.Option(help="Where the model runs, such as cpu or cuda:0.")]
Beams = Annotated[
    int | None,
    typer.Option(
        "--beams", min=1, help="Hypotheses kept while decoding; 50 identifiers, or 15 clues."
    ),
]
Vectors = Annotated[
    bool,
    typer.Option(
        "--vectors/--no-vectors", help="Compare the vectors of genmm embed, if there are any."
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="N|TIME",
        help="What verifying a query may cost: candidates (16; 10 for a choice), time (50ms, 2s) "
        "or both (64,50ms).",
    ),
]
Adapt = Annotated[
    list[str] | None,
    typer.Option(
        "--adapt",
        metavar="NAME",
        help="What to do to the query first: resolve, rewrite, compose, expand[:N], "
        "reason[:ROUNDS]; consistency, to check what a composed query found; repeatable.",
    ),
]
Writer = Annotated[
    str | None,
    typer.Option(
        "--writer",
        metavar="MODEL",
        help="Who rewrites, reasons and answers: openai:NAME for an OpenAI-compatible server, or "
        "a model by name or path; the index's own when left out.",
    ),
]
Conditions = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="KEY=VALUE",
        help="Metadata condition; repeatable: all fields must match, and of one field that is "
        "given twice any value.",
    ),
]
OfKind = Annotated[Kind | None, typer.Option(help="Only pictures, or only texts.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Take at most so many.")]
UseText = Annotated[
    str | None,
    typer.Option(metavar="FIELD", help="Human text that pictures may be described by."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse broken pictures, do not skip them.")]


def parse_filters(conditions: Sequence[str]) -> dict[str, Scalar | list[Scalar]]:
    """Conditions `key=value` as metadata filters; one key given twice means "one of".

    A number, true, false or null matches the value as such and as text; quotes keep it text.

    Raises:
        InputError: If a condition has no `=` or no key.

    Examples:
        >>> parse_filters(["colour=red", "colour=blue", "year=2013"])
        {'colour': ['red', 'blue'], 'year': [2013, '2013']}
        >>> parse_filters(['year="2013"'])
        {'year': '2013'}
    """
    collected: dict[str, list[Scalar]] = {}
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not equals or not key.strip():
            raise InputError(
                f"--filter {condition!r} is not a condition", "write --filter key=value"
            )
        collected.setdefault(key.strip(), []).extend(_readings(value))
    return {key: found[0] if len(found) == 1 else found for key, found in collected.items()}


def _readings(value: str) -> list[Scalar]:
    try:
        read = json.loads(value, parse_constant=lambda _: value)
    except ValueError:
        return [value]
    if isinstance(read, str):
        return [read]
    if read is None or isinstance(read, (bool, int, float)):
        return [read, value]
    return [value]


def parse_budget(text: str | None) -> dict[str, int | float | None]:
    """A limit of verification as options of the retriever; a time alone limits nothing else.

    Raises:
        InputError: If it is neither candidates nor a time, or one of them twice.

    Examples:
        >>> parse_budget("16")
        {'budget': 16}
        >>> parse_budget("50ms")
        {'budget': None, 'budget_ms': 50.0}
        >>> parse_budget("64,1.5s")
        {'budget': 64, 'budget_ms': 1500.0}
        >>> parse_budget(None)
        {}
    """
    if text is None:
        return {}
    counts, times = [], []
    for part in text.split(","):
        found = _BUDGET.fullmatch(part.strip())
        if found is None or float(found["number"]) <= 0:
            raise InputError(f"--budget {text!r} is no budget", "write for example 16 or 50ms")
        if found["unit"]:
            times.append(float(found["number"]) * (1000 if found["unit"] == "s" else 1))
        elif found["number"].isdigit():
            counts.append(int(found["number"]))
    if len(counts) + len(times) != len(text.split(",")) or max(len(counts), len(times)) > 1:
        raise InputError(f"--budget {text!r} is no budget", "write for example 16 or 50ms")
    if not times:
        return {"budget": counts[0]}
    return {"budget": counts[0] if counts else None, "budget_ms": times[0]}


def parse_cutoffs(text: str) -> tuple[int, ...]:
    """Cut-offs such as `1,5,10`, ascending.

    Raises:
        InputError: If one is not a whole number of at least 1.

    Examples:
        >>> parse_cutoffs("10,1,5")
        (1, 5, 10)
    """
    try:
        cutoffs = sorted({int(part) for part in text.split(",")})
    except ValueError:
        cutoffs = [0]
    if cutoffs[0] < 1:
        raise InputError(f"-k {text!r} is not a list of cut-offs", "write for example -k 1,5,10")
    return tuple(cutoffs)


def parse_adapters(names: Sequence[str] | None, writer: str | None) -> list[str]:
    """Query adapters by name, commas read as well.

    Raises:
        InputError: If there is none of a name, or a writer has nothing to do.
        MissingExtraError: If torch is not installed.

    Examples:
        >>> parse_adapters(["rewrite,expand:2"], None)
        ['rewrite', 'expand:2']
    """
    found = [part.strip() for name in names or [] for part in name.split(",")]
    if writer is not None and not found:
        raise InputError(
            "--writer has nothing to write", "name an adapter, such as --adapt rewrite"
        )
    if found:
        from ..models.loading import REMOTE
        from ..querying import check_adapters

        check_adapters(found)
        if set(found) == {"consistency"} and (writer or "").startswith(REMOTE):
            raise InputError(
                "a remote --writer cannot check the way back, which takes log-probabilities",
                "leave it out, or name a local model",
            )
    return found
