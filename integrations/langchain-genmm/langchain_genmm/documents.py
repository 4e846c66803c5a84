"""Hits as LangChain documents, and documents as content blocks for chat models."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages.content import (
    ContentBlock,
    create_image_block,
    create_text_block,
)

from genmm_retriever.corpus.images import open_image
from genmm_retriever.corpus.kinds import media_type, shown_source
from genmm_retriever.corpus.references import local_path
from genmm_retriever.errors import ImageError
from genmm_retriever.schema import Hit

_COMMON = ("image/png", "image/jpeg", "image/gif", "image/webp")


def hit_to_document(hit: Hit) -> Document:
    """Turn a hit into a document that refers to its picture.

    The item's own metadata comes along. Where it has a key that is also one of the
    retriever's (such as `source`), its value is kept under `item_<key>`.

    Args:
        hit: A hit of the core retriever.

    Returns:
        A document whose `page_content` is the item's text and the caption the index knows
        it by, and whose metadata has `source` (path or URI; the item's id if the picture
        was given as bytes), `mime_type`, `kind`, `score` (see `Hit.score`), `rank`,
        `generated_id` (the best identifier the model wrote, or None), `verification` (a
        probability, or None), `filled`, and `steps` if query adapters did something to the
        query.

    Examples:
        >>> from genmm_retriever import Item
        >>> document = hit_to_document(Hit(item=Item(id="7", text="A dog."), score=1.0, rank=1))
        >>> document.page_content, document.metadata["source"], document.metadata["mime_type"]
        ('A dog.', '7', 'text/plain')
    """
    item, evidence = hit.item, hit.evidence
    facts: dict[str, Any] = {
        "source": shown_source(item),
        "mime_type": media_type(item.image),
        "kind": item.kind,
        "score": hit.score,
        "rank": hit.rank,
        "generated_id": evidence.identifiers[0].text if evidence.identifiers else None,
        "verification": evidence.verification,
        "filled": evidence.filled,
    }
    if item.title is not None:
        facts["title"] = item.title
    if evidence.steps:
        facts["steps"] = [step.model_dump() for step in evidence.steps]
    own = {f"item_{key}" if key in facts else key: value for key, value in item.metadata.items()}
    return Document(id=item.id, page_content=_content(hit), metadata=own | facts)


def documents_to_content_blocks(
    documents: Sequence[Document], *, max_side: int | None = None
) -> list[ContentBlock]:
    """Content blocks of documents for a chat model: a text block, then the picture if any.

    Files are read here, not before, so that documents stay small; `http(s)` pictures are
    passed on by their address.

    Args:
        documents: Documents made by this package's retriever.
        max_side: Shrink pictures, so that neither side has more pixels, and give formats
            that chat models may not know as PNG; None leaves every file as it is.

    Returns:
        Blocks for `HumanMessage(content_blocks=...)`.

    Raises:
        ImageError: If a picture cannot be read; it is named.
    """
    blocks: list[ContentBlock] = []
    for document in documents:
        if document.page_content:
            blocks.append(create_text_block(document.page_content))
        mime_type = document.metadata.get("mime_type") or ""
        if not mime_type.startswith("image/"):
            continue
        source = str(document.metadata["source"])
        if source.startswith(("http://", "https://")):
            blocks.append(create_image_block(url=source, mime_type=mime_type))
            continue
        try:
            data = (local_path(source) or Path(source)).read_bytes()
        except OSError as error:
            raise ImageError(
                f"the picture {source} of document {document.id!r} cannot be read",
                "it was moved or deleted, or was indexed from bytes and has no file",
            ) from error
        if max_side is not None:
            data, mime_type = _shrunk(data, mime_type, max_side, source)
        encoded = base64.b64encode(data).decode("ascii")
        blocks.append(create_image_block(base64=encoded, mime_type=mime_type))
    return blocks


def _shrunk(data: bytes, mime_type: str, max_side: int, source: str) -> tuple[bytes, str]:
    """The same file if it is small and of a common format, else a smaller picture."""
    try:
        image = open_image(data)
    except ImageError as error:
        raise ImageError(f"the picture {source} cannot be shown: {error.message}") from error
    if max(image.size) <= max_side and mime_type in _COMMON:
        return data, mime_type
    image.thumbnail((max_side, max_side))
    buffer = BytesIO()
    is_photograph = mime_type == "image/jpeg"
    image.save(buffer, "JPEG" if is_photograph else "PNG", quality=90)
    return buffer.getvalue(), "image/jpeg" if is_photograph else "image/png"


def _content(hit: Hit) -> str:
    """The item's own text, then for a picture the index's caption, each once."""
    item = hit.item
    if item.kind == "text":
        return item.text or ""
    return "\n".join(dict.fromkeys(t for t in (item.text, hit.evidence.caption) if t))
