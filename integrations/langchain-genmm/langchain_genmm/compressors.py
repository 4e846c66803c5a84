"""The verifier as a document compressor: orders the documents of any retriever."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from pathlib import PurePath
from typing import Any, Literal

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field, PrivateAttr

from genmm_retriever.corpus.images import IMAGE_SUFFIXES
from genmm_retriever.errors import QueryError
from genmm_retriever.reranking_adapters import RerankerCore, places_of, reranker_core
from genmm_retriever.schema import Hit, Item


class GenmmCompressor(BaseDocumentCompressor):
    """Orders documents by how well a multimodal language model finds that they fit the query.

    Documents of any retriever. One shows a picture if its metadata has a path or address of a
    picture under `image_key`. The model's probability comes into the metadata as
    `relevance_score`; what the first retriever wrote there, its `score` among it, stays.
    Documents without words or picture, and broken pictures unless `strict`, come last with 0.

    Args:
        model: Name of the model.
        top_n: Documents to keep; None for all.
        verify: `"likelihood"`, `"choice"` or `"yesno"`; see `GenerativeMMReranker`.
        budget: Documents that the language model looks at; None for all, `"auto"` for what is
            usual.
        budget_ms: Milliseconds that this may take, whichever limit comes first.
        strict: Refuse broken pictures.
        device: Such as `"cpu"` or `"cuda:0"`; by default a GPU if there is one.
        image_key: Where the metadata refers to a picture; None reads only texts.
        reranker: A `GenerativeMMReranker`, to share its model. It has `model`, `verify`,
            `budget`, `budget_ms`, `strict` and `device` of its own, which cannot be given here.

    Raises:
        InputError: If an option is out of range, or belongs to the reranker that is given.

    Examples:
        >>> compressor = GenmmCompressor(top_n=3)
        >>> compressor.compress_documents(documents, "a cup of coffee")  # doctest: +SKIP
    """

    model_config = ConfigDict(extra="forbid")

    model: str = "builtin"
    top_n: int | None = Field(default=None, ge=1)
    verify: Literal["likelihood", "choice", "yesno"] = "likelihood"
    budget: int | Literal["auto"] | None = "auto"
    budget_ms: float | None = None
    strict: bool = True
    device: str | None = None
    image_key: str | None = "source"
    _reranker: RerankerCore = PrivateAttr()

    def __init__(self, *, reranker: RerankerCore | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._reranker = reranker_core(
            reranker,
            self.model,
            said=self.model_fields_set,
            verify=self.verify,
            budget=self.budget,
            budget_ms=self.budget_ms,
            strict=self.strict,
            device=self.device,
        )

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Documents, best first, as copies with `relevance_score` in the metadata.

        Args:
            documents: Of any retriever.
            query: Words.
            callbacks: Not used.

        Raises:
            QueryError: If the query is empty.
            ImageError: If a picture is broken and `strict`; it is named.
        """
        _check(query)
        if not documents:
            return []
        return self._ordered(documents, self._reranker.rerank(query, self._candidates(documents)))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """As `compress_documents`, without blocking the event loop."""
        _check(query)
        if not documents:
            return []
        hits = await self._reranker.arerank(query, self._candidates(documents))
        return self._ordered(documents, hits)

    def _candidates(self, documents: Sequence[Document]) -> list[Item | tuple[Item, float]]:
        """Documents that show something, by their places, with their scores if they have one."""
        candidates: list[Item | tuple[Item, float]] = []
        for place, document in enumerate(documents):
            text, image = document.page_content, self._image(document)
            if image is None and not text.strip():
                continue
            item = Item(id=str(place), text=text or None, image=image)
            score = document.metadata.get("score")
            if isinstance(score, Real) and math.isfinite(score):
                candidates.append((item, float(score)))
            else:
                candidates.append(item)
        return candidates

    def _image(self, document: Document) -> str | None:
        if self.image_key is None:
            return None
        source = document.metadata.get(self.image_key)
        if not isinstance(source, str) or not source:
            return None
        if self.image_key == "source" and source == document.id:
            return None  # indexed from bytes: there is no file to look at
        said = document.metadata.get("mime_type")
        if isinstance(said, str) and said:
            return source if said.startswith("image/") else None
        path = source.split("?", 1)[0] if source.startswith(("http://", "https://")) else source
        return source if PurePath(path).suffix.lower() in IMAGE_SUFFIXES else None

    def _ordered(self, documents: Sequence[Document], hits: list[Hit]) -> list[Document]:
        return [
            documents[place].model_copy(
                update={"metadata": {**documents[place].metadata, "relevance_score": score}}
            )
            for place, score in places_of(hits, len(documents))[: self.top_n]
        ]


def _check(query: str) -> None:
    if not query.strip():
        raise QueryError("the query is empty", "give words to order the documents by")
