"""Questions answered from what is found, or honestly not answered."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict

from genmm_retriever.checks import as_query, check_threshold, checked_k
from genmm_retriever.describing import clean_caption, quotation
from genmm_retriever.describing.prompts.answers import MAX_SOURCE_WORDS, answer_prompt
from genmm_retriever.errors import InputError, WriterError
from genmm_retriever.models.base import Generator
from genmm_retriever.querying.adapters import check_model
from genmm_retriever.querying.computing import Searcher, holding, is_local, off_loop
from genmm_retriever.querying.excerpts import excerpt
from genmm_retriever.querying.forms import GroundedAnswer
from genmm_retriever.querying.resolving import ReferenceResolver
from genmm_retriever.querying.wrapping import Filters
from genmm_retriever.querying.writing import ask_for, is_builtin, looked_at, picture_of
from genmm_retriever.schema import GivenImage, Hit, Kind, Query

MAX_SOURCES = 20
_WORDS = 120


class Answer(BaseModel):
    """What is answered, and what it rests on.

    Args:
        found: False if nothing that was found answers the question.
        text: The answer; empty if not found.
        sources: The hits that it rests on, best first; if not found those that were looked at.
        confidence: The verifier's probability of the best hit, or None if none was verified.
        reason: Why there is no answer.
        quoted: True if the answer is what the index knows of the best source, word by word.
        tokens: Written, or None if the engine does not say.
        seconds: From question to answer.
    """

    model_config = ConfigDict(frozen=True)

    found: bool
    text: str
    sources: tuple[Hit, ...]
    confidence: float | None
    reason: str | None = None
    quoted: bool = False
    tokens: int | None = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The answer as the command line prints it; picture bytes are never included."""
        fields = self.model_dump(mode="json", exclude={"sources"})
        return {**fields, "sources": [hit.to_json() for hit in self.sources]}


class Answerer:
    """Finds, and answers from what was found.

    Nothing is answered when the verifier gives the best hit less than `threshold`, or when the
    model says that the sources do not hold the answer; a model that fails is an error. The
    builtin model cannot answer questions: it quotes what the index knows of the best source.

    Args:
        retriever: Whom to ask: a `GenerativeMMRetriever`, or one with adapters; None to answer
            with `answer_from` alone, from what others find.
        model: Who answers, such as a `RemoteGenerator`; None for the retriever's own model.
        k: Sources that are read, 1 to 20.
        threshold: Least probability of the best hit, 0 to 1; None for that of the calibration of
            the retriever's model, or 0 if it has none.
        pictures: Whether the model is shown the sources' pictures, and not their words alone.
        seed: Of further attempts where a form could not be filled.

    Raises:
        InputError: If an option is out of range, or there is neither a retriever nor a model.
    """

    def __init__(
        self,
        retriever: Searcher | None,
        model: Generator | None = None,
        *,
        k: int = 3,
        threshold: float | None = None,
        pictures: bool = True,
        seed: int = 0,
    ) -> None:
        check_model(model)
        if isinstance(retriever, (str, os.PathLike)):
            raise InputError(
                f"the retriever is {str(retriever)!r}, a path",
                "open it: GenerativeMMRetriever.from_index(path)",
            )
        if not 1 <= k <= MAX_SOURCES:
            raise InputError(f"k is {k!r}", f"read 1 to {MAX_SOURCES} sources")
        if threshold is not None and not _is_probability(threshold):
            raise InputError(f"threshold is {threshold!r}", "give a probability, 0 to 1")
        if retriever is None and model is None:
            raise InputError("nobody is there to answer", "give a retriever, a model, or both")
        self.retriever, self.k, self.pictures, self.seed = retriever, k, pictures, seed
        self._named, self._threshold = model, threshold
        self._alone = threading.RLock()

    @property
    def threshold(self) -> float:
        """Least probability of the best hit."""
        if self._threshold is not None:
            return self._threshold
        if self.retriever is None:
            return 0.0
        fitted: Any = getattr(self.retriever.model, "calibration", None) or {}
        return float(fitted.get("answer_from", 0.0))

    def ask(
        self,
        question: str | Query | None = None,
        *,
        image: GivenImage | None = None,
        filters: Filters | None = None,
        kind: Kind | None = None,
        verify: str | bool | None = None,
    ) -> Answer:
        """The answer to a question, of words, a picture, or both.

        A question that query adapters rewrote is looked for as rewritten, and answered in the
        words in which it was asked.

        With verification off, nothing is too unlikely to be answered.

        Raises:
            InputError: If there is no retriever, or a threshold was given and verification is off.
            QueryError: If the question is empty.
            ImageError: If its picture cannot be opened.
            RemoteError: If a remote engine cannot be reached.
            WriterError: If the model's answers cannot be used: that says nothing of the index.
        """
        start = time.perf_counter()
        query = as_query(question, image=image, filters=filters, kind=kind)
        self.check(verify)
        [hits] = self._asked().retrieve_batch([query], k=checked_k(self.k), verify=verify)
        return self._answered(query, hits, start)

    async def aask(
        self,
        question: str | Query | None = None,
        *,
        image: GivenImage | None = None,
        filters: Filters | None = None,
        kind: Kind | None = None,
        verify: str | bool | None = None,
    ) -> Answer:
        """As `ask`; the event loop is never blocked.

        A local model answers in the retriever's thread; a remote one is waited for without
        holding the retriever.
        """
        start = time.perf_counter()
        query = as_query(question, image=image, filters=filters, kind=kind)
        self.check(verify)
        hits = await self._asked().aretrieve(query, k=self.k, verify=verify)
        return await self._aanswered(query, hits, start)

    def answer_from(self, question: str | Query, hits: list[Hit]) -> Answer:
        """The answer from hits that were found already; see `ask`."""
        return self._answered(as_query(question), hits, time.perf_counter())

    async def aanswer_from(self, question: str | Query, hits: list[Hit]) -> Answer:
        """As `answer_from`; the event loop is never blocked."""
        return await self._aanswered(as_query(question), hits, time.perf_counter())

    async def _aanswered(self, query: Query, hits: list[Hit], start: float) -> Answer:
        work = partial(self._answered, query, hits, start)
        if self.retriever is None:
            return await asyncio.to_thread(work)
        return await off_loop(self.retriever, self._named, work)

    def check(self, verify: str | bool | None = None) -> None:
        """Refuse a threshold that nothing can be held against.

        Args:
            verify: As for `ask`.

        Raises:
            InputError: If a threshold was given and verification is off.
        """
        own = getattr(self.retriever, "verify", None)
        check_threshold(self._threshold, own if verify is None else verify)

    def _asked(self) -> Searcher:
        if self.retriever is None:
            raise InputError("there is no retriever to ask", "give one, or use answer_from")
        return self.retriever

    def _answered(self, query: Query, hits: list[Hit], start: float) -> Answer:
        sure = [p for hit in hits if (p := hit.evidence.verification) is not None]
        confidence = max(sure, default=None)
        hits = hits[: self.k]
        if not hits:
            reason = "no item matches the filters" if query.filters or query.kind else "no item"
            answer = Answer(found=False, text="", sources=(), confidence=None, reason=reason)
        elif confidence is not None and confidence < self.threshold:
            answer = Answer(
                found=False,
                text="",
                sources=tuple(hits),
                confidence=confidence,
                reason=f"the best hit is right with probability {_told(confidence)}, "
                f"less than {_told(self.threshold)}",
            )
        else:
            answer = self._written(query, hits, confidence)
        return answer.model_copy(update={"seconds": time.perf_counter() - start})

    def _written(self, query: Query, hits: list[Hit], confidence: float | None) -> Answer:
        model = self._named or self._asked().model
        if is_builtin(model):
            words = quotation(excerpt(hits[0], _WORDS), max_words=_WORDS)
            return Answer(
                found=True,
                text=words,
                sources=(hits[0],),
                confidence=confidence,
                quoted=True,
            )
        with self._holding(model):
            sources = [
                (
                    excerpt(hit, MAX_SOURCE_WORDS),
                    picture_of(model, hit) if self.pictures else None,
                )
                for hit in hits
            ]
            prompt = answer_prompt(_words_asked(query), looked_at(model, query), sources)
            [said] = ask_for(model, [prompt], GroundedAnswer, seed=self.seed, strict=True)
        if said.value is None:
            raise WriterError(
                f"{model.name!r} gave no usable answer: {said.problem or 'it wrote nothing'}",
                "ask again, or name another model: --writer, or model= in Python",
            )
        found, text, used, reason = _read(said.value, hits)
        return Answer(
            found=found,
            text=text,
            sources=tuple(used),
            confidence=confidence,
            reason=reason,
            tokens=said.tokens,
        )

    def _holding(self, model: Generator) -> AbstractContextManager[Any]:
        """What to enter before the model is asked."""
        if self.retriever is not None:
            return holding(self.retriever, model)
        return self._alone if is_local(model) else nullcontext()


def _told(probability: float) -> str:
    """Two digits, which small ones have after their zeros.

    Examples:
        >>> _told(0.8), _told(0.0049)
        ('0.80', '0.0049')
    """
    return f"{probability:.2f}" if probability >= 0.1 else f"{probability:.2g}"


def _is_probability(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _words_asked(query: Query) -> str:
    """A query's words as they were asked, before adapters made them fit to be looked for.

    Where the picture that they point at was left out, as they were resolved.
    """
    forms = (*query.rewritings, query.text or "")
    resolved = any(step.adapter == ReferenceResolver.name and step.changed for step in query.steps)
    return forms[1] if resolved and query.image is None and len(forms) > 1 else forms[0]


def _read(value: GroundedAnswer, hits: list[Hit]) -> tuple[bool, str, list[Hit], str | None]:
    """Whether there is an answer, its text, its sources, and why there is none.

    An answer that names no source of those it was given does not count as grounded.
    """
    text = clean_caption(value.answer, max_words=_WORDS, loops=False)
    numbers = dict.fromkeys(value.sources)
    used = [hits[number - 1] for number in numbers if 1 <= number <= len(hits)]
    if not value.found or not text:
        return False, "", hits, "the model finds no answer in the sources"
    if not used:
        return False, "", hits, "the model's answer names none of the sources"
    return True, text, used, None
