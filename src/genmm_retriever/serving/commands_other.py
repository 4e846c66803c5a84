"""Commands around an index: demo, train and doctor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .commands_ask import render_hits
from .console import Console, command, printable
from .options import Device, Limit


def register_demo(app: typer.Typer) -> None:
    """Add demo, which `--help` lists first."""
    command(app, "demo", example="genmm demo --output genmm-demo")(demo)


def register(app: typer.Typer) -> None:
    """Add train and doctor."""
    trainers = typer.Typer(
        help="Train a model's small parts.", no_args_is_help=True, rich_markup_mode=None
    )
    app.add_typer(trainers, name="train")
    command(
        trainers,
        "builtin",
        example="genmm train builtin flickr8k/train.jsonl --output weights --minutes 120",
    )(train_builtin)
    # A group of one command would otherwise be taken for the command itself.
    trainers.callback()(_group)
    command(app, "doctor", example="genmm doctor --json")(doctor)


def _group() -> None:
    """Train a model's small parts."""


def demo(
    console: Console,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for index and pictures.")
    ] = Path("genmm-demo"),
    model: Annotated[str, typer.Option(help="Model by name or path.")] = "builtin",
) -> None:
    """Index scikit-image's photographs, ask questions, draw the results."""
    from .demo import PHOTOGRAPHS, run_demo

    start = time.perf_counter()
    console.say(f"indexing {len(PHOTOGRAPHS)} photographs of scikit-image, then asking")
    answers = run_demo(output, model=model, progress=console.progress)
    seconds = time.perf_counter() - start
    sheet = output / "results.png"
    first = sum(answer.found_first for answer in answers)
    data = {
        "index": str(output / "index"),
        "sheet": str(sheet),
        "questions": [answer.to_json() for answer in answers],
        "found_first": first,
        "seconds": round(seconds, 2),
    }
    blocks = [f"{answer.question.label}\n{render_hits(answer.hits)}\n" for answer in answers]
    blocks.append(
        f"{first} of {len(answers)} questions have their picture first; {seconds:.0f} s.\n"
        f"Contact sheet: {printable(str(sheet))}\n"
        f'Ask more:      genmm search {printable(str(output / "index"))} "a full moon"'
    )
    console.result(data, "\n".join(blocks))


def train_builtin(
    console: Console,
    source: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="JSONL files of captioned images."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="For weights and model card.")
    ],
    questions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSONL of questions about pictures, with answers."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after so many minutes.")
    ] = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Of the order of examples.")] = 0,
    device: Device = None,
) -> None:
    """Train the builtin model's projector and adapter; an interrupted run goes on."""
    from ..training.builtin import train

    result = train(
        list(source),
        output,
        questions=questions,
        minutes=minutes,
        limit=limit,
        seed=seed,
        device=device,
        progress=console.progress,
    )
    data = {"output": str(output), **result}
    console.result(data, "\n".join(f"{name:<20}{value}" for name, value in data.items()))


def doctor(console: Console) -> None:
    """Say what is installed and what this machine can do."""
    from .doctor import examine, render

    found = examine()
    console.result(found, render(found))
