"""What every command shares: options, streams, exit codes and one-line errors.

Results go to stdout; the log, progress bars and errors go to stderr. Exit codes: 0 success,
2 bad usage or bad input, 1 a fault of the program's own, 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from ..errors import GenmmError, InputError, MissingExtraError, first_problem
from .entry import INTERRUPTED

PROGRAM = "genmm"

# Which extra brings a package that a command may find absent.
_EXTRA_OF = {
    "torch": "builtin",
    "transformers": "builtin",
    "peft": "builtin",
    "sklearn": "builtin",
    "skimage": "builtin",
    "scipy": "builtin",
    "sentence_transformers": "builtin",
    "tokenizers": "builtin",
    "ir_measures": "eval",
    "pyarrow": "parquet",
    "open_clip": "clip",
    "marisa_trie": "models",
    "fastapi": "serve",
    "uvicorn": "serve",
    "python_multipart": "serve",
    "prometheus_client": "serve",
    "mcp": "mcp",
}


@dataclass(frozen=True)
class Console:
    """How one command talks.

    Attributes:
        json: Print the result as one JSON object.
        debug: Show tracebacks.
        verbosity: -1 quiet, 0 normal, 1 verbose.
    """

    json: bool = False
    debug: bool = False
    verbosity: int = 0

    @property
    def progress(self) -> bool:
        """Whether progress bars are wanted."""
        return self.verbosity >= 0

    def result(self, data: Mapping[str, Any], text: str) -> None:
        """Print the result on stdout, as JSON or as text for people."""
        if self.json:
            # ASCII, so that any terminal encoding and any odd file name gives valid JSON.
            text = json.dumps(data, allow_nan=False, default=str)
        if text:
            with output():
                print(text)

    def say(self, message: str) -> None:
        """A line of the log, on stderr; silent with --quiet."""
        if self.verbosity >= 0:
            print(message, file=sys.stderr)


class OutputError(InputError):
    """Stdout cannot be written."""


@contextlib.contextmanager
def output() -> Iterator[None]:
    """Write to stdout, to the end.

    Raises:
        OutputError: If it cannot be written.
        BrokenPipeError: If its reader has gone.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        raise OutputError(
            f"the output cannot be written: {error.strerror or error}",
            "check where it is sent to and the free space there",
        ) from error


def drop_output() -> None:
    """Send what is left of stdout nowhere, or the interpreter complains of it when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    r"""One line that any terminal can show: control characters and lone surrogates escaped.

    Examples:
        >>> printable("a\nb\udcff")
        'a\\nb\\udcff'
    """
    escaped = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


_JSON = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
_DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
_VERBOSE = Annotated[bool, typer.Option("--verbose", "-v", help="Log more, on stderr.")]
_QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="No log and no progress bars.")]
_SHARED = {"as_json": _JSON, "debug": _DEBUG, "verbose": _VERBOSE, "quiet": _QUIET}


_SHORT = {
    "demo": "Index some photographs, ask questions, draw the answers.",
    "index": "Build an index; an interrupted build goes on.",
    "add": "Add items to an index that stays open for searching.",
    "search": "Find items by words, by a picture, or by both.",
    "ask": "Answer a question from what an index holds, or decline.",
    "eval": "Measure recall, reciprocal rank and time.",
    "describe": "Write notes beside the items; training learns from them.",
    "embed": "Keep vectors of CLIP or its kin beside the items.",
    "convert": "Turn CIRR or FashionIQ into items and composed queries.",
    "mcp": "Let agents search an index by the Model Context Protocol.",
    "triplets": "Write what leads from one picture of an index to another.",
    "train": "Train an index's model on the index.",
    "train builtin": "Train the builtin model's projector and adapter.",
    "train composer": "Train how the builtin model composes picture and change.",
    "train matching": "Train the builtin model's second contrastive head.",
}
"""What the list of commands says of those whose first sentence it would cut."""


def command(
    app: typer.Typer, name: str, *, example: str, resumes: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function `(console, ...)` as a command with the shared options.

    Args:
        app: Where the command is added.
        name: As typed.
        example: One line, shown at the end of `--help`.
        resumes: Whether the same command goes on where it was interrupted.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        add = app.command(name, epilog=f"Example:  {example}", short_help=_SHORT.get(name))
        add(_with_console(function, resumes=resumes))
        return function

    return register


def _with_console(function: Callable[..., None], *, resumes: bool) -> Callable[..., None]:
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(function, eval_str=True).parameters.values()
        if parameter.name != "console"
    ]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
        for name, option in _SHARED.items()
    ]

    @functools.wraps(function)
    def run(**values: Any) -> None:
        flags = {name: bool(values.pop(name)) for name in _SHARED}
        console = Console(
            json=flags["as_json"],
            debug=flags["debug"],
            verbosity=-1 if flags["quiet"] else int(flags["verbose"]),
        )
        _set_up_logging(console)
        action = functools.partial(function, console, **values)
        code = _guarded(console, action, resumes=resumes)
        if code:
            raise typer.Exit(code)

    # typer reads the signature: what it sees is the function's own options and the shared ones.
    del run.__wrapped__
    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*own, *shared]}
    return run


def _set_up_logging(console: Console) -> None:
    level = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}[console.verbosity]
    logging.basicConfig(stream=sys.stderr, level=level, format="%(name)s: %(message)s", force=True)
    if console.progress:
        logging.getLogger("genmm_retriever").setLevel(logging.INFO)
    else:
        _silence_libraries()


def _silence_libraries() -> None:
    """No progress bars of transformers and the hub's client, imported already or later."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    loaded: Any = sys.modules.get("transformers")
    if loaded is not None:
        loaded.logging.disable_progress_bar()


def _guarded(console: Console, action: Callable[[], None], *, resumes: bool) -> int:
    try:
        action()
        with output():
            pass
    except KeyboardInterrupt:
        kept = "; finished work is kept, the same command goes on from there"
        fail(f"interrupted{kept if resumes else ''}")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`genmm search ... | head`): not an error.
        drop_output()
        return 0
    except Exception as error:
        if console.debug:
            traceback.print_exc(file=sys.stderr)
        message, code = describe(error)
        fail(message)
        return code
    return 0


def describe(error: Exception) -> tuple[str, int]:
    """The one line that is shown for an error, and the exit code that goes with it."""
    if isinstance(error, ModuleNotFoundError) and not isinstance(error, GenmmError):
        package = (error.name or "").partition(".")[0]
        if package in _EXTRA_OF:
            error = MissingExtraError(package, _EXTRA_OF[package])
    if isinstance(error, GenmmError):
        return str(error), error.exit_code
    if isinstance(error, ValidationError):
        return first_problem(error), 2
    if isinstance(error, OSError) and error.filename is not None:
        name = os.fsdecode(error.filename) if not isinstance(error.filename, int) else "a file"
        return f"{name}: {error.strerror} (check the path, its rights and the free space)", 2
    kind = type(error).__name__
    return f"internal error, {kind}: {error} (run again with --debug and report this)", 1


def fail(message: str) -> None:
    """Print one error line on stderr."""
    print(f"{PROGRAM}: {printable(message)}", file=sys.stderr)
