"""`GenerativeMMReranker`: the verifier alone, for the hits of any retriever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from genmm_retriever.candidates import Candidate, Given, read_candidates
from genmm_retriever.checks import as_query, check_options, checked_k, checked_verify
from genmm_retriever.corpus.images import open_image
from genmm_retriever.errors import CapabilityError, ImageError, InputError
from genmm_retriever.schema import GivenImage, Hit, Item, Query

if TYPE_CHECKING:
    from PIL import Image

    from genmm_retriever.models.base import MLLM, ImagePart
    from genmm_retriever.models.contrastive import ContrastiveEncoder
    from genmm_retriever.models.kept_features import KeptFeatures
    from genmm_retriever.verification import QueryView, Verifier

_BATCH = 16
_BATCH_PIXELS = 32_000_000
_DEPTH = 10
"""Places that the order is careful about where all candidates are wanted."""


class GenerativeMMReranker:
    """Orders the hits of any retriever by how well a multimodal language model finds they fit.

    The verifier of `GenerativeMMRetriever` without an index: for the hits of BM25, of a vector
    store, or of several retrievers together. The model is loaded when it is first needed.
    Features of pictures are kept for the next query, in 64 MiB of memory. It may be used from
    several threads, which take turns; not at the same time as a retriever that shares a model
    object with it.

    Args:
        model: A model object or a name; see `load_model`.
        verify: `"likelihood"` by log p(query | candidate), `"choice"` by which of the best the
            model picks, `"yesno"` by whether it says that one fits.
        budget: Candidates that the language model looks at; None for all, `"auto"` for 16, or
            the 10 that are shown for a choice. The others follow, by what is known without it.
        budget_ms: Milliseconds that this may take, whichever limit comes first.
        strict: Refuse broken pictures; otherwise they come last, with `Evidence.problem`.
        device: Such as `"cpu"` or `"cuda:0"`; by default a GPU if there is one.
        contrastive: An encoder such as CLIP, or its name (see `models.contrastive`), in place of a
            contrastive head of the model's own; for the likelihood alone. Every candidate is
            looked at by it, and its vector kept for the next query.

    Raises:
        InputError: If an option is out of range.

    Examples:
        >>> reranker = GenerativeMMReranker()
        >>> hits = reranker.rerank("a cat", ["cat.jpg", "dog.jpg", "A text."])  # doctest: +SKIP
        >>> [hit.item.id for hit in hits]  # doctest: +SKIP
        ['cat.jpg', '2', 'dog.jpg']
    """

    def __init__(
        self,
        model: MLLM | str = "builtin",
        *,
        verify: Literal["likelihood", "choice", "yesno"] = "likelihood",
        budget: int | Literal["auto"] | None = "auto",
        budget_ms: float | None = None,
        strict: bool = True,
        device: str | None = None,
        contrastive: ContrastiveEncoder | str | None = None,
    ) -> None:
        check_options(verify=verify, budget=budget, budget_ms=budget_ms)
        self.verify = checked_verify(verify)
        if self.verify == "off":
            raise InputError("a reranker with verify='off' does nothing", "name a verifier")
        if contrastive is not None and self.verify != "likelihood":
            raise InputError(
                f"verify={self.verify!r} compares no vectors, and contrastive is given",
                "leave contrastive out, or verify by likelihood",
            )
        self.strict = strict
        self._limits: dict[str, Any] = {"budget": budget, "budget_ms": budget_ms}
        self._named, self._device = model, device
        self._lock = threading.Lock()
        self._model: MLLM | None = None
        self._verifier: Verifier | None = None
        self._kept: KeptFeatures | None = None
        self._keeps: bool | None = None
        self._encoder = contrastive
        self._vectors: KeptFeatures | None = None

    @property
    def model(self) -> MLLM:
        """The model, loaded on first use.

        Raises:
            ModelError: If it cannot be loaded or gives no log-probabilities.
        """
        with self._lock:
            return self._ready()

    def rerank(
        self,
        query: str | Query | None,
        candidates: Iterable[Candidate | tuple[Candidate, float]],
        *,
        k: int | None = None,
        image: GivenImage | None = None,
    ) -> list[Hit]:
        """The candidates, best first.

        Args:
            query: Words, or a whole `Query`, whose filters, kind and ids do not matter here;
                None for a picture alone.
            candidates: Items, hits, paths of pictures, encoded or open pictures, or texts,
                each alone or with the score that a retriever gave it, higher for better. A `str`
                is a picture if it ends like one (`"a.jpg"`), otherwise a text; the address of a
                picture and the path of another file or folder that is there are refused, with
                texts of strangers say `Item(id=..., text=...)`. A `Path` is a picture whatever
                it ends in. Those that are no items get an id: a path itself, a text
                or bytes their place from 0.
            k: Hits; None for all candidates.
            image: A query picture, beside words or instead of them.

        Returns:
            Hits; each score is the verifier's probability, and `evidence.parts` has what it
            comes from, with the retriever's score as `first_stage`.

        Raises:
            QueryError: If the query is empty or k out of range.
            InputError: If a candidate is none; its place is named.
            ImageError: If a picture is broken and `strict`; it is named.
            CapabilityError: If there are pictures and the model reads none.
        """
        asked = as_query(query, image=image)
        least = min(_DEPTH, self._most()) if k is None else checked_k(k)
        given = read_candidates(candidates)
        if not given:
            return []
        with self._lock:
            hits = self._ordered(asked, given, least)
        return [hit.model_copy(update={"rank": n}) for n, hit in enumerate(hits[:k], start=1)]

    async def arerank(
        self,
        query: str | Query | None,
        candidates: Iterable[Candidate | tuple[Candidate, float]],
        *,
        k: int | None = None,
        image: GivenImage | None = None,
    ) -> list[Hit]:
        """As `rerank`, in a worker thread: the event loop is never blocked."""
        return await asyncio.to_thread(self.rerank, query, list(candidates), k=k, image=image)

    def _most(self) -> int:
        budget = self._limits["budget"]
        return budget if isinstance(budget, int) else _DEPTH

    def _ready(self) -> MLLM:
        if self._model is None:
            from genmm_retriever.models.contrastive import load_contrastive
            from genmm_retriever.models.kept_features import KeptFeatures
            from genmm_retriever.models.loading import scoring_model
            from genmm_retriever.verification import make_verifier

            model = scoring_model(self._named, self._device)
            if isinstance(self._encoder, str):
                self._encoder = load_contrastive(self._encoder, device=self._device)
            scale = None if self._encoder is None else self._encoder.scale
            self._verifier = make_verifier(self.verify, model, encoder_scale=scale, **self._limits)
            self._kept, self._vectors = KeptFeatures(), KeptFeatures()
            self._model = model
        return self._model

    def _ordered(self, asked: Query, given: list[Given], least: int) -> list[Hit]:
        from genmm_retriever.verification import QueryView

        query = QueryView.of(asked, self._ready())
        pictured = [one for one in given if one.item.image is not None]
        if pictured:
            self._look_at(pictured)
        sound = [one for one in given if one.problem is None]
        broken = [one for one in given if one.problem is not None]
        if self._encoder is not None and sound:
            query = self._embed(asked, query, sound)
        hits = self._verified(query, sound, least) if sound else []
        return [*hits, *(_hit(one, 0.0, {}) for one in broken)]

    def _verified(self, query: QueryView, sound: list[Given], least: int) -> list[Hit]:
        from genmm_retriever.verification import CandidateView

        assert self._verifier is not None
        views = [
            CandidateView(
                words=one.words,
                image=_picture(one),
                generation=self._prior(n, one),
                vector=one.vector,
            )
            for n, one in enumerate(sound)
        ]
        scores, parts = self._verifier.verify(query, views, at_least=least)
        order = (-scores).argsort(kind="stable")
        return [_hit(sound[i], float(scores[i]), parts.of(i)) for i in order]

    def _embed(self, asked: Query, query: QueryView, sound: list[Given]) -> QueryView:
        """Give candidates their vectors by the encoder; the query with its own."""
        from genmm_retriever.models.kept_features import picture_key
        from genmm_retriever.verification import QueryVectors

        encoder, kept = self._encoder, self._vectors
        assert kept is not None
        assert encoder is not None
        assert not isinstance(encoder, str)
        texts = [one for one in sound if one.item.image is None]
        if texts:
            vectors = encoder.embed_texts([one.words for one in texts])
            for one, vector in zip(texts, vectors, strict=True):
                one.vector = vector
        pictured = [(one, one.item.image) for one in sound if one.item.image is not None]
        for one, image in pictured:
            one.vector = kept.get(picture_key(image))
        new = [one for one, _ in pictured if one.vector is None]
        for batch in _batches(self._opened(new)):
            vectors = encoder.embed_pictures([picture for _, picture in batch])
            for (one, _), vector in zip(batch, vectors, strict=True):
                one.vector = vector
        for one, image in pictured:
            if one.vector is not None:
                kept.put(picture_key(image), one.vector)
        return replace(query, vectors=QueryVectors.of(asked, query, encoder))

    def _prior(self, place: int, one: Given) -> float | None:
        """The first stage's score in nats, as far as the verifier can use it.

        The likelihood weighs it, so another retriever's units would mislead; the others only
        keep to its order.
        """
        return one.evidence.generation if self.verify == "likelihood" else -float(place)

    def _look_at(self, pictured: list[Given]) -> None:
        """Features of pictures where the model's can be kept, else whether they can be opened."""
        from genmm_retriever.models.kept_features import picture_key

        model, kept = self._ready(), self._kept
        assert kept is not None
        if not model.supports_images:
            raise CapabilityError(
                f"{model.name!r} reads no pictures", "name an image-text-to-text model"
            )
        new = []
        for one in pictured:
            assert one.item.image is not None
            one.features = kept.get(key := picture_key(one.item.image))
            if one.features is None:
                new.append((key, one))
        if self.strict and self._keeps is False:
            return  # they are opened when they are looked at
        for batch in _batches(self._opened([one for _, one in new])):
            features = model.encode_images([picture for _, picture in batch])
            self._keeps = features is not None
            if features is None:
                continue  # it was seen that they can be opened
            for (one, _), own in zip(batch, features, strict=True):
                one.features = own
        for key, one in new:
            if one.features is not None:
                kept.put(key, one.features)
        self._name_objects(model, [one for one in pictured if not one.words])

    def _opened(self, given: list[Given]) -> Iterator[tuple[Given, Image.Image]]:
        for one in given:
            try:
                picture = _open(one.item)
            except ImageError as error:
                if self.strict:
                    raise
                one.problem = str(error)
                continue
            yield one, picture

    def _name_objects(self, model: MLLM, wordless: list[Given]) -> None:
        """What a picture shows in words, where that costs next to nothing."""
        import torch

        from genmm_retriever.models.base import ObjectNamer

        looked = [(one, one.features) for one in wordless if one.features is not None]
        if looked and isinstance(model, ObjectNamer):
            names = model.object_words(torch.stack([features for _, features in looked]))
            for (one, _), found in zip(looked, names, strict=True):
                one.seen = ", ".join(name for name, _ in found)


def _batches(
    opened: Iterable[tuple[Given, Image.Image]],
) -> Iterator[Sequence[tuple[Given, Image.Image]]]:
    """As many pictures together as fit in bounded memory."""
    batch: list[tuple[Given, Image.Image]] = []
    pixels = 0
    for one, picture in opened:
        batch.append((one, picture))
        pixels += picture.width * picture.height
        if len(batch) == _BATCH or pixels >= _BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _open(item: Item) -> Image.Image:
    assert item.image is not None
    try:
        return open_image(item.image)
    except ImageError as error:
        raise ImageError(
            f"candidate {item.id!r}: {error.message}",
            f"{error.hint or 'leave it out'}, or have it last: GenerativeMMReranker(strict=False)",
        ) from error


def _picture(one: Given) -> ImagePart | Callable[[], ImagePart] | None:
    """As features if they are at hand, else what opens it when it is looked at."""
    from genmm_retriever.models.base import ImagePart

    if one.item.image is None:
        return None
    if one.features is not None:
        return ImagePart(features=one.features)
    return partial(_opened_part, one.item)


def _opened_part(item: Item) -> ImagePart:
    from genmm_retriever.models.base import ImagePart

    return ImagePart(image=_open(item))


def _hit(one: Given, score: float, parts: dict[str, float]) -> Hit:
    known = {} if one.score is None else {"first_stage": one.score}
    evidence = one.evidence.model_copy(
        update={
            "verification": None if one.problem else score,
            "parts": parts | known,
            "caption": one.words or None,
            "problem": one.problem,
        }
    )
    return Hit(item=one.item, score=score, rank=1, evidence=evidence)
