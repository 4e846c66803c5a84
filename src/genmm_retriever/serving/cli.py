"""The command line `genmm`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Protocol, cast

import typer

from . import (
    commands_ask,
    commands_convert,
    commands_describe,
    commands_embed,
    commands_index,
    commands_other,
    commands_serve,
    commands_train,
    commands_triplets,
)
from .console import PROGRAM, OutputError, drop_output, fail, output
from .entry import INTERRUPTED

app = typer.Typer(
    name=PROGRAM,
    cls=commands_train.TrainGroup,
    help="Find pictures and texts by the identifiers that a language model writes for them.",
    epilog="Example:  genmm demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from genmm_retriever import __version__

        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


commands_other.register_demo(app)
commands_index.register(app)
commands_ask.register(app)
commands_describe.register(app)
commands_embed.register(app)
commands_convert.register(app)
commands_triplets.register(app)
commands_train.register(app)
commands_serve.register(app)
commands_other.register(app)


class _UsageError(Protocol):
    """What click's and typer's own usage errors have in common."""

    exit_code: int
    ctx: Any

    def format_message(self) -> str: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; `sys.argv[1:]` if None.

    Returns:
        The exit code: 0, 1, 2, or 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # Names on disk may hold bytes that the terminal's encoding lacks.
            reconfigure(errors="backslashreplace")
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        with output():
            # Commands tell of their own errors; what is left is the help's.
            code = app(args=words, prog_name=PROGRAM, standalone_mode=False)
    except OutputError as error:
        fail(str(error))
        return error.exit_code
    except BrokenPipeError:
        drop_output()
        return 0
    except typer.Abort:
        fail("interrupted")
        return INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _report_usage(cast(_UsageError, error))
    return code if isinstance(code, int) else 0


def _report_usage(error: _UsageError) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return 2
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else PROGRAM
    message = " ".join(error.format_message().split())
    fail(f"{message.rstrip('.')} (see: {path} --help)")
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
