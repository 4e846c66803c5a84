"""Runs rows: builds what they need, asks, writes one JSON file each; finished ones are kept."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import machine, versions
from benchmarks.results.indexes import (
    Described,
    described_captions,
    described_pictures,
    is_complete,
    later_rows,
    make_index,
)
from benchmarks.results.models import load
from benchmarks.results.settings import IndexRecipe, Setting
from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.errors import InputError
from genmm_retriever.evaluation.datasets import EvalQuery, QuerySet, read_queries
from genmm_retriever.evaluation.metrics import mean_metrics, per_query_metrics
from genmm_retriever.evaluation.report import EvalReport, evaluate
from genmm_retriever.identifiers import SentenceEncoder, default_encoder
from genmm_retriever.retriever import VERIFIERS, GenerativeMMRetriever


@dataclass
class Runner:
    """Everything that rows share.

    Args:
        described: A finished index of the pictures that `queries` is about; it is read only.
        queries: Captioned-images JSONL.
        work: Folder for the indexes; they are kept for later runs.
        rows: Folder for one JSON file a row.
        model: Name or path of the model, or a model object.
        limit: Queries a row; equal for all rows of a direction.
        seed: Of the sample of queries, of clusters and of which items come later.
        load: Loads a model by its name.
        encoder: Makes the sentence encoder that identifiers are made with.
        progress: Whether to show bars on stderr.
    """

    described: Path
    queries: Path
    work: Path
    rows: Path
    model: Any = "builtin"
    limit: int | None = 500
    seed: int = 0
    load: Callable[[str], Any] = load
    encoder: Callable[[], SentenceEncoder] = default_encoder
    progress: bool = True
    _models: dict[str, Any] = field(default_factory=dict, init=False)
    _items: dict[str, Described] = field(default_factory=dict, init=False)
    _encoder: SentenceEncoder | None = field(default=None, init=False)

    def run(self, settings: Sequence[Setting]) -> dict[str, str]:
        """Do the rows that are not done.

        A row is done again when it was asked of other weights, other descriptions, another
        sample or another seed.

        Returns:
            "kept", "done" or the reason why it was left out, by the row's key.
        """
        outcome: dict[str, str] = {}
        for setting in sorted(dict.fromkeys(settings), key=lambda one: one.index.key):
            outcome[setting.key] = self._row(setting)
            print(f"{setting.key} {outcome[setting.key]}: {setting.to_json()}", file=sys.stderr)
        return outcome

    def _row(self, setting: Setting) -> str:
        if setting.verify not in VERIFIERS:
            return f"left out: there is no verifier {setting.verify!r} in this version"
        model = self._model(setting.index.model)
        path = self.rows / f"{setting.key}.json"
        asked = self._asked(model)
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["asked"] == asked:
                return "kept"
        parts = (setting.index.key, model.fingerprint[:12], asked["described"], self.seed)
        index = self.work / "-".join(map(str, parts))
        seconds = self._index(index, setting.index, model)
        row = {
            "key": setting.key,
            "settings": setting.to_json(),
            "asked": asked,
            **self._figures(index, setting, model),
            "build_seconds": seconds,
            "machine": machine(),
            "versions": versions(),
        }
        self.rows.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
        return "done"

    def _asked(self, model: Any) -> dict[str, Any]:
        """What a row is a measurement of, beside its setting."""
        fitted = json.dumps(getattr(model, "calibration", None), sort_keys=True, default=str)
        name = Path(model.name)
        return {
            "limit": self.limit,
            "seed": self.seed,
            "model_name": name.name if name.is_absolute() else model.name,
            "fingerprint": model.fingerprint,
            "calibration": hashlib.sha256(fitted.encode()).hexdigest()[:12],
            "described": self._described_by(),
            "queries_file": self.queries.name,
        }

    def _described_by(self) -> str:
        """Tells one described index from another, and from itself after a change."""
        with IndexReader.open(self.described) as reader:
            return f"{reader.settings.model_fingerprint[:12]}.{reader.generation}"

    def _model(self, name: str | None) -> Any:
        if name is None and not isinstance(self.model, str):
            return self.model
        wanted = self.model if name is None else name
        if wanted not in self._models:
            self._models[wanted] = self.load(wanted)
        return self._models[wanted]

    def _of(self, direction: str) -> Described:
        """The items that are looked for in a direction."""
        if direction not in self._items:
            with IndexReader.open(self.described) as reader:
                per_item = reader.settings.identifiers_per_item
            self._items[direction] = (
                described_pictures(self.described)
                if direction == "text-to-image"
                else described_captions(self.queries, per_item)
            )
        return self._items[direction]

    def _index(self, path: Path, recipe: IndexRecipe, model: Any) -> float | None:
        """Make the index unless it is there; seconds it took, None if nothing was to do."""
        described = self._of(recipe.direction)
        if is_complete(path, len(described)):
            return None
        if self._encoder is None:
            self._encoder = self.encoder()
        with IndexReader.open(self.described) as reader:
            per_item = reader.settings.identifiers_per_item
        started = time.perf_counter()
        make_index(path, recipe, described, model, self._encoder, seed=self.seed, per_item=per_item)
        return round(time.perf_counter() - started, 2)

    def _figures(self, index: Path, setting: Setting, model: Any) -> dict[str, Any]:
        queries = self._sample(setting.index.direction)
        options: dict[str, Any] = {"verify": setting.verify, "num_beams": setting.beams}
        asked = model if setting.guided else unguided(model)
        with GenerativeMMRetriever.from_index(index, model=asked, **options) as retriever:
            report = evaluate(retriever, queries, progress=self.progress)
            items, names = len(retriever), retriever.info()["identifiers"]
        found = report.to_json()
        described = self._of(setting.index.direction)
        later = later_rows(len(described), setting.index.added, self.seed)
        later_ids = frozenset(described.items[place].id for place in later)
        return {
            "items": items,
            "identifiers_in_index": names,
            "figures": found,
            "by_age": by_age(report, later_ids) if later_ids else {},
        }

    def _sample(self, direction: Any) -> QuerySet:
        with IndexReader.open(self.described) as reader:
            known = {item.id for item in reader.items(reader.live_rows().tolist())}
        asked = read_queries(self.queries, direction=direction, limit=self.limit, seed=self.seed)
        pictures = {query.id: query.id.rpartition("#")[0] or query.id for query in asked}
        absent = [name for name in pictures.values() if name not in known]
        if absent:
            raise InputError(
                f"{self.queries.name} asks for {absent[0]!r}, which {self.described.name} lacks",
                "describe the pictures of the same file: genmm index FILE --output INDEX",
            )
        return asked


def unguided(model: Any) -> Any:
    """The same model, which leaves the choice of topics to its language model."""
    alone = copy.copy(model)
    alone.calibration = {**(getattr(model, "calibration", None) or {}), "guidance": 0.0}
    return alone


def by_age(report: EvalReport, later: frozenset[str]) -> dict[str, dict[str, float]]:
    """Recalls of queries for items that came after the build, and of those for the others."""
    found: dict[str, dict[str, float]] = {}
    run = {query: [item for item, _ in items] for query, items in report.run.items()}
    for name, queries in _split(report.queries, later):
        if queries:
            values = per_query_metrics(queries, run, recall=report.recall)
            found[name] = {"queries": float(len(queries)), **mean_metrics(values)}
    return found


def _split(
    queries: Sequence[EvalQuery], later: frozenset[str]
) -> Iterator[tuple[str, list[EvalQuery]]]:
    yield "old", [query for query in queries if not query.relevant & later]
    yield "new", [query for query in queries if query.relevant <= later]
