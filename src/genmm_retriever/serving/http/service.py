"""All that the routes of one service share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from ...errors import GenmmError
from ...retriever import GenerativeMMRetriever
from .catalog import Catalogue
from .engine import Engine
from .metrics import Metrics
from .pictures import Thumbnails, UploadedPictures
from .schemas import ErrorBody
from .settings import ServiceSettings

if TYPE_CHECKING:
    from ...models.base import Generator


class Service:
    """A retriever with what serves it.

    Args:
        retriever: Over the index; closed with the service.
        settings: The limits.
        writer: Loads who rewrites, reasons and answers; None for the retriever's model.
    """

    def __init__(
        self,
        retriever: GenerativeMMRetriever,
        settings: ServiceSettings,
        writer: Callable[[], Generator] | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.catalogue = Catalogue(retriever.path)
        self.engine = Engine(retriever, settings, self.metrics, writer)
        self.thumbnails = Thumbnails(settings.thumbnail_bytes, settings.max_pixels)
        self.uploaded = UploadedPictures(settings.max_pixels)
        self.metrics.watch("index_items", "Items in the index", self._items)

    async def close(self) -> None:
        """Finish what was taken and let go of the index."""
        await self.engine.close()
        self.catalogue.close()

    def _items(self) -> float:
        try:
            return float(self.catalogue.counts()["items"])
        except GenmmError:
            # The other figures are wanted most when the index is gone.
            return math.nan


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(service_of)]


def as_json(
    content: BaseModel, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A model as a response; what JSON cannot say, such as -inf, becomes null."""
    return Response(
        content.model_dump_json(),
        status_code=status,
        media_type="application/json",
        headers=headers,
    )


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of refusals."""
    return {status: {"model": ErrorBody} for status in statuses}
