"""The command line: `python -m benchmarks NAME | --list | --all | --table | --chart ...`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.chart import chart
from benchmarks.harness import Options, result_of
from benchmarks.report import read_results, scaling_numbers, table

_FOLDERS = {"wordnet": 2, "flickr": 2, "knowledge": 1, "index": 1, "clothing": 1}
"""Options that name data, and how many parts of their paths are written down."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for.

    Returns:
        0; 1 if `--strict` and a bar was missed; 2 if the arguments make no sense.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    for option in ("cache", *_FOLDERS):
        path = getattr(given, option)
        setattr(given, option, path and path.expanduser().resolve())
    if given.table:
        print(table(read_results(given.table)))
        return 0
    if given.chart:
        print(chart(read_results(given.chart)))
        return 0
    if given.scaling:
        print(scaling_numbers(read_results(given.scaling)))
        return 0
    from benchmarks.claims import BENCHMARKS

    if given.list:
        for one in BENCHMARKS.values():
            bar = "no bar" if one.bar is None else f"{one.bar} {one.unit}"
            print(f"{one.name:24} {bar:28} {one.claim}")
        return 0
    if given.all:
        return _all(given, list(BENCHMARKS))
    if given.name not in BENCHMARKS:
        parser.error(f"there is no benchmark {given.name!r}; --list names them")
    return _one(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="One script a claim, each beside its peers in the same run.",
        epilog="example: python -m benchmarks trie_build --quick --json trie_build.json",
    )
    parser.add_argument("name", nargs="?", help="the benchmark to run")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and their bars")
    parser.add_argument("--all", action="store_true", help="run all, each in its own process")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="with --all: these alone")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE", help="a table of results")
    parser.add_argument(
        "--chart", nargs="+", type=Path, metavar="FILE", help="an SVG of differences of arms"
    )
    parser.add_argument(
        "--scaling", nargs="+", type=Path, metavar="FILE", help="the figures of docs/scaling.md"
    )
    parser.add_argument("--model", default="builtin", help="the model to decode with")
    parser.add_argument("--threads", type=int, help="of torch and numba; all cores by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(os.environ.get("GENMM_BENCH_CACHE", Options.cache)),
        help="folder for corpora and peers' indexes (GENMM_BENCH_CACHE)",
    )
    parser.add_argument("--wordnet", type=Path, metavar="FILE", help="WordNet passages.jsonl")
    parser.add_argument(
        "--flickr", type=Path, metavar="DIR", help="Flickr8k: train.jsonl, dev.jsonl and photos"
    )
    parser.add_argument(
        "--knowledge", type=Path, metavar="DIR", help="queries.jsonl and passages.jsonl"
    )
    parser.add_argument(
        "--index",
        type=Path,
        metavar="DIR",
        help="a finished index of Flickr8k's dev photos, read only; built in the cache otherwise",
    )
    parser.add_argument(
        "--clothing", type=Path, metavar="DIR", help="garments: items.jsonl and pictures"
    )
    return parser


def _one(given: argparse.Namespace) -> int:
    from benchmarks.claims import BENCHMARKS

    if given.threads:
        _limit_threads(given.threads)
    options = Options(
        given.quick,
        given.cache,
        given.wordnet,
        given.model,
        given.seed,
        given.flickr,
        given.knowledge,
        given.index,
        given.clothing,
    )
    with _libraries_on_stderr():
        result = result_of(BENCHMARKS[given.name], options, " ".join(_shown(given, given.name)))
    _write(result, given.json)
    return int(given.strict and result["ok"] is False)


@contextmanager
def _libraries_on_stderr() -> Iterator[None]:
    """What peers print (from Rust, past `sys.stdout`) must not mix with the result."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["RAYON_NUM_THREADS"] = str(threads)


def _all(given: argparse.Namespace, names: list[str]) -> int:
    """Each benchmark in a process of its own, so that none inherits another's memory."""
    unknown = [name for name in given.only or () if name not in names]
    if unknown:
        print(f"there is no benchmark {unknown[0]!r}; --list names them", file=sys.stderr)
        return 2
    results: list[dict[str, Any]] = []
    failed = False
    for name in given.only or names:
        print(f"== {name}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "result.json"
            command = [sys.executable, *_command(given, name)[1:], "--json", str(target)]
            code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
            if target.is_file():
                results += read_results([target])
            else:
                print(f"== {name} failed with exit code {code}", file=sys.stderr)
                failed = True
        # What is done stays done, whatever the next one does.
        _write(results, given.json, quiet=True)
    print(json.dumps(results, indent=1))
    missed = any(result["ok"] is False for result in results)
    return int(failed or (given.strict and missed))


def _command(given: argparse.Namespace, name: str) -> list[str]:
    command = ["python", "-m", "benchmarks", name]
    if given.quick:
        command.append("--quick")
    if given.model != "builtin":
        command += ["--model", given.model]
    if given.threads:
        command += ["--threads", str(given.threads)]
    if given.seed:
        command += ["--seed", str(given.seed)]
    for option in _FOLDERS:
        if path := getattr(given, option):
            command += [f"--{option}", str(path)]
    return [*command, "--cache", str(given.cache)]


def _shown(given: argparse.Namespace, name: str) -> list[str]:
    """The command as it is written down: without this machine's folders."""
    shown = _command(given, name)[:-2]
    for option, kept in _FOLDERS.items():
        if path := getattr(given, option):
            shown[shown.index(f"--{option}") + 1] = "/".join(path.parts[-kept:])
    return shown


def _write(result: Any, path: Path | None, *, quiet: bool = False) -> None:
    text = json.dumps(result, indent=1)
    if path is not None:
        path.write_text(text + "\n", encoding="utf-8")
    if not quiet:
        print(text)


if __name__ == "__main__":
    sys.exit(main())
