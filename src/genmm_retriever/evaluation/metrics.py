"""The field's own measures, computed by the field's own library (ir-measures, trec_eval).

Runs map query id -> item ids, best first. They are handed to the library with strictly falling
scores, because trec_eval breaks ties by item id and not by rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote

import numpy as np

from ..corpus.store.files import write_atomically
from ..errors import InputError, MissingExtraError, SourceError, StorageError
from .datasets import EvalQuery, RecallKind

Run = Mapping[str, Sequence[str]]
ScoredRun = Mapping[str, Sequence[tuple[str, float]]]


class _Library(Protocol):
    def iter_calc(self, measures: Any, qrels: Any, run: Any) -> Iterator[Any]: ...
    def parse_measure(self, name: str) -> Any: ...


def _library() -> _Library:
    try:
        import ir_measures
    except ImportError as error:
        raise MissingExtraError("ir-measures", "eval") from error
    library: _Library = ir_measures
    return library


def per_query_metrics(
    queries: Sequence[EvalQuery],
    run: Run,
    *,
    ks: Sequence[int] = (1, 5, 10),
    recall: RecallKind = "any",
    mrr: int | None = 10,
) -> dict[str, np.ndarray]:
    """Measures of every query.

    Args:
        queries: With their relevant ids; a query that the run lacks counts as missed.
        run: Item ids by query id, best first.
        ks: Cut-offs of recall.
        recall: See `QuerySet.recall`.
        mrr: Cut-off of the reciprocal rank, or None to leave it out.

    Returns:
        `recall@k` and `mrr@k`, each [len(queries)], float64, in [0, 1].

    Raises:
        MissingExtraError: Without ir-measures.
        InputError: If a cut-off is below 1.

    Examples:
        >>> from genmm_retriever import Query
        >>> asked = [EvalQuery("q", Query(text="a cat"), frozenset({"cat"}))]
        >>> per_query_metrics(asked, {"q": ["dog", "cat"]}, ks=(1, 5))["mrr@10"].tolist()
        [0.5]
    """
    wrong = [k for k in (*ks, *([] if mrr is None else [mrr])) if k < 1]
    if wrong:
        raise InputError(f"a cut-off of {wrong[0]}", "recall@k needs k of at least 1")
    library = _library()
    family = "Success" if recall == "any" else "R"
    names = {f"{family}@{k}": f"recall@{k}" for k in ks}
    if mrr is not None:
        names[f"RR@{mrr}"] = f"mrr@{mrr}"
    qrels = {query.id: dict.fromkeys(query.relevant, 1) for query in queries}
    scored = {
        query.id: {
            item: float(-rank) for rank, item in enumerate(dict.fromkeys(run.get(query.id, ())))
        }
        for query in queries
    }
    rows = {query.id: row for row, query in enumerate(queries)}
    values = {name: np.zeros(len(queries)) for name in names.values()}
    measures = [library.parse_measure(name) for name in names]
    for found in library.iter_calc(measures, qrels, scored):
        values[names[str(found.measure)]][rows[found.query_id]] = found.value
    return values


def mean_metrics(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Means over the queries; recalls in percent, reciprocal ranks in [0, 1]."""
    return {name: _scale(name) * float(np.mean(value)) for name, value in values.items()}


def bootstrap_interval(
    values: np.ndarray, *, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over queries.

    Args:
        values: [n].
        samples: How often n values are drawn with replacement.
        level: Share of the sampled means inside the interval.
        seed: Of the draws.

    Examples:
        >>> bootstrap_interval(np.ones(20))
        (1.0, 1.0)
    """
    generator = np.random.default_rng(seed)
    # In pieces, so that 1,000 samples of many queries do not need gigabytes.
    piece = max(1, 4_000_000 // max(1, len(values)))
    means: list[np.ndarray] = []
    for start in range(0, samples, piece):
        rows = generator.integers(len(values), size=(min(piece, samples - start), len(values)))
        means.append(values[rows].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    values: np.ndarray,
    others: np.ndarray,
    *,
    samples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """How much higher one way of asking the same queries scores than another.

    Queries are drawn together with both of their values (paired bootstrap), so that what makes a
    query hard for both ways does not widen the interval.

    Args:
        values: Of each query in one way, [n].
        others: Of the same queries in the same order in the other way, [n].
        samples: How often n queries are drawn with replacement.
        level: Share of the sampled differences inside the interval.
        seed: Of the draws.

    Returns:
        The difference of the means, and the interval's lower and upper end, in the values' unit.

    Raises:
        InputError: If the two are not of the same queries, or there is none.

    Examples:
        >>> paired_difference(np.array([1.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0]))
        (1.0, 1.0, 1.0)
    """
    if values.shape != others.shape or values.ndim != 1 or not len(values):
        raise InputError(
            f"values of shape {values.shape} cannot be paired with values of {others.shape}",
            "give one value a query for both, in the same order",
        )
    differences = values.astype(np.float64) - others.astype(np.float64)
    low, high = bootstrap_interval(differences, samples=samples, level=level, seed=seed)
    return float(differences.mean()), low, high


def intervals(values: Mapping[str, np.ndarray], *, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95% bootstrap intervals in the units of `mean_metrics`.

    Where all queries are found, or none, there is nothing to draw: the exact binomial bound
    (Clopper and Pearson) stands in, so that a few lucky queries do not look certain.

    Examples:
        >>> low, high = intervals({"recall@1": np.ones(20)})["recall@1"]
        >>> round(low), high
        (83, 100.0)
    """
    bounds = {name: _interval(value, seed) for name, value in values.items()}
    return {name: (_scale(name) * low, _scale(name) * high) for name, (low, high) in bounds.items()}


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    if len(values) and np.all(values == 1):
        return 0.025 ** (1 / len(values)), 1.0
    if len(values) and np.all(values == 0):
        return 0.0, 1 - 0.025 ** (1 / len(values))
    return bootstrap_interval(values, seed=seed)


def _scale(name: str) -> float:
    return 1.0 if name.startswith("mrr") else 100.0


def write_run(path: str | Path, run: ScoredRun, *, tag: str = "genmm") -> None:
    """Write a run in TREC format: `query Q0 item rank score tag`.

    Ids are percent-encoded where they hold spaces, control characters or `%`, since the format
    has no quoting. Equal scores are nudged to fall strictly, so that tools that sort by score
    see the same order.

    Raises:
        StorageError: If the file cannot be written.
    """
    lines: list[str] = []
    for query_id, found in run.items():
        scores = _strictly_falling([score for _, score in found])
        lines += [
            f"{_encoded(query_id)} Q0 {_encoded(item)} {rank} {score:.9g} {tag}\n"
            for rank, ((item, _), score) in enumerate(zip(found, scores, strict=True), start=1)
        ]
    write_lines(path, lines)


def write_qrels(path: str | Path, queries: Sequence[EvalQuery]) -> None:
    """Write the judgements in TREC format: `query 0 item 1`.

    Raises:
        StorageError: If the file cannot be written.
    """
    write_lines(
        path,
        [
            f"{_encoded(query.id)} 0 {_encoded(item)} 1\n"
            for query in queries
            for item in sorted(query.relevant)
        ],
    )


def read_run(path: str | Path) -> dict[str, list[tuple[str, float]]]:
    """Read a TREC run, best first by score, as `write_run` wrote it or any other tool.

    Raises:
        SourceError: If it cannot be read or a line is broken.
    """
    path = Path(path)
    found: dict[str, list[tuple[str, float]]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read: {error}", "give a TREC run file") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            query_id, _, item, _, score, _ = line.split()
            entry = (_decoded(item), float(score))
        except ValueError as error:
            raise SourceError(
                f"{path}, line {number}: not six fields", "a line is: query Q0 item rank score tag"
            ) from error
        found.setdefault(_decoded(query_id), []).append(entry)
    return {query: sorted(items, key=lambda e: -e[1]) for query, items in found.items()}


def _strictly_falling(scores: Sequence[float]) -> list[float]:
    # trec_eval keeps scores as 32-bit floats, so that is where they have to differ.
    falling: list[float] = []
    last = np.float32(math.inf)
    for score in scores:
        value = np.float32(score)
        if not value < last:
            value = np.nextafter(last, np.float32(-math.inf))
        falling.append(float(value))
        last = value
    return falling


_PLAIN = "".join(chr(c) for c in range(33, 127) if chr(c) != "%")


def _encoded(name: str) -> str:
    return quote(name, safe=_PLAIN, errors="surrogatepass")


def _decoded(name: str) -> str:
    return unquote(name, errors="surrogatepass")


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write a text file of UTF-8, whole or not at all; its folder is made.

    Raises:
        StorageError: If the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            # A device or a pipe takes what comes; nothing can be put in its place.
            path.write_text("".join(lines), encoding="utf-8")
        else:
            whole = "".join(lines).encode()
            write_atomically(path.resolve(), lambda file: file.write(whole))
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}", "name a place you can write"
        ) from error
