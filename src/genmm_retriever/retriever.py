"""`GenerativeMMRetriever`: the one class that most users need."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from genmm_retriever.checks import (
    VERIFIERS,
    as_queries,
    as_query,
    check_options,
    checked_k,
    checked_verify,
)
from genmm_retriever.coalescing import Coalescer
from genmm_retriever.corpus.readers import Source, read_sources
from genmm_retriever.corpus.store import IndexReader, IndexSettings, IndexWriter, check_place
from genmm_retriever.errors import (
    EmptyCorpusError,
    IndexStateError,
    InputError,
    first_problem,
)
from genmm_retriever.schema import IDENTIFIERS_PER_ITEM, GivenImage, Hit, Kind, Query, Scalar
from genmm_retriever.weights import fitting_model, weights_of

__all__ = ["VERIFIERS", "GenerativeMMRetriever", "Verify"]

if TYPE_CHECKING:
    from genmm_retriever.asking import Asker
    from genmm_retriever.building import BuildReport
    from genmm_retriever.explaining import Explanation
    from genmm_retriever.models.base import MLLM
    from genmm_retriever.models.contrastive import ContrastiveEncoder
    from genmm_retriever.training import TrainingReport
    from genmm_retriever.vectors import EmbeddingReport

Verify = Literal["likelihood", "choice", "yesno", "off"]
ResultT = TypeVar("ResultT")


class GenerativeMMRetriever:
    """Finds pictures and passages by letting a multimodal language model write their names.

    Open an index with `from_index`, or build one with `from_images`. A retriever may be used
    from several threads; it sees what other processes add and delete at the next query. The
    model is loaded when it is first needed.

    Args:
        path: Folder of a finished index.
        model: A model object, a name, or None for the model that the index was built with.
        k: Hits a query, unless asked otherwise.
        verify: How candidates are checked: `"likelihood"` by log p(query | candidate),
            `"choice"` by which of the best the model picks, `"yesno"` by whether it says that
            one fits, `"off"` not at all. True and False mean the first and the last.
        num_beams: Width of the constrained search; None for 50 identifiers or 15 clues.
        candidates: First-stage candidates whose cheap parts (vectors) are compared.
        budget: Candidates that are verified in full; None for all, `"auto"` for 16, or the 10
            that are shown for a choice.
        budget_ms: Milliseconds that verifying a query may take, whichever limit comes first;
            the k best are verified in any case, but for a choice, which keeps to its limits.
        cascade: Likelihood by stages, each for fewer candidates: None where it costs less,
            True always, False never (see `verification.LikelihoodVerifier`).
        device: Such as `"cpu"` or `"cuda:0"`; by default a GPU if there is one.
        contrastive: The encoder whose vectors the index has (see `embed`), or its name, where it
            moved; None to load it as the index names it, False to leave it to a head of the
            model's own.

    Raises:
        IndexNotFoundError: If there is no finished index at `path`.
        IndexDamagedError: If a file of it is missing or altered.
        IndexVersionError: If a newer version wrote it.
        InputError: If an option is out of range.

    Attributes:
        build_report: What `from_images` did; None for an opened index.
        last_timings: Seconds of `encode`, `decode` and `verify` of the last call.
        last_candidates: Ids of the first stage's candidates of the last call, by query.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: MLLM | str | None = None,
        k: int = 10,
        verify: str | bool = "likelihood",
        num_beams: int | None = None,
        candidates: int = 600,
        budget: int | Literal["auto"] | None = "auto",
        budget_ms: float | None = None,
        cascade: bool | None = None,
        device: str | None = None,
        contrastive: ContrastiveEncoder | str | Literal[False] | None = None,
    ) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise InputError(f"the path of the index is {path!r}", "name the index's folder")
        self.path = Path(path)
        self._options: dict[str, Any] = {
            "num_beams": num_beams,
            "candidates": candidates,
            "budget": budget,
            "budget_ms": budget_ms,
            "cascade": cascade,
        }
        check_options(k=k, verify=verify, **self._options)
        if isinstance(contrastive, bool) and contrastive:
            raise InputError("contrastive=True", "give an encoder, its name, False or None")
        self.k, self.verify, self.candidates = k, checked_verify(verify), candidates
        self._named = model
        self._device = device
        self._given_encoder = contrastive
        self._encoder: ContrastiveEncoder | None = None
        self._lock = threading.RLock()
        self._model: MLLM | None = None
        self._asker: Asker | None = None
        self._closed = False
        # By a weak reference, so that a retriever that nobody holds goes away at once.
        self._coalescer = Coalescer(weakref.proxy(self))
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._reader = IndexReader.open(self.path)
        self.build_report: BuildReport | None = None
        self.last_timings: dict[str, float] = {}
        self.last_candidates: list[list[str]] = []

    @classmethod
    def from_index(cls, path: str | os.PathLike[str], **options: Any) -> GenerativeMMRetriever:
        """Open a finished index; options as for the class."""
        return cls(path, **options)

    @classmethod
    def from_images(
        cls,
        source: Source | Sequence[Source],
        *,
        path: str | os.PathLike[str] | None = None,
        model: MLLM | str = "builtin",
        identifiers: Literal["structured", "numeric", "clue", "caption"] = "structured",
        identifiers_per_item: int = IDENTIFIERS_PER_ITEM,
        items: Literal["images", "captions"] = "images",
        use_text: str | None = None,
        limit: int | None = None,
        overwrite: bool = False,
        strict: bool = False,
        progress: bool = True,
        seed: int = 0,
        device: str | None = None,
        **options: Any,
    ) -> GenerativeMMRetriever:
        """Build an index and open it; a build that was interrupted goes on.

        Args:
            source: Folders, pictures, JSONL or Parquet files, or items; one or several.
            path: Folder of the index. None makes a temporary one, removed by `close`.
            model: Describes and identifies; a name or a model object.
            identifiers: `"structured"` (words), `"clue"` (any phrase of the items' texts: for
                passages), or for comparison `"numeric"` and `"caption"` (its first words).
            identifiers_per_item: Most descriptions, and so doors, of an item.
            items: `"captions"` makes each caption of captioned lines a text item.
            use_text: A field of human text to index beside the picture.
            limit: Most items to read.
            overwrite: Replace an index at `path`.
            strict: Refuse a broken picture instead of skipping it.
            progress: Show progress on stderr.
            seed: Of captions and clusters.
            device: Where to run the model.
            **options: Further options of the class (k, verify, num_beams, ...).

        Raises:
            EmptyCorpusError: If there is nothing to index.
            SourceError: If a source cannot be read.
            DuplicateIdError: If two items share an id.
            ImageError: If `strict` and a picture is broken.
            InputError: If `path` holds something else, or was begun with other settings.
            StorageError: If the disk is full or cannot be written.
        """
        check_options(**options)
        found = _first_of(read_sources(source, items=items, use_text=use_text, limit=limit))
        if path is not None:
            check_place(
                Path(path).absolute(),
                overwrite=overwrite,
                identifiers=identifiers,
                identifiers_per_item=identifiers_per_item,
                items=items,
                use_text=use_text,
                seed=seed,
            )
        # Only now what takes its time: libraries and the model.
        from genmm_retriever.building import stage_and_build
        from genmm_retriever.describing import PROMPT_VERSION
        from genmm_retriever.models.loading import scoring_model

        loaded = scoring_model(model, device)
        settings = _settings(
            model=loaded.name,
            model_fingerprint=loaded.fingerprint,
            identifiers=identifiers,
            identifiers_per_item=identifiers_per_item,
            items=items,
            use_text=use_text,
            prompt_version=PROMPT_VERSION,
            seed=seed,
        )
        temporary = tempfile.TemporaryDirectory(prefix="genmm-") if path is None else None
        where = Path(temporary.name) / "index" if temporary else Path(path or "")
        try:
            with IndexWriter.create(where, settings, overwrite=overwrite) as writer:
                own = isinstance(model, str)
                loaded = fitting_model(loaded, settings, writer.adapter(), own=own)
                report = stage_and_build(writer, found, loaded, strict=strict, progress=progress)
            retriever = cls(where, model=model, device=device, **options)
            retriever._model = loaded
        except BaseException:
            if temporary is not None:
                temporary.cleanup()
            raise
        retriever.build_report = report
        retriever._temporary = temporary
        return retriever

    build = from_images
    open = from_index

    def __enter__(self) -> GenerativeMMRetriever:
        """The retriever itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Release the index; a temporary one is removed."""
        with self._lock:
            self._reader.close()
            self._asker = None
            self._closed = True
            if self._temporary is not None:
                self._temporary.cleanup()
                self._temporary = None
        self._coalescer.close()

    def __len__(self) -> int:
        """Number of items."""
        return len(self._reader)

    @property
    def settings(self) -> IndexSettings:
        """How the index was made."""
        return self._reader.settings

    @property
    def model(self) -> MLLM:
        """The model, loaded on first use.

        Raises:
            ModelError: If it is not the one that the index was built with.
            IndexDamagedError: If the index was trained and its adapter is damaged.
        """
        from genmm_retriever.models.loading import scoring_model

        with self._lock:
            if self._model is None:
                named = self._named or self.settings.model
                self._model = fitting_model(
                    scoring_model(named, self._device),
                    self.settings,
                    self._reader.adapter(),
                    own=isinstance(named, str),
                )
            return self._model

    def computing(self) -> AbstractContextManager[bool]:
        """Hold the model: while this is entered, nobody else asks it anything.

        For whoever shares `model` with this retriever, such as query adapters::

            with retriever.computing():
                texts = retriever.model.generate(prompts)
        """
        return self._lock

    def retrieve(
        self,
        query: str | Query | None = None,
        *,
        k: int | None = None,
        image: GivenImage | None = None,
        filters: dict[str, Scalar | list[Scalar]] | None = None,
        kind: Kind | None = None,
        verify: str | bool | None = None,
    ) -> list[Hit]:
        """The k items that answer a query best.

        Args:
            query: Words, or a whole `Query`, whose `ids` may name the items to look among; None
                for a picture alone.
            k: Exactly so many hits come back if so many items match the filters.
            image: A query picture, beside words or instead of them: a path, an address, encoded
                bytes, or an open PIL picture.
            filters: Metadata that hits must have.
            kind: Only pictures, or only texts.
            verify: Overrides the retriever's.

        Returns:
            Hits, best first; `Hit.score` says what the score is.

        Raises:
            QueryError: If the query is empty or too long, k out of range, or no item has a field
                that a filter names.
            ImageError: If the query picture cannot be opened.
        """
        whole = as_query(query, image=image, filters=filters, kind=kind)
        k = self.k if k is None else checked_k(k)
        verify = self.verify if verify is None else checked_verify(verify)
        if self._lock.acquire(blocking=False):
            try:
                return self.retrieve_batch([whole], k=k, verify=verify)[0]
            finally:
                self._lock.release()
        self._check_open()
        # Those that would wait for the lock anyway are answered together.
        return self._coalescer.enqueue(whole, k, verify).result()

    def retrieve_batch(
        self,
        queries: Sequence[str | Query],
        *,
        k: int | None = None,
        verify: str | bool | None = None,
    ) -> list[list[Hit]]:
        """Answer several queries in one decode; see `retrieve`."""
        from genmm_retriever.asking import Trace

        asked = as_queries(queries)
        k = self.k if k is None else checked_k(k)
        verify = self.verify if verify is None else checked_verify(verify)
        if not asked:
            return []
        with self._lock:
            self._check_open()
            trace = Trace()
            hits = self._current(asked).ask(asked, k, verify=verify, trace=trace)
            self.last_timings = trace.timings
            self.last_candidates = trace.candidates
            return hits

    async def aload(self) -> MLLM:
        """As `model`, loaded in the thread that answers `aretrieve`.

        Raises:
            ModelError: As `model`.
        """
        return await self.acompute(lambda: self.model)

    async def acompute(self, work: Callable[[], ResultT]) -> ResultT:
        """Do work with the model in the thread that answers `aretrieve`, in its turn.

        For whoever shares `model` with this retriever in an event loop, such as query adapters:
        two threads of a process that compute slow each other down, even one after the other.
        The model is held meanwhile, as by `computing`.

        Args:
            work: Called there, unless this is cancelled before its turn.

        Returns:
            What it returns.

        Raises:
            IndexStateError: If the retriever is closed.

        Examples:
            From a coroutine::

                texts = await retriever.acompute(lambda: retriever.model.generate(prompts))
        """
        self._check_open()

        def held() -> ResultT:
            with self._lock:
                return work()

        return await asyncio.wrap_future(self._coalescer.run(held))

    async def aretrieve(
        self,
        query: str | Query | None = None,
        *,
        k: int | None = None,
        image: GivenImage | None = None,
        filters: dict[str, Scalar | list[Scalar]] | None = None,
        kind: Kind | None = None,
        verify: str | bool | None = None,
    ) -> list[Hit]:
        """As `retrieve`, in a worker thread: the event loop is never blocked.

        Calls that wait at the same time are answered in one decode if they share `k` and
        `verify`.
        """
        whole = as_query(query, image=image, filters=filters, kind=kind)
        k = self.k if k is None else checked_k(k)
        verify = self.verify if verify is None else checked_verify(verify)
        self._check_open()
        return await self._coalescer.submit(whole, k, verify)

    def add(
        self,
        source: Source | Sequence[Source],
        *,
        replace: bool = False,
        strict: bool = False,
        progress: bool = True,
    ) -> BuildReport:
        """Add items, or with `replace` also exchange those whose ids are there already.

        Readers, this one included, see all of it or nothing.

        Raises:
            DuplicateIdError: If an id is there already and `replace` is false.
            EmptyCorpusError: If the source is empty.
            IndexLockedError: If another process is writing.
        """
        self._check_open()
        settings = self.settings
        found = _first_of(read_sources(source, items=settings.items, use_text=settings.use_text))
        with self._lock:
            with IndexWriter.open(self.path) as writer:
                # Imported here: an index that cannot be written is told of without the wait.
                from genmm_retriever.building import stage_and_build

                # Nobody else publishes now: the model is and stays the one of this generation.
                self._refresh()
                report = stage_and_build(
                    writer,
                    found,
                    self.model,
                    replace=replace,
                    strict=strict,
                    progress=progress,
                    encoder=self._fitting_encoder(),
                )
            self._refresh()
        return report

    def embed(
        self, encoder: ContrastiveEncoder | str | None, *, progress: bool = True
    ) -> EmbeddingReport:
        """Keep vectors of a contrastive encoder beside the items, for the likelihood verifier.

        CLIP or one of its kin in place of a contrastive head of the model's own, which most models
        do not have: with it the vectors of all candidates are compared before a few are verified
        in full. It may be interrupted and goes on; items that are added later get theirs by
        themselves. How much its cosines count is a default, not fitted.

        Args:
            encoder: An encoder or its name, such as `"open-clip:ViT-B-32/laion2b_s34b_b79k"` or
                `"google/siglip2-base-patch16-224"`; None takes the vectors away.
            progress: Show progress on stderr.

        Raises:
            ModelError: If it cannot be loaded.
            MissingExtraError: If a package is not installed.
            InputError: If this is an index of clues.
            IndexLockedError: If another process is writing.

        Examples:
            Once; from then on every retriever over the index uses them::

                retriever.embed("open-clip:ViT-B-32/laion2b_s34b_b79k")
        """
        from genmm_retriever.models.contrastive import ContrastiveEncoder, load_contrastive
        from genmm_retriever.vectors import embed_index

        self._check_open()
        if isinstance(encoder, str):
            encoder = load_contrastive(encoder, device=self._device)
        if encoder is not None and not isinstance(encoder, ContrastiveEncoder):
            raise InputError(
                f"the encoder is {encoder!r}", "give an encoder, its name, or None for none"
            )
        with self._lock:
            report = embed_index(self.path, encoder, progress=progress)
            self._encoder = encoder
            self._refresh()
        return report

    def train(self, **options: Any) -> TrainingReport:
        """Fine-tune the model on the index and publish the adapter with it.

        Options are those of `genmm_retriever.training.train_index`. Afterwards this retriever,
        and every other one over the index, answers with the trained model.

        Raises:
            InputError: If an option is out of range, or there is nothing to train.
            ModelError: If the model cannot be trained.
            IndexLockedError: If another training or a writer is at work.

        Examples:
            Captions that people wrote beat what the model asks itself::

                with GenerativeMMRetriever.from_index("photos.genmm") as retriever:
                    report = retriever.train(texts="captions.jsonl", epochs=3)
                    print(report.before, "->", report.after)
        """
        from genmm_retriever.training import train_index

        self._check_open()
        found = {"model": self._named, "device": self._device, **options}
        report = train_index(self.path, **found)
        with self._lock:
            self._check_open()
            self._refresh()
        return report

    def delete(self, ids: str | Iterable[str]) -> int:
        """Delete items by id; needs no model and is immediate.

        Returns:
            The number of items deleted.

        Raises:
            InputError: If an id is unknown; then nothing is deleted.
        """
        with self._lock:
            self._check_open()
            with IndexWriter.open(self.path) as writer:
                count = writer.delete(ids)
                writer.publish()
            self._refresh()
        return count

    def info(self) -> dict[str, Any]:
        """Counts, model and settings; does not load the model."""
        with self._lock:
            self._check_open()
            self._refresh()
            settings = self.settings.model_dump(mode="json")
            settings["item_kind"] = settings.pop("items")
            settings["identifier_kind"] = settings.pop("identifiers")
            counts = self._reader.counts()
            own = {
                "adapter": self._reader.adapter_digest,
                "contrastive": (self._reader.find_json("contrastive") or {}).get("name"),
            }
            return {"path": str(self.path), **counts, **settings, **own}

    def explain(self, query: str | Query, *, k: int = 3) -> str:
        """How the answer came about, as text for people."""
        from genmm_retriever.explaining import as_text

        return as_text(self.retrieve(query, k=k))

    def explain_written(
        self,
        query: str | Query | None = None,
        *,
        k: int = 5,
        image: GivenImage | None = None,
        filters: dict[str, Scalar | list[Scalar]] | None = None,
        kind: Kind | None = None,
        verify: str | bool | None = None,
        beams: int = 8,
        alternatives: int = 3,
    ) -> Explanation:
        """How the answer was written, as data: the beams as a tree, and each hit's verification.

        The beginnings of the best hypotheses are run through the model once more, and every
        choice is told: how likely what was written is among what was legal there, what else
        could have been written, how many items are left. `explain` says it in words.

        Args:
            query: As for `retrieve`, and so are the next.
            k: Hits.
            image: A query picture.
            filters: Metadata that hits must have.
            kind: Only pictures, or only texts.
            verify: Overrides the retriever's.
            beams: Beginnings that the tree shows, those that led to the hits first; 1 to 50.
            alternatives: Continuations told at each choice that were not taken; 0 to 50.

        Raises:
            QueryError: If the query is empty or too long, k out of range, or no item has a field
                that a filter names.
            ImageError: If the query picture cannot be opened.
            InputError: If `beams` or `alternatives` is out of range.

        Examples:
            The tree's first choice, likeliest first::

                found = retriever.explain_written("a dog on a beach")
                for piece in found.tree.children:
                    print(f"{piece.probability:.0%} {piece.text!r} {piece.items} items")
        """
        from genmm_retriever.explaining import explain_written

        asked = as_query(query, image=image, filters=filters, kind=kind)
        verify = self.verify if verify is None else checked_verify(verify)
        with self._lock:
            self._check_open()
            return explain_written(
                self._current([asked]),
                asked,
                k=checked_k(k),
                verify=verify,
                beams=beams,
                alternatives=alternatives,
            )

    def _check_open(self) -> None:
        if self._closed:
            raise IndexStateError("this retriever is closed", "open the index again")

    def _current(self, queries: Sequence[Query]) -> Asker:
        """The asker over the newest generation; what it cannot be asked fails before it loads."""
        from genmm_retriever.asking import Asker

        self._refresh()
        for query in queries:
            self._reader.check_fields(query.filters)
        if self._asker is None:
            self._asker = Asker(
                self._reader, self.model, encoder=self._fitting_encoder, **self._options
            )
        return self._asker

    def _fitting_encoder(self) -> ContrastiveEncoder | None:
        """The encoder whose vectors the index has, loaded when it is first needed."""
        from genmm_retriever.models.contrastive import load_contrastive
        from genmm_retriever.vectors import fitting_encoder, has_vectors_of

        given = self._given_encoder
        if given is False:
            return None
        if isinstance(given, str):
            given = self._given_encoder = load_contrastive(given, device=self._device)
        if given is not None:
            return fitting_encoder(self._reader, given, self._device)
        known = self._encoder if has_vectors_of(self._reader, self._encoder) else None
        self._encoder = fitting_encoder(self._reader, known, self._device)
        return self._encoder

    def _refresh(self) -> None:
        if self._reader.is_stale():
            newer = IndexReader.open(self.path, previous=self._reader)
            if weights_of(newer) != weights_of(self._reader):
                # Built anew with another model, or trained: checked, and adapted, when loaded.
                self._model = None
            self._reader.close()
            self._reader = newer
            self._asker = None


def _first_of(items: Iterable[Any]) -> Iterable[Any]:
    """The same items; fails before a model is loaded if there is none or the first is broken."""
    iterator = iter(items)
    try:
        first = next(iterator)
    except StopIteration:
        raise EmptyCorpusError(
            "the source holds no item", "give a folder with pictures, or a JSONL with lines"
        ) from None

    def chained() -> Iterable[Any]:
        yield first
        yield from iterator

    return chained()


def _settings(**values: Any) -> IndexSettings:
    try:
        return IndexSettings(**values)
    except ValidationError as error:
        raise InputError(f"the index cannot be made so: {first_problem(error)}") from error
