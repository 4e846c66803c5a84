"""Commands that train: an index's model, or the parts that ship with the builtin model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import Console, command, printable
from .options import Device, IndexPath, Limit

if TYPE_CHECKING:
    from ..training import TrainingReport

Minutes = Annotated[
    float | None, typer.Option(min=0.1, help="Stop after so many minutes of training.")
]
BUILTIN = "train builtin"
COMPOSER = "train composer"
MATCHING = "train matching"
"""Names with a blank in them, beside `train`: see `TrainGroup`."""


class TrainGroup(typer.core.TyperGroup):
    """Commands of which `train INDEX` and `train builtin SOURCE...` are two.

    `builtin` is a name of the second, not of an index; an index of that name is `./builtin`. So
    it is with `train composer` and `train matching`.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the words name, and the words that are left."""
        if (name := " ".join(args[:2])) in (BUILTIN, COMPOSER, MATCHING):
            args = [name, *args[2:]]
        return super().resolve_command(ctx, args)


def register(app: typer.Typer) -> None:
    """Add them."""
    command(app, "train", example="genmm train photos.genmm --texts captions.jsonl", resumes=True)(
        train
    )
    command(
        app,
        BUILTIN,
        example="genmm train builtin flickr8k/train.jsonl --output weights --minutes 120",
    )(train_builtin)
    command(
        app,
        COMPOSER,
        example="genmm train composer flickr8k/train.jsonl --triplets t.jsonl --output weights",
    )(train_composer)
    command(app, MATCHING, example="genmm train matching flickr8k/train.jsonl --output weights")(
        train_matching
    )


def train(
    console: Console,
    index: IndexPath,
    texts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSONL of captions or queries that people wrote."),
    ] = None,
    triplets: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="JSONL of `genmm triplets`; may be given repeatedly."),
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(min=0.01, help="Passes over all pairs; 3, or 2 up to 100 items.")
    ] = None,
    minutes: Minutes = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="So many steps of 16 prompts instead of epochs.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Its peak; 1e-4, or 5e-4 for a small model.")
    ] = None,
    rank: Annotated[int, typer.Option(min=1, help="Of the LoRA matrices.")] = 16,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Go on with what was added since the last training.")
    ] = False,
    replay: Annotated[
        float, typer.Option(min=0.0, help="Old pairs for each new one with --refresh.")
    ] = 1.0,
    no_notes: Annotated[
        bool, typer.Option("--no-notes", help="Leave out the notes of genmm describe.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Publish even if held-out recall did not rise.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of all choices.")] = 0,
    device: Device = None,
) -> None:
    """Train the index's model on the index; an interrupted training goes on.

    Parts of the builtin model are trained by: genmm train builtin (or matching, or composer)
    SOURCE... --output DIR
    """
    from ..training import train_index

    report = train_index(
        index,
        texts=texts,
        triplets=triplets or None,
        epochs=epochs,
        minutes=minutes,
        steps=steps,
        learning_rate=learning_rate,
        rank=rank,
        refresh=refresh,
        replay=replay,
        notes=not no_notes,
        force=force,
        seed=seed,
        device=device,
        progress=console.progress,
    )
    console.result({"index": str(index), **report.to_json()}, _told(index, report))


def _told(index: Path, report: TrainingReport) -> str:
    lines = [
        f"before   {report.before}",
        f"after    {report.after}",
        _examined(report),
        f"{report.pairs} pairs an epoch, {_number(report.steps, 'step')}, the best after "
        f"{report.best_step}; {report.seconds:.0f} s",
    ]
    if report.composed:
        passed = f", {report.passed_over} passed over" if report.passed_over else ""
        held = f"{report.held_composed} more held out{passed}"
        lines.append(f"{report.composed} composed queries of triplets, {held}")
    if report.published:
        forced = "" if report.rose else "recall did not rise, but --force publishes all the same: "
        lines.append(f"{forced}{printable(str(index))} answers with the trained model now")
    else:
        lines.append(
            "held-out recall did not rise, so nothing was published; --texts with queries that "
            "people wrote may help, --force publishes all the same"
        )
    return "\n".join(lines)


def _examined(report: TrainingReport) -> str:
    """What the recalls are of, and how much they may flatter."""
    model = report.held_out - report.held_human
    written = [
        f"{number} {by}"
        for number, by in ((model, "written by the model"), (report.held_human, "by people"))
        if number
    ]
    return (
        f"{_number(report.held_out, 'held-out query', 'held-out queries')} "
        f"({', '.join(written)}), one of which is {100 / report.held_out:.1f} points; the same "
        "ones chose the step, which flatters"
    )


def _number(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


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
    minutes: Minutes = None,
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
    _tell(console, output, result)


def train_composer(
    console: Console,
    source: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="JSONL files of captioned images."),
    ],
    triplets: Annotated[
        list[Path],
        typer.Option(metavar="FILE", help="JSONL of triplets by the ids of SOURCE; repeatable."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="For composer.safetensors.")
    ],
    seed: Annotated[int, typer.Option(help="Of the split, the order and noise.")] = 0,
    device: Device = None,
) -> None:
    """Train how the builtin model composes a picture and a change to it."""
    from ..training.builtin import train_composer as train

    result = train(source, triplets, output, seed=seed, device=device, progress=console.progress)
    _tell(console, output, result, width=24)


def train_matching(
    console: Console,
    source: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="JSONL files of captioned images."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="For head.safetensors.")
    ],
    seed: Annotated[int, typer.Option(help="Of the weights, the order and dropout.")] = 0,
    device: Device = None,
) -> None:
    """Train the builtin model's second contrastive head, the rest staying as it is."""
    from ..training.builtin import train_matching as train

    result = train(source, output, seed=seed, device=device, progress=console.progress)
    _tell(console, output, result)


def _tell(console: Console, output: Path, result: dict[str, Any], *, width: int = 20) -> None:
    """Print where the weights lie and the figures of their training."""
    data = {"output": str(output), **result}
    console.result(data, "\n".join(f"{name:<{width}}{value}" for name, value in data.items()))
