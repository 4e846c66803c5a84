"""`genmm triplets INDEX`: from an index to a file of triplets, batch by batch."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.errors import CapabilityError, InputError
from genmm_retriever.models.base import MLLM
from genmm_retriever.models.loading import load_model
from genmm_retriever.training.triplets.book import Triplet, TripletBook
from genmm_retriever.training.triplets.filters import text_key
from genmm_retriever.training.triplets.mining import ImagePair
from genmm_retriever.training.triplets.synthesizer import TripletSynthesizer

PAIRS_AT_ONCE = 16


@dataclass(frozen=True)
class TripletReport:
    """What a call of `synthesize_triplets` did.

    Attributes:
        triplets: Triplets in the file.
        with_reverse: Those of them that lead back too.
        new: Triplets that this call wrote.
        pairs: Pairs of pictures that were found.
        dropped: Pairs that gave no triplet, by reason (see `filters.REASONS`).
        by: `"rule"` or `"model"`.
        seconds: Of this call.
    """

    triplets: int
    with_reverse: int
    new: int
    pairs: int
    dropped: dict[str, int]
    by: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As `genmm triplets --json` prints it."""
        return asdict(self)


def synthesize_triplets(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: MLLM | str | None = None,
    per_item: int = 1,
    limit: int | None = None,
    category: str | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
    interrupt: Callable[[int], None] | None = None,
) -> TripletReport:
    """Write triplets of an index's pictures to a JSONL file; see `TripletSynthesizer`.

    A line is `{"reference", "target", "text", "reverse", "scores", "model", "prompt_version"}`,
    the first two being ids of the index. A call that was interrupted goes on where it was when
    it is made again; pairs that were decided on are not asked for again.

    Args:
        path: A finished index of identifiers.
        output: The file; what was dropped is kept in the folder `<output>.work`.
        model: Who writes and judges, or its name; None for the index's own model. It may be
            another than the index's.
        per_item: Pairs that a picture is the reference of, at most.
        limit: Triplets in the file, at most; None for all.
        category: Field of the metadata whose values pair pictures; None for topics and objects.
        seed: Of all choices.
        device: Such as `"cuda:0"`; by default a GPU if there is one.
        progress: Show a bar on stderr.
        interrupt: Called with the number of triplets before each batch; what it raises ends the
            call as Ctrl-C does.

    Raises:
        IndexNotFoundError: If there is no finished index at `path`.
        InputError: If an option is out of range, the file was begun with other options, or no
            pictures can be paired.
        SourceError: If the file is there and is no file of triplets.
        CapabilityError: If the model takes no pictures.
        IndexLockedError: If another process writes the file.
        StorageError: If the disk is full or cannot be written.

    Examples:
        Triplets of an index, and a training with them::

            from genmm_retriever.training import synthesize_triplets, train_index

            print(synthesize_triplets("photos.genmm", "triplets.jsonl", per_item=2))
            train_index("photos.genmm", triplets="triplets.jsonl")
    """
    begun = time.perf_counter()
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}", "give at least 1, or none")
    with IndexReader.open(Path(path).absolute()) as reader:
        synthesizer = TripletSynthesizer(
            reader, _writer(reader, model, device), category=category, per_item=per_item, seed=seed
        )
        pairs = synthesizer.pairs()
        with TripletBook(Path(output).absolute(), _options(synthesizer, reader)) as book:
            before = len(book)
            _write(synthesizer, pairs, book, limit, progress=progress, interrupt=interrupt)
            return TripletReport(
                triplets=len(book),
                with_reverse=sum(one.reverse is not None for one in book.triplets.values()),
                new=len(book) - before,
                pairs=len(pairs),
                dropped=book.dropped,
                by="rule" if synthesizer.by_rule else "model",
                seconds=time.perf_counter() - begun,
            )


def _writer(reader: IndexReader, model: MLLM | str | None, device: str | None) -> MLLM:
    named = model or reader.settings.model
    found = load_model(named, device=device) if isinstance(named, str) else named
    if not isinstance(found, MLLM):
        raise CapabilityError(
            f"{type(found).__name__} gives no log-probabilities to judge texts by",
            "give a model that runs here",
        )
    return found


def _options(synthesizer: TripletSynthesizer, reader: IndexReader) -> dict[str, Any]:
    """What the lines of a file are a function of, beside the index's present items."""
    return {
        "seed": synthesizer.seed,
        "category": synthesizer.category,
        "model": synthesizer.gallery.model.fingerprint,
        "prompt_version": synthesizer.writer.version,
        "index_model": reader.settings.model_fingerprint,
    }


def _write(
    synthesizer: TripletSynthesizer,
    pairs: Sequence[ImagePair],
    book: TripletBook,
    limit: int | None,
    *,
    progress: bool,
    interrupt: Callable[[int], None] | None,
) -> None:
    ids = synthesizer.ids(pairs)
    left = [pair for pair, names in zip(pairs, ids, strict=True) if names not in book]
    texts = (text for one in book.triplets.values() for text in (one.text, one.reverse) if text)
    taken = {text_key(text) for text in texts}
    most = sys.maxsize if limit is None else limit
    with tqdm(
        total=len(pairs), initial=len(pairs) - len(left), desc="writing triplets",
        disable=not progress or not left,
    ) as bar:  # fmt: skip
        for start in range(0, len(left), PAIRS_AT_ONCE):
            if len(book) >= most:
                return
            if interrupt is not None:
                interrupt(len(book))
            batch = left[start : start + PAIRS_AT_ONCE]
            _put(synthesizer, batch, book, most, taken)
            bar.update(len(batch))
            bar.set_postfix(kept=len(book), refresh=False)


def _put(
    synthesizer: TripletSynthesizer,
    batch: Sequence[ImagePair],
    book: TripletBook,
    most: int,
    taken: set[str],
) -> None:
    """Write for a batch and keep what came of it; what goes beyond the limit is not decided."""
    triplets: list[Triplet] = []
    dropped: list[tuple[str, str, str]] = []
    outcomes = synthesizer.write(batch, taken)
    for outcome, names in zip(outcomes, synthesizer.ids(batch), strict=True):
        if len(book) + len(triplets) >= most:
            break
        if outcome.triplet is not None:
            triplets.append(outcome.triplet)
        else:
            dropped.append((*names, outcome.reason or ""))
    book.put(triplets, dropped)
