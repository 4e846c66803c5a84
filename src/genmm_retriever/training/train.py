"""`genmm train INDEX`: from an index to a model that has learnt its identifiers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from genmm_retriever.corpus.store import IndexReader, notes_by_row
from genmm_retriever.corpus.store.lock import WriterLock
from genmm_retriever.errors import CapabilityError, InputError, ModelError
from genmm_retriever.models.base import MLLM
from genmm_retriever.models.loading import load_model
from genmm_retriever.models.transformers_mllm import TransformersMLLM
from genmm_retriever.training.corpus import Corpus
from genmm_retriever.training.exam import Exam, Figures
from genmm_retriever.training.lessons import Curriculum, Pair, Pairs
from genmm_retriever.training.loop import Progress, Schedule, run
from genmm_retriever.training.lora import Adapted
from genmm_retriever.training.options import TrainingOptions, TrainingReport
from genmm_retriever.training.pairs import SMALL, make_pairs, queries_per_item
from genmm_retriever.training.publishing import DOCUMENT, publish_adapter
from genmm_retriever.training.queries import QueryBook, write_queries
from genmm_retriever.training.storing import store_json, storing
from genmm_retriever.training.texts import HumanQuery, read_texts
from genmm_retriever.training.triplets.book import KnownTriplet, read_triplets
from genmm_retriever.training.triplets.pairs import composed_pairs

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
FOLDER = "training"
_EXAMINATIONS = 3
_FEW_STEPS = 200
_SMALL_MODEL = 1_000_000_000
"""Weights below which a model takes larger steps."""


def train_index(
    path: str | os.PathLike[str],
    *,
    model: MLLM | str | None = None,
    texts: str | os.PathLike[str] | None = None,
    triplets: Files | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    rank: int = 16,
    refresh: bool = False,
    replay: float = 1.0,
    notes: bool = True,
    force: bool = False,
    device: str | None = None,
    seed: int = 0,
    progress: bool = True,
    interrupt: Callable[[int], None] | None = None,
) -> TrainingReport:
    """Fine-tune an index's model on the index itself, and publish the adapter with it.

    Queries are written by the model from each picture or passage and lead to the item's
    identifiers, beside the stored captions, the notes of `genmm describe` and the texts that
    people wrote; LoRA layers in the
    language model learn that (SemCORE, arXiv 2504.13172). Identifiers stay as they are, so
    items added later need no training. A call that was interrupted goes on where it was when
    it is made again; everything in progress lies in the index's folder `training`.

    Args:
        path: A finished index of identifiers.
        model: The model that the index was built with, or its name; None for the index's own.
            A model object is copied and stays as it is.
        texts: JSONL of captioned images or of queries about items of the index.
        triplets: JSONL of `genmm triplets`, one file or several: the picture of one item and a
            change lead to the identifiers of another (MTST, arXiv 2504.05316). Some are held
            out and examined apart from the other queries; both kinds then count alike.
        epochs: Passes over the pairs; None for 3, or 2 for a corpus of up to 100 items.
        minutes: Stop after so many minutes of training.
        steps: Steps instead of epochs; a step shows 16 prompts.
        learning_rate: Its peak; None for 1e-4, or 5e-4 below a billion weights.
        rank: Of the LoRA matrices; alpha is twice as much.
        refresh: Go on from the present adapter with what was added since, replaying old pairs.
        replay: Old pairs for each new one, with `refresh`.
        notes: Learn from the notes of `genmm describe` too, where there are any.
        force: Publish even if the recall on held-out queries did not rise.
        device: Such as `"cuda:0"`; by default a GPU if there is one.
        seed: Of all choices.
        progress: Show bars on stderr.
        interrupt: Called with each step's number before it; what it raises ends the training
            as Ctrl-C does.

    Raises:
        IndexNotFoundError: If there is no finished index at `path`.
        InputError: If an option is out of range, no triplet is about pictures of the index, or
            there is nothing to train.
        SourceError: If `texts` or `triplets` cannot be read; the line is named.
        ModelError: If the model is not the index's, or cannot be trained.
        IndexLockedError: If another training or a writer is at work.
        StorageError: If the disk is full or cannot be written.
        MissingExtraError: If `peft` is not installed.

    Examples:
        A corpus of photographs with captions that people wrote::

            from genmm_retriever.training import train_index

            report = train_index("photos.genmm", texts="captions.jsonl")
            print(report.before, "->", report.after)
    """
    options = TrainingOptions(
        epochs, minutes, steps, learning_rate, rank, refresh, replay, seed, notes
    )
    begun = time.perf_counter()
    folder = Path(path).absolute()
    with IndexReader.open(folder) as reader:
        if not len(reader):
            raise InputError(f"the index at {str(path)!r} is empty", "add items: genmm add")
        if reader.settings.identifiers == "clue":
            raise InputError(
                f"{str(path)!r} is an index of clues, which has no identifiers to learn",
                "build it with --identifiers structured to train it",
            )
        human = [] if texts is None else read_texts(Path(texts), reader.row)
        known, missing = read_triplets(_files(triplets), reader.row)
        work = folder / FOLDER
        with storing(work):
            work.mkdir(exist_ok=True)
            lock = WriterLock(work, busy=f"the index {str(path)!r} is being trained")
        try:
            training = _Training(reader, _base_model(reader, model, device), work, options)
            training.compose(known, missing)
            training.prepare(human, progress)
            return training.run(force=force, begun=begun, progress=progress, interrupt=interrupt)
        finally:
            lock.release()


def _files(given: Files | None) -> list[str | os.PathLike[str]]:
    if given is None:
        return []
    return [given] if isinstance(given, str | os.PathLike) else list(given)


def _base_model(reader: IndexReader, model: MLLM | str | None, device: str | None) -> Any:
    """The model that the index was built with, free to be changed."""
    named = model or reader.settings.model
    found = load_model(named, device=device) if isinstance(named, str) else named
    if not isinstance(found, TransformersMLLM):
        raise CapabilityError(
            f"{type(found).__name__} cannot be trained", "give a model that runs here"
        )
    if found.fingerprint != reader.settings.model_fingerprint:
        raise ModelError(
            f"the index was built with other weights than those of {found.name!r}",
            f"name the model it was built with ({reader.settings.model!r}), without an adapter",
        )
    return found if isinstance(named, str) else found.copy()


class _Training:
    """One training of one index."""

    def __init__(
        self, reader: IndexReader, mllm: TransformersMLLM, work: Path, options: TrainingOptions
    ) -> None:
        self.reader, self.mllm, self.work, self.options = reader, mllm, work, options
        self.corpus = Corpus(reader)
        self.present = reader.adapter()
        self.pairs = Pairs()
        self.notes: dict[int, list[str]] = {}
        if options.notes:
            noted = notes_by_row(reader)
            self.notes = {row: [note.text for note in noted[row]] for row in noted}
        self.composed: tuple[list[Pair], list[Pair]] = [], []
        self.passed_over = 0
        if options.refresh and self.present is None:
            raise InputError(
                f"{str(reader.path)!r} was never trained, so there is nothing to refresh",
                "train it without --refresh",
            )

    def _old_rows(self) -> list[int]:
        if not self.options.refresh:
            return []
        trained = self.reader.json(DOCUMENT)["next_row"]
        return [row for row in self.corpus.rows if row < trained]

    def compose(self, triplets: list[KnownTriplet], missing: int) -> None:
        """Take up triplets of pictures; `missing` others were passed over."""
        pictures = {row for row in self.corpus.rows if self.corpus.is_picture(row)}
        seen = [one for one in triplets if {one.reference, one.target} <= pictures]
        if triplets and not seen:
            raise InputError(
                f"the {len(triplets)} triplets are about items without pictures",
                "give triplets of pictures, as `genmm triplets` writes them",
            )
        self.passed_over = missing + len(triplets) - len(seen)
        self.composed = composed_pairs(seen, seed=self.options.seed)

    def prepare(self, human: list[HumanQuery], progress: bool) -> None:
        """Write what pseudo-queries are missing, and make the pairs."""
        old = self._old_rows()
        rows = self.corpus.rows
        learnt, held = self.composed
        if self.options.refresh and len(old) == len(rows) and not (human or learnt):
            raise InputError(
                "nothing was added to the index since it was trained", "train without --refresh"
            )
        book = QueryBook(self.work / "queries.jsonl")
        missing = [row for row in rows if self.corpus.marks[row] not in book]
        with tqdm(
            total=len(missing), desc="writing queries", disable=not progress or not missing
        ) as bar:
            write_queries(
                book,
                self.mllm,
                missing,
                self.corpus,
                per_item=queries_per_item(len(rows)),
                seed=self.options.seed,
                bar=bar,
            )
        self.pairs = make_pairs(
            self.corpus, book, human, seed=self.options.seed, old_rows=old, notes=self.notes
        )
        self.pairs.composed, self.pairs.held_composed = learnt, held

    def run(
        self,
        *,
        force: bool,
        begun: float,
        progress: bool,
        interrupt: Callable[[int], None] | None,
    ) -> TrainingReport:
        """Train, compare and publish."""
        options, state = self.options, self.work / "state"
        curriculum = Curriculum(
            self.corpus, self.pairs, self.mllm, seed=options.seed, replay=options.replay
        )
        composed = self.pairs.held_composed
        exam = Exam(self.corpus, self.pairs.held, seed=options.seed, composed=composed)
        schedule = self._schedule(curriculum)
        key = self._key(schedule)
        before = self._before(exam, key)
        adapted = Adapted(
            self.mllm,
            rank=options.rank,
            alpha=2 * options.rank,
            seed=options.seed,
            start=self.present.folder if options.refresh and self.present else None,
        )
        try:
            done = run(
                adapted, curriculum, exam, schedule, state,
                key=key, progress=progress, interrupt=interrupt,
            )  # fmt: skip
        finally:
            adapted.remove()
        self.mllm.apply_adapter(state / "best")
        after = exam.sit(self.mllm)
        published = force or after.is_above(before)
        digest = None
        if published:
            digest = self.mllm.fingerprint.rpartition("+")[2]
            self._publish(done, before, after, progress)
        assert done.best is not None
        return TrainingReport(
            published=published,
            items=len(self.corpus.rows),
            pairs=curriculum.epoch_pairs,
            held_out=len(self.pairs.held),
            steps=done.step,
            best_step=done.best,
            seconds=time.perf_counter() - begun,
            before=before,
            after=after,
            adapter=digest,
            notes=sum(map(len, self.notes.values())),
            composed=len(self.pairs.composed),
            held_composed=len(self.pairs.held_composed),
            passed_over=self.passed_over,
            held_human=self.pairs.held_human,
        )

    def _schedule(self, curriculum: Curriculum) -> Schedule:
        options = self.options
        small = len(self.corpus.rows) <= SMALL
        epochs = options.epochs or (2.0 if small else 3.0)
        steps = options.steps or max(1, round(epochs * curriculum.epoch_steps))
        weights = sum(value.numel() for value in self.mllm.model.parameters())
        rate = options.learning_rate or (5e-4 if weights < _SMALL_MODEL else 1e-4)
        every = max(1, -(-steps // _EXAMINATIONS))
        # Searching costs more than so few steps: a training of minutes would mostly examine.
        search = not small or steps > _FEW_STEPS
        return Schedule(steps, rate, every, search=search, minutes=options.minutes)

    def _key(self, schedule: Schedule) -> str:
        """What the run is a function of: weights, pairs, identifiers, options."""
        options = self.options
        digest = hashlib.sha256()
        for part in (
            self.reader.settings.model_fingerprint,
            self.present.digest if self.present and options.refresh else None,
            [schedule.steps, schedule.learning_rate, schedule.minutes, options.rank],
            [options.seed, options.replay],
            [[p.text, str(p.image), p.rows] for p in (*self.pairs.new, *self.pairs.held)],
            [[p.text, str(p.image), p.rows] for p in self.pairs.old],
            sorted(self.corpus.answers.items()),
        ):
            digest.update(json.dumps(part).encode())
        # Only where there are some: a run that was begun without goes on.
        if any(self.composed):
            both = [[[p.text, p.looked, p.rows] for p in pairs] for pairs in self.composed]
            digest.update(json.dumps(both).encode())
        return digest.hexdigest()

    def _before(self, exam: Exam, key: str) -> Figures:
        """Figures of the model as it is served now; measured once a run."""
        served = "" if self.present is None else self.present.digest
        path = self.work / "before.json"
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["key"] == f"{key}-{served}":
                return Figures.from_json(kept["figures"])
        if self.present is None:
            found = exam.sit(self.mllm)
        else:
            adapted = Adapted(self.mllm, start=self.present.folder)
            try:
                found = exam.sit(self.mllm)
            finally:
                adapted.remove()
        store_json(path, {"key": f"{key}-{served}", "figures": found.to_json()})
        return found

    def _publish(self, done: Progress, before: Figures, after: Figures, progress: bool) -> None:
        record = {
            "next_row": max(self.corpus.rows) + 1,
            "steps": done.best,
            "held_out": len(self.pairs.held),
            "held_composed": len(self.pairs.held_composed),
            "before": before.to_json(),
            "after": after.to_json(),
        }
        publish_adapter(
            self.reader.path,
            self.mllm,
            self.work / "state" / "best",
            record,
            before=None if self.present is None else self.present.digest,
            progress=progress,
        )
        shutil.rmtree(self.work / "state", ignore_errors=True)
        (self.work / "before.json").unlink(missing_ok=True)
