"""What claims about asking share: an index of photos, arms of the same queries, their differences.

An arm is one way of asking. All arms of a claim ask the same queries in the same order, so that
they can be compared query by query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from benchmarks.corpora.captioned import flickr_file
from benchmarks.corpora.photos import Photo, Record, read_photos
from benchmarks.harness import Options, Skipped
from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.evaluation.datasets import EvalQuery
from genmm_retriever.evaluation.metrics import bootstrap_interval, paired_difference
from genmm_retriever.evaluation.metrics import per_query_metrics as judged
from genmm_retriever.evaluation.report import Retrieves, evaluate
from genmm_retriever.retriever import GenerativeMMRetriever
from genmm_retriever.schema import Item, Query

DEPTHS = (1, 5, 10)
TEN = "recall@10"
QUICK_QUERIES = 6
_QUICK_PHOTOS = 12


@dataclass(frozen=True)
class Arm:
    """One way of asking.

    Attributes:
        values: `recall@k` of every query, [Q] each, in [0, 1].
        seconds: A query, on average: all of it, and each stage.
    """

    values: dict[str, NDArray[Any]]
    seconds: dict[str, float]

    def recall(self, name: str = TEN) -> float:
        """The mean, in percent."""
        return 100 * float(self.values[name].mean())

    def to_json(self) -> dict[str, Any]:
        """Recalls in percent with their 95% intervals, and seconds a query."""
        recalls = {}
        for name, values in self.values.items():
            low, high = bootstrap_interval(values)
            recalls[name] = [self.recall(name), 100 * low, 100 * high]
        return {**recalls, "seconds_a_query": self.seconds}


def dev_photos(options: Options) -> list[Photo]:
    """The photos of `--flickr`'s dev split.

    Raises:
        Skipped: If the folder was not given or lacks the split.
    """
    return read_photos(flickr_file(options, "dev"))


def queries_of(records: Sequence[Record]) -> list[EvalQuery]:
    """Lines of a test set as queries.

    Raises:
        Skipped: If there is none.
    """
    if not records:
        raise Skipped("the data give no query by the rule of the set")
    return [
        EvalQuery(
            record["id"],
            Query(text=record.get("text"), image=record.get("image")),
            frozenset(record["relevant"]),
            record.get("reference"),
        )
        for record in records
    ]


def open_photos(
    options: Options, model: Any, photos: Sequence[Photo], queries: Sequence[EvalQuery]
) -> GenerativeMMRetriever:
    """A retriever over the dev photos: that of `--index`, or one built in the cache.

    A quick run builds an index of a few photos and of those that the queries are about.

    Raises:
        Skipped: If `--index` was built with other weights, or lacks a photo that is asked for.
    """
    wanted = {name for query in queries for name in query.relevant | {query.reference}} - {None}
    if options.index is not None:
        _check_given(options.index, model, wanted)
        return GenerativeMMRetriever.from_index(options.index, model=model)
    kept = [
        photo
        for place, photo in enumerate(photos)
        if not options.quick or place < _QUICK_PHOTOS or photo.id in wanted
    ]
    items = [Item(id=photo.id, image=str(photo.image)) for photo in kept]
    return open_items(options, model, items, "photos")


def open_items(
    options: Options,
    model: Any,
    items: Sequence[Item],
    name: str,
    identifiers: Literal["structured", "clue"] = "structured",
) -> GenerativeMMRetriever:
    """A retriever over items, whose index is built in the cache once a model.

    Args:
        options: Name the cache.
        model: Builds and asks.
        items: What to index.
        name: What they are, for the folder's name, which stands for their identifiers too.
        identifiers: What is written of them.
    """
    digest = hashlib.sha256("\0".join(map(_told, items)).encode("utf-8", "surrogatepass"))
    folder = f"{name}-{len(items)}-{digest.hexdigest()[:12]}-{model.fingerprint[-16:]}"
    path = options.cache / "asked" / folder
    if not (path / "manifest.json").is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        GenerativeMMRetriever.from_images(
            list(items), path=path, model=model, identifiers=identifiers
        ).close()
    return GenerativeMMRetriever.from_index(path, model=model)


def _told(item: Item) -> str:
    """What tells an item from another; a file by its size and time too."""
    told = item.model_dump_json()
    if isinstance(item.image, str):
        stat = Path(item.image).stat()
        told += f" {stat.st_size} {stat.st_mtime_ns}"
    return told


def _check_given(index: Path, model: Any, wanted: set[Any]) -> None:
    with IndexReader.open(index) as reader:
        if reader.settings.model_fingerprint != model.fingerprint:
            raise Skipped(f"--index was built with other weights than those of {model.name!r}")
        lacking = sorted(name for name in wanted if reader.row(name) is None)
    if lacking:
        raise Skipped(f"--index lacks {len(lacking)} photos that are asked for: {lacking[0]!r}")


def ask(searcher: Retrieves, queries: Sequence[EvalQuery]) -> Arm:
    """Ask the queries one at a time; `EvalQuery.reference` is left out of what is found."""
    report = evaluate(searcher, queries, ks=DEPTHS)
    ranked = {name: [item for item, _ in found] for name, found in report.run.items()}
    stages = {stage: float(spent.mean()) for stage, spent in report.stages.items()}
    return Arm(
        judged(queries, ranked, ks=DEPTHS, mrr=None),
        {"all": float(report.seconds.mean()), **stages},
    )


def gained(arm: Arm, other: Arm) -> dict[str, list[float]]:
    """How much higher an arm's recalls are than another's.

    Returns:
        By measure the difference and its 95% interval by paired bootstrap, in percentage points.
    """
    return {
        name: [100 * one for one in paired_difference(values, other.values[name])]
        for name, values in arm.values.items()
    }


def shown(arms: dict[str, Arm], *against: tuple[str, str]) -> dict[str, Any]:
    """Arms and differences of pairs of them, as `Measurement.details`."""
    return {
        "queries": len(next(iter(arms.values())).values[TEN]),
        "arms": {name: arm.to_json() for name, arm in arms.items()},
        "differences": {
            f"{name} minus {other}": gained(arms[name], arms[other]) for name, other in against
        },
    }
