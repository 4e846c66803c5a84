"""The command line: `python -m benchmarks.results list | run | table`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results.document import document, read_rows
from benchmarks.results.settings import Question, questions
from genmm_retriever.errors import GenmmError


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what was asked for.

    Returns:
        0; 1 if a row failed; 2 if the arguments make no sense.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    asked = questions(given.untrained)
    if given.only:
        unknown = sorted(set(given.only) - {one.name for one in asked})
        if unknown:
            parser.error(f"there is no question {unknown[0]!r}; `list` names them")
        asked = [one for one in asked if one.name in given.only]
    if given.do == "list":
        for one in asked:
            print(f"{one.name:16} {len(one.settings):3} rows  {one.title}")
        return 0
    if given.do == "table":
        peers = [json.loads(path.read_text(encoding="utf-8")) for path in given.peer or ()]
        print(document(asked, read_rows(given.rows), peers))
        return 0
    return _run(given, asked)


def _run(given: argparse.Namespace, asked: Sequence[Question]) -> int:
    from benchmarks.results.runner import Runner

    runner = Runner(
        described=given.described,
        queries=given.queries,
        work=given.work,
        rows=given.rows,
        model=given.model,
        limit=given.limit,
        seed=given.seed,
    )
    try:
        runner.run([setting for one in asked for setting in one.settings])
    except GenmmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.results",
        description="The experiments: one JSON file a row, and the document made of them.",
        epilog=(
            "example: genmm index flickr8k/dev.jsonl --output dev.genmm && python -m "
            "benchmarks.results run --described dev.genmm --queries flickr8k/dev.jsonl "
            "--work work --rows rows && python -m benchmarks.results table --rows rows"
        ),
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--only", nargs="+", metavar="QUESTION", help="these questions alone")
    shared.add_argument("--untrained", metavar="MODEL", help="a training-free model beside")
    commands = parser.add_subparsers(dest="do", required=True)
    commands.add_parser("list", parents=[shared], help="name the questions")
    run = commands.add_parser("run", parents=[shared], help="do the rows that are not done")
    run.add_argument("--described", type=Path, required=True, help="a finished index, read only")
    run.add_argument("--queries", type=Path, required=True, help="captioned-images JSONL")
    run.add_argument("--work", type=Path, required=True, help="folder for indexes")
    run.add_argument("--rows", type=Path, required=True, help="folder for one JSON file a row")
    run.add_argument("--model", default="builtin", help="the model to ask")
    run.add_argument("--limit", type=int, default=500, help="queries a row (500)")
    run.add_argument("--seed", type=int, default=0)
    table = commands.add_parser("table", parents=[shared], help="print docs/results.md")
    table.add_argument("--rows", type=Path, required=True, help="folder of the rows")
    table.add_argument("--peer", nargs="+", type=Path, help="results of dual_encoder, vision_stage")
    return parser


if __name__ == "__main__":
    sys.exit(main())
