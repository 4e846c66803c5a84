"""Commands that make, change and inspect an index."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import IndexDamagedError, InputError
from ..schema import IDENTIFIERS_PER_ITEM
from .console import Console, command, printable
from .options import Device, Identifiers, IndexPath, Items, Limit, Sources, Strict, UseText

if TYPE_CHECKING:
    from ..building import BuildReport
    from ..corpus.store import IndexReader


def register(app: typer.Typer) -> None:
    """Add index, add, delete, info and check."""
    command(app, "index", example="genmm index photos/ --output photos.genmm", resumes=True)(index)
    command(app, "add", example="genmm add photos.genmm new-photos/", resumes=True)(add)
    command(app, "delete", example="genmm delete photos.genmm cat.jpg dog.jpg")(delete)
    command(app, "info", example="genmm info photos.genmm --json")(info)
    command(app, "check", example="genmm check photos.genmm")(check)


def index(
    console: Console,
    source: Sources,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="INDEX", help="Folder of the new index.")
    ],
    model: Annotated[
        str, typer.Option(help="Model by its name on the hub or its path, or builtin.")
    ] = "builtin",
    identifiers: Annotated[
        Identifiers,
        typer.Option(
            help="Words, clues (any phrase of a text); for comparison digits, or a caption's start."
        ),
    ] = Identifiers.structured,
    identifiers_per_item: Annotated[
        int, typer.Option(min=1, max=16, help="How many ways lead to an item.")
    ] = IDENTIFIERS_PER_ITEM,
    items: Annotated[
        Items, typer.Option(help="Index the pictures, or each caption as a text item.")
    ] = Items.images,
    use_text: UseText = None,
    limit: Limit = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an index that is there.")
    ] = False,
    strict: Strict = False,
    seed: Annotated[int, typer.Option(help="Of sampling and clustering.")] = 0,
    device: Device = None,
) -> None:
    """Build an index; an interrupted build goes on where it stopped."""
    from ..retriever import GenerativeMMRetriever

    start = time.perf_counter()
    with GenerativeMMRetriever.from_images(
        list(source),
        path=output,
        model=model,
        identifiers=identifiers.value,
        identifiers_per_item=identifiers_per_item,
        items=items.value,
        use_text=use_text,
        limit=limit,
        overwrite=overwrite,
        strict=strict,
        progress=console.progress,
        seed=seed,
        device=device,
    ) as retriever:
        report = retriever.build_report
    _print_report(console, output, report, time.perf_counter() - start)


def add(
    console: Console,
    index: IndexPath,
    source: Sources,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace items whose ids are there already.")
    ] = False,
    strict: Strict = False,
) -> None:
    """Add items to an index that stays open for searching meanwhile."""
    from ..retriever import GenerativeMMRetriever

    start = time.perf_counter()
    with GenerativeMMRetriever.from_index(index) as retriever:
        report = retriever.add(
            list(source), replace=replace, strict=strict, progress=console.progress
        )
    _print_report(console, index, report, time.perf_counter() - start)


def delete(
    console: Console,
    index: IndexPath,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of items.")],
) -> None:
    """Delete items from an index."""
    from ..retriever import GenerativeMMRetriever

    with GenerativeMMRetriever.from_index(index) as retriever:
        count = retriever.delete(list(ids))
    console.result({"index": str(index), "deleted": count}, f"deleted {count} items")


def info(
    console: Console,
    index: IndexPath,
    prefix: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="List the identifiers that begin so, with their items; clues have none.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="At most so many identifiers with --prefix.")
    ] = 50,
) -> None:
    """Say what an index holds, without loading its model."""
    from ..corpus.store import SCHEMA_VERSION, IndexReader, count_notes, notes_by_row

    reader = IndexReader.open(index)
    try:
        if prefix is not None and reader.settings.identifiers == "clue":
            raise InputError(
                f"{index} is an index of clues: every phrase of a text is an identifier",
                "ask for one with genmm search",
            )
        if prefix is not None:
            _print_identifiers(console, reader, prefix, limit)
            return
        settings = reader.settings.model_dump(mode="json")
        notes = [note for found in notes_by_row(reader).values() for note in found]
        # In the settings these two name a kind; here the contract wants the counts.
        kinds = {"item_kind": settings.pop("items"), "identifier_kind": settings.pop("identifiers")}
        data: dict[str, Any] = {
            "index": str(index),
            **reader.counts(),
            **settings,
            **kinds,
            "schema_version": SCHEMA_VERSION,
            "generation": reader.generation,
            "adapter": reader.adapter_digest,
            "contrastive": (reader.find_json("contrastive") or {}).get("name"),
            "notes": count_notes(notes),
            "outdated_notes": count_notes(note for note in notes if note.version.is_outdated),
            "bytes": sum(f.stat().st_size for f in index.rglob("*") if f.is_file()),
        }
    finally:
        reader.close()
    width = max(map(len, data)) + 2
    console.result(data, "\n".join(f"{name:<{width}}{value}" for name, value in data.items()))


def _print_identifiers(console: Console, reader: IndexReader, prefix: str, limit: int) -> None:
    from ..constraints.keeping import identifiers_starting_with

    # One more than is shown tells whether there are more.
    found = identifiers_starting_with(reader, prefix, limit + 1)
    shown, more = found[:limit], len(found) > limit
    data = {
        "prefix": prefix,
        "identifiers": [{"text": text, "items": ids} for text, ids in shown],
        "more": more,
    }
    lines = [printable(f"{text}  ->  {', '.join(ids)}") for text, ids in shown]
    if more:
        lines.append(f"and more (the first {limit} are shown; see --limit)")
    console.result(data, "\n".join(lines or ["no identifier begins so"]))


def check(console: Console, index: IndexPath) -> None:
    """Read every byte of an index and compare its checksums."""
    from ..corpus.store import check_index

    problems = check_index(index)
    data = {
        "index": str(index),
        "ok": not problems,
        "problems": [{"file": str(p.file), "what": p.what, "mend": p.mend} for p in problems],
    }
    lines = [printable(f"{p.file}: {p.what}; {p.mend}") for p in problems]
    console.result(data, "\n".join(lines) if problems else "every file is as it was written")
    if problems:
        number = "1 problem" if len(problems) == 1 else f"{len(problems)} problems, the first"
        raise IndexDamagedError(
            f"{index} cannot be used: {number} in {problems[0].file}", problems[0].mend
        )


def _print_report(
    console: Console, index: Path, report: BuildReport | None, seconds: float
) -> None:
    if report is None:
        console.result({"index": str(index)}, f"{index} is complete")
        return
    data = {
        "index": str(index),
        "items": report.items,
        "added": report.added,
        "replaced": report.replaced,
        "unchanged": report.unchanged,
        "skipped": [{"id": name, "reason": reason} for name, reason in report.skipped],
        "seconds": round(seconds, 3),
    }
    for name, reason in report.skipped:
        console.say(printable(f"skipped {name}: {reason}"))
    text = (
        f"{printable(str(index))}: {report.items} items, {report.added} added, "
        f"{report.replaced} replaced, {report.unchanged} unchanged, "
        f"{len(report.skipped)} skipped, in {seconds:.1f} s"
    )
    console.result(data, text)
