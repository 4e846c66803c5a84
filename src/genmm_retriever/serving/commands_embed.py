"""The command that keeps vectors of a contrastive encoder beside the items of an index."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ..errors import InputError
from .console import Console, command, printable
from .options import Device, IndexPath


def register(app: typer.Typer) -> None:
    """Add embed."""
    command(
        app,
        "embed",
        example="genmm embed photos.genmm --model open-clip:ViT-B-32/laion2b_s34b_b79k",
        resumes=True,
    )(embed)


def embed(
    console: Console,
    index: IndexPath,
    model: Annotated[
        str | None,
        typer.Option(
            help="open-clip:ARCHITECTURE/TAG, or a CLIP or SigLIP model by its hub name or folder."
        ),
    ] = None,
    drop: Annotated[
        bool, typer.Option("--drop", help="Take the vectors away; the model's own head counts.")
    ] = False,
    device: Device = None,
) -> None:
    """Keep vectors of CLIP or its kin beside the items; the verifier compares them."""
    if drop == (model is not None):
        raise InputError(
            "embed wants one of --model and --drop",
            "name an encoder: --model open-clip:ViT-B-32/laion2b_s34b_b79k",
        )
    from ..corpus.store import IndexReader

    # Whether there is an index is told before a model is loaded.
    IndexReader.open(index).close()
    from ..models.contrastive import load_contrastive
    from ..vectors import embed_index

    encoder = None if model is None else load_contrastive(model, device=device)
    report = embed_index(index, encoder, progress=console.progress)
    for name, reason in report.skipped:
        console.say(printable(f"no vector for {name}: {reason}"))
    told = (
        "the vectors are taken away"
        if report.encoder is None
        else f"{report.embedded} of {report.items} items embedded now by {report.encoder}"
    )
    console.result({"index": str(index), **asdict(report)}, told)
