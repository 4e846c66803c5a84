"""The command that writes triplets for composed retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import Console, command, printable
from .options import Device, IndexPath, Limit

if TYPE_CHECKING:
    from ..training import TripletReport


def register(app: typer.Typer) -> None:
    """Add triplets."""
    command(
        app,
        "triplets",
        example="genmm triplets photos.genmm --output triplets.jsonl",
        resumes=True,
    )(triplets)


def triplets(
    console: Console,
    index: IndexPath,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="JSONL file for the triplets; FILE.work beside it may be removed when done.",
        ),
    ],
    per_item: Annotated[
        int, typer.Option(min=1, help="Pairs that a picture is the reference of, at most.")
    ] = 1,
    limit: Limit = None,
    category: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="Metadata whose values pair pictures; topics and objects when left out.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model that compares the pictures; the index's own when left out."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all choices.")] = 0,
    device: Device = None,
) -> None:
    """Write what leads from one picture of an index to another, to train composed queries on.

    The builtin model cannot compare two pictures in words: there the texts are made by rule from
    what their descriptions say differently. Train with: genmm train INDEX --triplets FILE
    """
    from ..training import synthesize_triplets

    report = synthesize_triplets(
        index,
        output,
        model=model,
        per_item=per_item,
        limit=limit,
        category=category,
        seed=seed,
        device=device,
        progress=console.progress,
    )
    data = {"index": str(index), "output": str(output), **report.to_json()}
    console.result(data, _told(output, report))


def _told(output: Path, report: TripletReport) -> str:
    lines = [
        f"{report.triplets} triplets in {printable(str(output))}, {report.with_reverse} of them in "
        f"both directions; {report.new} new, by {report.by}, of {report.pairs} pairs; "
        f"{report.seconds:.0f} s"
    ]
    if report.dropped:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.dropped.items())
        lines.append(f"dropped  {reasons}")
    return "\n".join(lines)
