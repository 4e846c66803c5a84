"""The LangChain retriever: a thin adapter over `genmm_retriever.GenerativeMMRetriever`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any, Literal, Protocol, runtime_checkable

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from genmm_retriever.checks import as_query, checked_k, joined_filters
from genmm_retriever.schema import Hit, Item, Kind, Query, Scalar
from langchain_genmm.documents import hit_to_document

Filters = dict[str, Scalar | list[Scalar]]
Verify = Literal["likelihood", "choice", "yesno", "off"]
ImageSource = str | bytes | PathLike[str]


@runtime_checkable
class RetrieverCore(Protocol):
    """What the adapter needs of the core class; other retrievers may stand in."""

    def retrieve(self, query: str | Query, **options: Any) -> list[Hit]:
        """Hits, best first."""
        ...

    async def aretrieve(self, query: str | Query, **options: Any) -> list[Hit]:
        """As `retrieve`, without blocking the event loop."""
        ...

    def close(self) -> None:
        """Let go of files and memory."""
        ...


class GenerativeMMRetriever(BaseRetriever):
    """Finds pictures and texts by the identifiers that a multimodal language model generates.

    Open an index with `from_index`, or build one with `from_images`. Besides text it takes a
    picture, or a picture with an instruction (a composed query):
    `retriever.invoke("the same, but in red", image="shirt.jpg")`. A core `Query`, as
    `GenmmQueryAdapter` gives it, is asked with all that it has.

    Args:
        core: The retriever that does the work, or one with query adapters in front of it, such
            as `genmm_retriever.querying.AdaptedRetriever`.
        path: Instead of `core`: the folder of an index, which is then opened.
        k: How many documents a query gives; exactly as many whenever so many items match.
        filters: Metadata conditions for every query, applied before decoding; a list means
            "one of". Those of a call are added to these; of two on the same key, the call's holds.
        kind: Look only for `"image"` or only for `"text"` items; None looks for both.
        verify: `"likelihood"`, `"choice"`, `"yesno"` or `"off"`; None leaves it to the core.

    Examples:
        >>> retriever = GenerativeMMRetriever.from_images("photos", k=3)  # doctest: +SKIP
        >>> retriever.invoke("a cup of coffee")[0].metadata["source"]  # doctest: +SKIP
        'photos/coffee.png'
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    core: RetrieverCore = Field(repr=False)
    path: str | None = None
    k: int = Field(default=10, ge=1)
    filters: Filters | None = None
    kind: Kind | None = None
    verify: Verify | None = None

    @model_validator(mode="before")
    @classmethod
    def _open(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("core") is not None:
            return values
        if values.get("path") is None:
            raise ValueError("give core=..., or path=... of an index, or use from_images(...)")
        path = fspath(values["path"])
        return {**values, "path": path, "core": _core_class().from_index(path)}

    @classmethod
    def from_index(
        cls,
        path: str | PathLike[str],
        *,
        k: int = 10,
        filters: Filters | None = None,
        kind: Kind | None = None,
        verify: Verify | None = None,
        **options: Any,
    ) -> Self:
        """Open an index.

        Args:
            path: Folder of the index.
            k: As in the constructor.
            filters: As in the constructor.
            kind: As in the constructor.
            verify: As in the constructor.
            **options: For the core's `from_index`: `model`, `num_beams`, `candidates`, `device`.

        Returns:
            A retriever over the index; the model is loaded by the first query.

        Raises:
            IndexNotFoundError: If there is no finished index at `path`.
        """
        core = _core_class().from_index(path, **options)
        return cls(core=core, path=fspath(path), k=k, filters=filters, kind=kind, verify=verify)

    @classmethod
    def from_images(
        cls,
        source: str | PathLike[str] | Sequence[str | PathLike[str] | Item],
        *,
        path: str | PathLike[str] | None = None,
        k: int = 10,
        filters: Filters | None = None,
        kind: Kind | None = None,
        verify: Verify | None = None,
        **options: Any,
    ) -> Self:
        """Build an index and open it.

        Args:
            source: Folders, image files, JSONL files, or items.
            path: Where to keep the index, for `from_index` later; None keeps it in a
                temporary folder until `close`.
            k: As in the constructor.
            filters: As in the constructor.
            kind: As in the constructor.
            verify: As in the constructor.
            **options: For the core's `from_images`: `model`, `identifiers`, `progress`, ...

        Returns:
            A retriever over the new index.

        Raises:
            EmptyCorpusError: If the source has nothing to index.
        """
        core = _core_class().from_images(source, path=path, **options)
        place = None if path is None else fspath(path)
        return cls(core=core, path=place, k=k, filters=filters, kind=kind, verify=verify)

    def close(self) -> None:
        """Close the core, and with it remove a temporary index."""
        self.core.close()

    def _get_relevant_documents(
        self,
        query: str | Query,
        *,
        run_manager: CallbackManagerForRetrieverRun | None = None,
        k: int | None = None,
        image: ImageSource | None = None,
        filters: Filters | None = None,
        kind: Kind | None = None,
        verify: Verify | None = None,
    ) -> list[Document]:
        asked = self._query(query, image, filters, kind)
        hits = self.core.retrieve(asked, **self._options(k, verify))
        return [hit_to_document(hit) for hit in hits]

    async def _aget_relevant_documents(
        self,
        query: str | Query,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun | None = None,
        k: int | None = None,
        image: ImageSource | None = None,
        filters: Filters | None = None,
        kind: Kind | None = None,
        verify: Verify | None = None,
    ) -> list[Document]:
        asked = self._query(query, image, filters, kind)
        hits = await self.core.aretrieve(asked, **self._options(k, verify))
        # Naming a picture's type may look into its file, which must not block the loop.
        return await asyncio.to_thread(lambda: [hit_to_document(hit) for hit in hits])

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        return LangSmithRetrieverParams(ls_retriever_name="genmm")

    def _query(
        self,
        query: str | Query,
        image: ImageSource | None,
        filters: Filters | None,
        kind: Kind | None,
    ) -> Query:
        # A whole query is of `GenmmQueryAdapter`, in front of this in a chain.
        own, said = (query.filters, query.kind) if isinstance(query, Query) else (None, None)
        return as_query(
            (query.strip() or None) if isinstance(query, str) else query,
            image=_picture(image),
            filters=joined_filters(self.filters, own, filters),
            kind=kind or said or self.kind,
        )

    def _options(self, k: int | None, verify: Verify | None) -> dict[str, Any]:
        return {"k": self.k if k is None else checked_k(k), "verify": verify or self.verify}


def _picture(image: ImageSource | None) -> str | bytes | None:
    return image if image is None or isinstance(image, bytes) else fspath(image)


def _core_class() -> Any:
    # Late, so that importing this package stays light.
    from genmm_retriever.retriever import GenerativeMMRetriever as Core

    return Core
