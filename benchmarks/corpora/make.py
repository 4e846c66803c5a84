"""The command line: `python -m benchmarks.corpora.make SET --output FILE` writes a test set."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.corpora.composed import composed_queries
from benchmarks.corpora.garments import garment_queries, read_garments
from benchmarks.corpora.photos import Made, Photo, Record, read_photos, write_records
from benchmarks.corpora.planted import planted_items
from benchmarks.corpora.questions import picture_questions, word_questions
from benchmarks.corpora.removed import removed_queries
from benchmarks.corpora.underspecified import underspecified_queries
from benchmarks.corpora.verbose import verbose_queries
from benchmarks.harness import Options, Skipped
from genmm_retriever.errors import GenmmError


@dataclass(frozen=True)
class TestSet:
    """A set that can be made.

    Attributes:
        about: One line for people.
        number: Queries by default; None for all that the rule gives.
        make: Makes it.
        parts: What comes with it beside its lines.
    """

    __test__ = False

    about: str
    number: int | None
    make: Callable[[argparse.Namespace, int | None], Made]
    parts: tuple[str, ...] = ()


def _photos(given: argparse.Namespace) -> list[Photo]:
    if given.flickr is None:
        raise Skipped("give --flickr DIR, a folder with train.jsonl and dev.jsonl")
    return read_photos(given.flickr / f"{given.split or 'dev'}.jsonl")


def _composed(given: argparse.Namespace, number: int | None) -> Made:
    photos = _photos(given)
    if given.features is not None:
        features = np.load(given.features, allow_pickle=False)
    else:
        from benchmarks.corpora import captioned, models

        paths = [photo.image for photo in photos]
        features = captioned.cell_features(paths, models.load(given.model), given.cache)
    return composed_queries(
        photos, features, number=number, seed=given.seed, per_photo=given.per_photo
    )


def _garments(given: argparse.Namespace, number: int | None) -> Made:
    if given.clothing is None:
        raise Skipped("give --clothing DIR, a folder with items.jsonl")
    garments = read_garments(given.clothing / "items.jsonl")
    return garment_queries(garments, split=given.split or "test", number=number, seed=given.seed)


def _questions(
    given: argparse.Namespace, number: int | None, make: Callable[..., Made] = picture_questions
) -> Made:
    if given.knowledge is None:
        raise Skipped("give --knowledge DIR, a folder with queries.jsonl and passages.jsonl")
    held_out = (given.split or "dev") != "train"
    return make(given.knowledge, number=number, held_out=held_out, seed=given.seed)


def _planted(given: argparse.Namespace, number: int | None) -> Made:
    photos = _photos(given)
    return planted_items(photos, number=number or len(photos), seed=given.seed)


SETS = {
    "composed": TestSet(
        "a photo and the change that leads to another", None, _composed, ("triplets",)
    ),
    "garments": TestSet(
        "the same colour, another garment", 300, _garments, ("items", "sources", "triplets")
    ),
    "underspecified": TestSet(
        "a subject and one weak fact of it",
        200,
        lambda given, number: underspecified_queries(
            _photos(given), number=number, seed=given.seed
        ),
        ("twins",),
    ),
    "verbose": TestSet(
        "a caption inside a wordy request",
        250,
        lambda given, number: verbose_queries(_photos(given), number=number, seed=given.seed),
        ("twins",),
    ),
    "questions": TestSet(
        "pictures and a question that points at them, among glosses", None, _questions, ("items",)
    ),
    "wordings": TestSet(
        "glosses asked for in words",
        100,
        lambda given, number: _questions(given, number, word_questions),
        ("items",),
    ),
    "planted": TestSet(
        "text items, some of which give orders", 100, _planted, ("twins", "queries")
    ),
    "removed": TestSet(
        "queries of which half are to lose their photo",
        None,
        lambda given, number: removed_queries(_photos(given), number=number, seed=given.seed),
        ("deleted",),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a set and write it.

    Returns:
        0; 2 if the arguments make no sense or the data cannot be read.
    """
    given = _parser().parse_args(arguments)
    chosen = SETS[given.set]
    number = chosen.number if given.number is None else given.number
    try:
        wrong = [part for part in ("twins", "queries", "items", "sources", "deleted", "triplets")
                 if getattr(given, part) and part not in chosen.parts]  # fmt: skip
        if wrong:
            raise Skipped(f"there are no {wrong[0]} of {given.set}; leave --{wrong[0]} out")
        made = chosen.make(given, number or None)
        _write(given, made)
    except (GenmmError, Skipped, OSError, ValueError) as error:
        print(f"{given.set}: {error}", file=sys.stderr)
        return 2
    dropped = dict(made.dropped.most_common())
    print(json.dumps({"set": given.set, "lines": len(made.records), "dropped": dropped}))
    return 0


def _write(given: argparse.Namespace, made: Made) -> None:
    left_out = {"text": "image", "image": "text"}.get(given.only or "")
    lines = [{k: v for k, v in one.items() if k != left_out} for one in made.records]
    write_records(given.output, lines)
    for part in ("twins", "queries", "items", "sources"):
        path = getattr(given, part)
        if path is not None:
            write_records(path, getattr(made, part))
    if given.triplets is not None:
        triplets = [_triplet(one, place) for place, one in enumerate(made.records)]
        write_records(given.triplets, triplets)
    if given.deleted is not None:
        ids = "".join(f"{one}\n" for one in made.deleted)
        given.deleted.write_text(ids, encoding="utf-8")


def _triplet(record: Record, place: int) -> Record:
    """A composed query as `genmm train` learns from it; of several targets one, in turn."""
    target = record["relevant"][place % len(record["relevant"])]
    return {"reference": record["reference"], "target": target, "text": record["text"]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.corpora.make",
        description="Make a test set by rule from photos with human captions, as JSONL.",
        epilog="sets: "
        + "; ".join(f"{name}: {one.about}" for name, one in SETS.items())
        + ". Example: python -m benchmarks.corpora.make verbose --flickr flickr8k "
        "--output verbose.jsonl --twins plain.jsonl && genmm eval dev.genmm verbose.jsonl",
    )
    parser.add_argument("set", choices=list(SETS), help="what to make")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSONL")
    parser.add_argument("--flickr", type=Path, metavar="DIR", help="Flickr8k: dev.jsonl and photos")
    parser.add_argument("--clothing", type=Path, metavar="DIR", help="items.jsonl and pictures")
    parser.add_argument(
        "--knowledge", type=Path, metavar="DIR", help="queries.jsonl, passages.jsonl and pictures"
    )
    parser.add_argument("--split", help="of the data (dev; for garments test)")
    parser.add_argument("--number", type=int, help="how many; 0 for all that the rule gives")
    parser.add_argument(
        "--only", choices=("text", "image"), help="of composed queries this half alone"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--twins", type=Path, metavar="FILE", help="the same ids under the plain condition"
    )
    parser.add_argument("--queries", type=Path, metavar="FILE", help="planted: what to ask")
    parser.add_argument(
        "--items", type=Path, metavar="FILE", help="garments, questions, wordings: what to index"
    )
    parser.add_argument(
        "--sources",
        type=Path,
        metavar="FILE",
        help="garments: the pictures with their label as caption, to train on",
    )
    parser.add_argument(
        "--deleted", type=Path, metavar="FILE", help="removed: ids to delete, one a line"
    )
    parser.add_argument(
        "--triplets", type=Path, metavar="FILE", help="composed, garments: the same to train on"
    )
    parser.add_argument(
        "--per-photo", type=int, default=2, help="composed: times that a photo is used each way"
    )
    parser.add_argument(
        "--features", type=Path, metavar="FILE", help="composed: .npy of the photos, [n, d]"
    )
    parser.add_argument("--model", default="builtin", help="composed: sees the photos otherwise")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(os.environ.get("GENMM_BENCH_CACHE", Options.cache)).expanduser(),
        help="composed: folder where features are kept (GENMM_BENCH_CACHE)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
