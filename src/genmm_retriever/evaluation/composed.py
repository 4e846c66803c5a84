"""Composed image retrieval as published: CIRR and FashionIQ, their pictures and queries.

A query is a reference picture and words that say what is different in the one looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..corpus.references import image_reference, printable
from ..errors import InputError, SourceError
from ..schema import Item, Query
from .annotations import (
    annotation_file,
    exists,
    picture_within,
    read_annotations,
    record_named,
    records_of,
    text_of,
    texts_of,
)
from .datasets import EvalQuery, QuerySet, refuse_duplicates

CATEGORIES = ("dress", "shirt", "toptee")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_AROUND = ".?, "


@dataclass(frozen=True)
class ComposedSet:
    """The pictures to index, and the queries over them.

    Attributes:
        items: Pictures of the split, by the names that the data set gives them.
        queries: Composed queries with their targets.
        missing: Names of pictures that there is no file of, and which were left out.
        dropped: How many queries were left out because their reference or target is missing.
    """

    items: tuple[Item, ...]
    queries: QuerySet
    missing: tuple[str, ...] = ()
    dropped: int = 0


def read_cirr(
    folder: str | Path, images: str | Path, *, split: str = "val", skip_missing: bool = False
) -> ComposedSet:
    """Read CIRR (Liu et al., arXiv 2108.04024): open-domain photographs in sets of six.

    All pictures of the split are searched. By the published protocol the reference is left out
    of what is found, and the other five of the reference's set are ranked by themselves too:
    `EvalQuery.reference` and `EvalQuery.subset`. The target is `target_hard`.

    Args:
        folder: Holds `captions/cap.rc2.<split>.json` and `image_splits/split.rc2.<split>.json`.
        images: Holds the pictures under the paths of the second file (`dev/...`, `train/...`).
        split: `"val"` or `"train"`; the targets of `"test1"` are not published.
        skip_missing: Leave out pictures without a file, and queries that need them.

    Raises:
        SourceError: If a file is absent or a record of it is broken (it is named), a picture
            leads out of `images`, or is missing and not to be skipped.
    """
    folder = Path(folder)
    listing = annotation_file(folder, "image_splits", f"split.rc2.{split}.json")
    captions = annotation_file(folder, "captions", f"cap.rc2.{split}.json")
    names = read_annotations(listing)
    if not isinstance(names, dict):
        raise SourceError(f"{listing} is not an object", "a split file maps names to paths")
    paths: dict[str, Path] = {}
    for name, path in names.items():
        with record_named(listing, repr(name)):
            paths[name] = picture_within(Path(images), path)
    there = _there(listing, paths, Path(images), skip_missing)
    queries: list[EvalQuery] = []
    for number, record in records_of(captions):
        with record_named(captions, number):
            queries.append(_of_cirr(record, paths))
    items = [_item(listing, name, paths[name]) for name in there]
    return _composed(captions, items, queries, sorted(paths.keys() - there))


def _of_cirr(record: Mapping[str, Any], paths: Mapping[str, Path]) -> EvalQuery:
    if "target_hard" not in record:
        raise ValueError('it has no "target_hard" (those of the test split are not published)')
    reference, target = text_of(record, "reference"), text_of(record, "target_hard")
    image_set = record.get("img_set")
    members = texts_of(image_set if isinstance(image_set, dict) else {}, "members")
    _check_names([reference, target, *members], paths)
    if target not in members or target == reference:
        raise ValueError(f"the target {target!r} is not one of the set beside the reference")
    pair = record.get("pairid")
    return EvalQuery(
        id=str(pair) if isinstance(pair, int) else text_of(record, "pairid"),
        query=Query(text=text_of(record, "caption"), image=_reference_to(paths[reference])),
        relevant=frozenset({target}),
        reference=reference,
        subset=frozenset(members) - {reference},
    )


def read_fashioniq(
    folder: str | Path,
    images: str | Path,
    *,
    categories: Sequence[str] = CATEGORIES,
    split: str = "val",
    skip_missing: bool = False,
) -> ComposedSet:
    """Read FashionIQ (Wu et al., arXiv 1905.12794): photographs of clothes, by category.

    By the published protocol each category is searched by itself, among the pictures of its
    split, and the reference stays among them; figures are given by category and as the mean of
    the categories. So the items have their `category` as metadata, by which the queries filter,
    and `EvalQuery.group` names it.

    The two captions become one text, "first and second" in this order, each without the blanks
    and `.`, `?`, `,` around it, as the start kit and CLIP4Cir (arXiv 2308.11485) join them; the
    latter also begins it with a capital. Codes that average the features of both orders, such
    as SEARLE's, have no counterpart here, where a query is one text.

    Args:
        folder: Holds `captions/cap.<category>.<split>.json` and
            `image_splits/split.<category>.<split>.json`.
        images: Holds the pictures as `<name>.jpg` (or `.jpeg`, `.png`, `.webp`).
        categories: Of `"dress"`, `"shirt"` and `"toptee"`.
        split: `"val"` or `"train"`; the targets of `"test"` are not published.
        skip_missing: Leave out pictures without a file, and queries that need them.

    Raises:
        SourceError: If a file is absent or a record of it is broken (it is named), a picture
            leads out of `images`, or is missing and not to be skipped.
        InputError: If there is no such category.
    """
    unknown = [category for category in categories if category not in CATEGORIES]
    if unknown or not categories:
        named = repr(unknown[0]) if unknown else "none"
        raise InputError(f"the category {named} is not there", f"one of {', '.join(CATEGORIES)}")
    folder, images = Path(folder), Path(images)
    paths: dict[str, Path] = {}
    worn: dict[str, list[str]] = {}
    there: dict[str, None] = {}
    queries: list[EvalQuery] = []
    for category in dict.fromkeys(categories):
        listing = annotation_file(folder, "image_splits", f"split.{category}.{split}.json")
        captions = annotation_file(folder, "captions", f"cap.{category}.{split}.json")
        own = _fashion_pictures(listing, images)
        there |= dict.fromkeys(_there(listing, own, images, skip_missing))
        paths |= own
        for name in own:
            worn.setdefault(name, []).append(category)
        queries += _fashion_queries(captions, category, own)
    items = [_item(folder, name, paths[name], {"category": worn[name]}) for name in there]
    return _composed(folder, items, queries, sorted(paths.keys() - there.keys()))


def _fashion_pictures(listing: Path, images: Path) -> dict[str, Path]:
    names = read_annotations(listing)
    if not isinstance(names, list):
        raise SourceError(f"{listing} is not a list", "a split file is a list of names")
    paths: dict[str, Path] = {}
    for number, name in enumerate(names, start=1):
        with record_named(listing, number):
            paths[name] = picture_within(images, name, _SUFFIXES)
    return paths


def _fashion_queries(captions: Path, category: str, own: Mapping[str, Path]) -> Iterator[EvalQuery]:
    for number, record in records_of(captions):
        with record_named(captions, number):
            if "target" not in record:
                raise ValueError('it has no "target" (those of the test split are not published)')
            reference, target = text_of(record, "candidate"), text_of(record, "target")
            _check_names([reference, target], own)
            query = EvalQuery(
                id=f"{category}-{number}",
                query=Query(
                    text=joined_captions(texts_of(record, "captions")),
                    image=_reference_to(own[reference]),
                    filters={"category": category},
                ),
                relevant=frozenset({target}),
                group=category,
            )
        yield query


def joined_captions(captions: Sequence[str]) -> str:
    """The captions of FashionIQ as one text, in their order; empty ones are passed over.

    Raises:
        ValueError: If all are empty.

    Examples:
        >>> joined_captions(["is solid black. ", "has longer sleeves"])
        'is solid black and has longer sleeves'
    """
    kept = [caption.strip(_AROUND) for caption in captions if caption.strip(_AROUND)]
    if not kept:
        raise ValueError("its captions are empty")
    return " and ".join(kept)


def _composed(
    source: Path, items: Sequence[Item], queries: Sequence[EvalQuery], missing: Sequence[str]
) -> ComposedSet:
    refuse_duplicates(source, queries)
    there = {item.id for item in items}
    shown = {item.image for item in items}
    kept = tuple(
        replace(query, subset=query.subset & there)
        for query in queries
        if query.query.image in shown and query.relevant <= there
    )
    if not kept:
        raise SourceError(
            f"{printable(str(source))} holds no query whose pictures are there",
            "are the annotations and the pictures of the same split?",
        )
    return ComposedSet(
        tuple(items),
        QuerySet(kept, "any", len(queries)),
        tuple(missing),
        len(queries) - len(kept),
    )


def _there(
    listing: Path, paths: Mapping[str, Path], images: Path, skip_missing: bool
) -> dict[str, None]:
    """The names whose pictures are there, in their order."""
    there = {name: None for name, path in paths.items() if exists(path)}
    missing = [path for name, path in paths.items() if name not in there]
    if missing and not (skip_missing and there):
        raise SourceError(
            f"{len(missing)} of the {len(paths)} pictures of {listing} are not there, for example "
            f"{printable(str(missing[0]))}",
            f"name the folder that holds them; it was {printable(str(images))}"
            + ("" if skip_missing else "; --skip-missing leaves them out"),
        )
    return there


def _item(source: Path, name: str, path: Path, metadata: Mapping[str, Any] | None = None) -> Item:
    with record_named(source, repr(name)):
        return Item(id=name, image=_reference_to(path), metadata=dict(metadata or {}))


def _reference_to(path: Path) -> str:
    return image_reference(path.absolute())


def _check_names(names: Sequence[str], known: Mapping[str, Path]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"the picture {name!r} is not one of the split")
