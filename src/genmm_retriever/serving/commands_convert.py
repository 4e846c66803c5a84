"""The command that turns published data sets into files to index and to ask."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .console import Console, command, printable

if TYPE_CHECKING:
    from ..evaluation import ComposedSet


class Dataset(str, Enum):
    """Published data sets of composed queries."""

    cirr = "cirr"
    fashioniq = "fashioniq"


_CUTOFFS = {Dataset.cirr: "1,5,10,50", Dataset.fashioniq: "10,50"}


def register(app: typer.Typer) -> None:
    """Add convert."""
    example = "genmm convert cirr data/cirr --images data --output cirr-val"
    command(app, "convert", example=example)(convert)


def convert(
    console: Console,
    dataset: Annotated[Dataset, typer.Argument(help="Which data set's format.")],
    annotations: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder with captions/ and image_splits/."),
    ],
    images: Annotated[
        Path, typer.Option("--images", "-i", metavar="DIR", help="Folder of the pictures.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="For items.jsonl and queries.jsonl."),
    ],
    split: Annotated[str, typer.Option(help="Which split, with published targets.")] = "val",
    category: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Of FashionIQ: dress, shirt or toptee; repeatable."),
    ] = None,
    skip_missing: Annotated[
        bool,
        typer.Option(
            "--skip-missing", help="Leave out pictures without a file, and what needs them."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there.")
    ] = False,
) -> None:
    """Turn CIRR or FashionIQ into items to index and composed queries to evaluate."""
    from ..evaluation import write_composed

    if category and dataset is not Dataset.fashioniq:
        raise InputError(f"{dataset.value} has no categories", "leave --category out")
    composed = _read(dataset, annotations, images, split, category or [], skip_missing)
    items, queries = write_composed(composed, output, overwrite=overwrite)
    data = {
        "items": str(items),
        "queries": str(queries),
        "pictures": len(composed.items),
        "asked": len(composed.queries),
        "missing": list(composed.missing),
        "dropped": composed.dropped,
    }
    # Part of the result, since it must be seen with --quiet, too.
    left_out = (
        f"Left out: {len(composed.missing)} pictures without a file, for example "
        f"{printable(composed.missing[0])}, and {composed.dropped} queries that need them\n"
        if composed.missing
        else ""
    )
    index, items_file, asked = (
        shlex.quote(printable(str(path))) for path in (output / "index", items, queries)
    )
    text = (
        f"{len(composed.items)} pictures, {len(composed.queries)} queries\n{left_out}"
        f"Index them:  genmm index {items_file} --output {index}\n"
        f"Then ask:    genmm eval {index} {asked} -k {_CUTOFFS[dataset]}"
    )
    console.result(data, text)


def _read(
    dataset: Dataset,
    annotations: Path,
    images: Path,
    split: str,
    categories: list[str],
    skip_missing: bool,
) -> ComposedSet:
    from ..evaluation import read_cirr, read_fashioniq

    if dataset is Dataset.cirr:
        return read_cirr(annotations, images, split=split, skip_missing=skip_missing)
    named = {"categories": categories} if categories else {}
    return read_fashioniq(annotations, images, split=split, skip_missing=skip_missing, **named)
