"""Questions with known answers, in the field's formats."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from pydantic import ValidationError

from ..corpus.lines import iter_jsonl
from ..errors import InputError, SourceError
from ..schema import Query

Direction = Literal["text-to-image", "image-to-text"]
RecallKind = Literal["any", "fraction"]

_CAPTIONED = {"id", "image", "captions", "text", "title", "metadata"}
_QUERY = {"id", "text", "image", "relevant", "reference", "subset", "filters", "group"}


@dataclass(frozen=True)
class EvalQuery:
    """A query and the ids of the items that answer it.

    Attributes:
        id: Unique within the file.
        query: What is asked.
        relevant: Ids of the items that answer it.
        reference: The item that the query's picture shows, if it is left out of what is found.
        subset: Ids of the few items among which the answer is looked for once more; they may
            hold the reference, which is left out there too.
        group: What the query belongs to, if figures are wanted by group as well.
    """

    id: str
    query: Query
    relevant: frozenset[str]
    reference: str | None = None
    subset: frozenset[str] = frozenset()
    group: str | None = None


@dataclass(frozen=True)
class QuerySet(Sequence[EvalQuery]):
    """Queries, and what the field calls recall on a set of this kind.

    Attributes:
        queries: In the order of the file.
        recall: `"any"` counts a query as found when any relevant item is among the first k (the
            convention of image-caption retrieval and M-BEIR), `"fraction"` counts the share of
            its relevant items (BEIR). With one relevant item a query they are equal.
        available: How many queries the file holds, before `limit`.
    """

    queries: tuple[EvalQuery, ...]
    recall: RecallKind = "any"
    available: int = 0

    @overload
    def __getitem__(self, index: int) -> EvalQuery: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[EvalQuery, ...]: ...
    def __getitem__(self, index: int | slice) -> EvalQuery | tuple[EvalQuery, ...]:
        return self.queries[index]

    def __len__(self) -> int:
        return len(self.queries)


def read_queries(
    path: str | Path,
    *,
    direction: Direction = "text-to-image",
    limit: int | None = None,
    seed: int = 0,
    split: str = "test",
) -> QuerySet:
    """Read queries with their relevant items.

    Args:
        path: A JSONL file of query lines `{"id"?, "text"?, "image"?, "relevant": [ids]}` or of
            captioned-images lines `{"id", "image", "captions": [...]}`, or a BEIR folder. A
            query line may also have `"filters"` (as of `Query`), and `"reference"` (an id),
            `"subset"` ([ids]) and `"group"` as `EvalQuery` has them.
        direction: For captioned lines: each caption asks for its picture, or each picture asks
            for its captions (items `<id>#<n>`, as `--items captions` indexes them).
        limit: Take a sample of at most so many queries.
        seed: Of the sample; equal seeds give equal samples.
        split: Which `qrels/<split>.tsv` of a BEIR folder.

    Raises:
        SourceError: If the file is absent, a line is broken (its number is named), or there is
            no query in it.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}", "give at least 1, or leave it out for all queries")
    if path.is_dir():
        found, recall = _read_beir(path, split), "fraction"
    elif path.is_file():
        found, recall = list(_read_jsonl(path, direction)), "any"
    else:
        raise SourceError(f"{path} does not exist", "give a JSONL file of queries or a BEIR folder")
    if not found:
        raise SourceError(
            f"{path} holds no query", "a query line has text or image, and relevant ids"
        )
    refuse_duplicates(path, found)
    chosen = found
    if limit is not None and limit < len(found):
        rows = sorted(random.Random(seed).sample(range(len(found)), limit))
        chosen = [found[row] for row in rows]
    return QuerySet(tuple(chosen), "fraction" if recall == "fraction" else "any", len(found))


def _read_jsonl(path: Path, direction: Direction) -> Iterator[EvalQuery]:
    for number, line in iter_jsonl(path):
        try:
            if "captions" in line:
                yield from _from_captions(path, line, direction)
            else:
                yield _from_query(path, number, line)
        except ValidationError as error:
            raise _broken(path, number, error.errors()[0]["msg"]) from error
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, SourceError):
                raise
            raise _broken(path, number, str(error)) from error


def _from_captions(path: Path, line: dict[str, Any], direction: Direction) -> Iterator[EvalQuery]:
    _refuse_unknown(line, _CAPTIONED)
    name, captions = _text(line, "id"), line["captions"]
    if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
        raise ValueError("captions must be a list of texts")
    spoken = [(n, caption) for n, caption in enumerate(captions) if caption.strip()]
    if direction == "text-to-image":
        for n, caption in spoken:
            query = Query(text=caption, kind="image")
            yield EvalQuery(f"{name}#{n}", query, frozenset({name}))
    elif spoken:
        image = _beside(path, _text(line, "image"))
        relevant = frozenset(f"{name}#{n}" for n, _ in spoken)
        yield EvalQuery(name, Query(image=image, kind="text"), relevant)


def _from_query(path: Path, number: int, line: dict[str, Any]) -> EvalQuery:
    _refuse_unknown(line, _QUERY)
    if "relevant" not in line:
        raise ValueError('the field "relevant" is absent')
    relevant, subset = _ids(line, "relevant"), _ids(line, "subset")
    reference, group = _optional(line, "reference"), _optional(line, "group")
    if not relevant:
        raise ValueError("relevant is empty, so the query cannot be judged")
    if reference in relevant:
        raise ValueError("the reference is left out, so that it cannot be relevant")
    if subset and not subset & relevant:
        raise ValueError("no relevant item is in the subset")
    image = None if line.get("image") is None else _beside(path, _text(line, "image"))
    query = Query(text=line.get("text"), image=image, filters=line.get("filters") or {})
    name = _optional(line, "id") or str(number)
    return EvalQuery(name, query, relevant, reference, subset, group)


def _ids(line: dict[str, Any], field: str) -> frozenset[str]:
    ids = [] if line.get(field) is None else line[field]
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise ValueError(f"{field} must be a list of item ids")
    return frozenset(ids)


def _optional(line: dict[str, Any], field: str) -> str | None:
    return None if line.get(field) is None else _text(line, field)


def _read_beir(folder: Path, split: str) -> list[EvalQuery]:
    queries, qrels = folder / "queries.jsonl", folder / "qrels" / f"{split}.tsv"
    for needed in (queries, qrels):
        if not needed.is_file():
            raise SourceError(
                f"{needed} does not exist",
                "a BEIR folder has corpus.jsonl, queries.jsonl and qrels/<split>.tsv",
            )
    relevant: dict[str, set[str]] = {}
    for number, row in enumerate(qrels.read_text(encoding="utf-8").splitlines(), start=1):
        if (number == 1 and "\tscore" in row.lower()) or not row.strip():
            continue
        try:
            query_id, item_id, grade = row.split("\t")
            if int(grade) > 0:
                relevant.setdefault(query_id, set()).add(item_id)
        except ValueError as error:
            raise _broken(qrels, number, "expected query-id, corpus-id and score") from error
    texts: dict[str, str] = {}
    for number, line in iter_jsonl(queries):
        try:
            texts[_text(line, "_id")] = _text(line, "text")
        except (KeyError, ValueError) as error:
            raise _broken(queries, number, "expected texts under _id and text") from error
    unknown = [query_id for query_id in relevant if query_id not in texts]
    if unknown:
        raise SourceError(
            f"{qrels} judges the query {unknown[0]!r}, which {queries.name} lacks",
            "take queries and qrels of the same release",
        )
    return [
        EvalQuery(query_id, Query(text=text), frozenset(relevant[query_id]))
        for query_id, text in texts.items()
        if query_id in relevant
    ]


def _text(line: dict[str, Any], field: str) -> str:
    value = line.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'the field "{field}" must be a text that is not empty')
    return value


def _beside(path: Path, image: str) -> str:
    if "://" in image or image.startswith("data:"):
        return image
    return str(path.parent / image)


def _refuse_unknown(line: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(line) - known)
    if unknown:
        raise ValueError(f'unknown field "{unknown[0]}" (known: {", ".join(sorted(known))})')


def refuse_duplicates(path: Path, queries: Sequence[EvalQuery]) -> None:
    """Refuse two queries of one id.

    Raises:
        SourceError: If there are; the file and the id are named.
    """
    seen: set[str] = set()
    for query in queries:
        if query.id in seen:
            raise SourceError(f"{path} has two queries with the id {query.id!r}", "make ids unique")
        seen.add(query.id)


def _broken(path: Path, number: int, what: str) -> SourceError:
    return SourceError(f"{path}, line {number}: {what}", "mend the line or remove it")
