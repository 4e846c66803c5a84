"""The command that has a model write notes about the items of an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .console import Console, command, printable
from .options import Device, IndexPath, Note

if TYPE_CHECKING:
    from ..corpus.store import NoteKind
    from ..describing import NotesReport


def register(app: typer.Typer) -> None:
    """Add describe."""
    command(
        app,
        "describe",
        example="genmm describe photos.genmm --kind dense --limit 500",
        resumes=True,
    )(describe)


def describe(
    console: Console,
    index: IndexPath,
    kind: Annotated[
        list[Note] | None,
        typer.Option(
            help="Captions, texts made precise by their picture, or background about what is "
            "named; may be repeated. All that the model can write when left out."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Who writes, by name or path; the index's own model when left out."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take at most so many items now.")
    ] = None,
    rewrite: Annotated[
        bool,
        typer.Option(
            "--rewrite", help="Write anew what other prompts or another model have written."
        ),
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print the notes that are there; write none.")
    ] = False,
    device: Device = None,
) -> None:
    """Write notes beside the items, which stay as they are; genmm train learns from them."""
    from ..corpus.store import NOTE_KINDS

    named = {one.value for one in kind or ()}
    kinds = [one for one in NOTE_KINDS if one in named] or None
    if show:
        if rewrite or model is not None:
            raise InputError("--show writes nothing", "leave out --model and --rewrite")
        _show(console, index, kinds, limit)
        return
    from ..describing import describe_index

    report = describe_index(
        index,
        kinds=kinds,
        model=model,
        limit=limit,
        rewrite=rewrite,
        device=device,
        progress=console.progress,
    )
    for name, reason in report.skipped:
        console.say(printable(f"skipped {name}: {reason}"))
    console.result({"index": str(index), **report.to_json()}, _told(report))


def _told(report: NotesReport) -> str:
    lines = []
    for kind, written in report.written.items():
        line = f"{kind:<10}{written} written, {report.kept[kind]} there already"
        if report.outdated[kind]:
            line += f" ({report.outdated[kind]} by other prompts or another model; see --rewrite)"
        if report.dropped[kind]:
            line += f", {report.dropped[kind]} could not be used"
        lines.append(line)
    lines += [f"  of {count} notes: {reason}" for reason, count in report.reasons.items()]
    if report.left:
        lines.append(f"{report.left} items are left; the same command goes on with them")
    return "\n".join(lines)


def _show(console: Console, index: Path, kinds: list[NoteKind] | None, limit: int | None) -> None:
    from ..corpus.store import IndexReader, notes_by_row

    with IndexReader.open(index) as reader:
        items = [
            [note for note in notes if kinds is None or note.kind in kinds]
            for notes in notes_by_row(reader).values()
        ]
    notes = [note for each in [some for some in items if some][:limit] for note in each]
    lines = []
    for note in notes:
        age = " (outdated)" if note.version.is_outdated else ""
        by = f"by {note.version.model}{age}"
        lines.append(printable(f"{note.item}  {note.kind}, {by}: {note.text}"))
    data = {"index": str(index), "notes": [note.to_json() for note in notes]}
    console.result(data, "\n".join(lines or ["there are no notes; genmm describe writes them"]))
