"""Commands around an index: demo and doctor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .commands_ask import render_hits
from .console import Console, command, printable


def register_demo(app: typer.Typer) -> None:
    """Add demo, which `--help` lists first."""
    command(app, "demo", example="genmm demo --output genmm-demo", resumes=True)(demo)


def register(app: typer.Typer) -> None:
    """Add doctor."""
    command(app, "doctor", example="genmm doctor --json")(doctor)


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


def doctor(console: Console) -> None:
    """Say what is installed and what this machine can do."""
    from .doctor import examine, render

    found = examine()
    console.result(found, render(found))
