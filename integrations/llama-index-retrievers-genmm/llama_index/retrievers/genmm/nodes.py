"""Hits as LlamaIndex nodes that refer to their pictures."""

from __future__ import annotations

import base64
import mimetypes
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    MediaResource,
    Node,
    NodeWithScore,
    TextNode,
)
from PIL import Image
from pydantic import AnyUrl

from genmm_retriever.schema import Hit, ImageRef, Item

NodeType = Literal["multimodal", "image"]


def hit_to_node(hit: Hit, node_type: NodeType = "multimodal") -> NodeWithScore:
    """Turn a hit into a node with its score.

    The node's metadata is the item's own, and `source` (path or URI; the item's id if the
    picture was given as bytes), `mime_type`, `kind`, `rank`, `generated_id` (the best
    identifier the model wrote, or None), `verification` (a probability, or None) and
    `filled`. Where the item has one of these keys, its value is kept under `item_<key>`.
    All but `source` and the item's own are kept from language models, and all but the
    item's own from embeddings.

    Args:
        hit: A hit of the core retriever.
        node_type: `"multimodal"` gives a picture as `Node(text_resource, image_resource)`,
            which today's engines show to a model with its caption; `"image"` as
            `ImageNode`, for engines that test for it. A text item is always a `TextNode`.

    Returns:
        The node and the hit's score.

    Examples:
        >>> found = hit_to_node(Hit(item=Item(id="7", text="A dog."), score=0.9, rank=1))
        >>> found.node_id, found.score, found.get_content()
        ('7', 0.9, 'A dog.')
    """
    item = hit.item
    common = _common(hit)
    text = _content(hit)
    node: BaseNode
    if item.image is None:
        node = TextNode(text=text, **common)
    elif node_type == "image":
        node = ImageNode(text=text, **_image_fields(item.image), **common)
    else:
        node = Node(
            # An absent caption must not become an empty text block in a chat message.
            text_resource=MediaResource(text=text) if text else None,
            image_resource=_resource(item.image),
            **common,
        )
    return NodeWithScore(node=node, score=hit.score)


def image_of(node: BaseNode) -> ImageRef | None:
    """The picture of any retriever's node, by reference where it has one.

    Args:
        node: Of any type.

    Returns:
        A path, a URI or encoded bytes; None if there is no picture.

    Examples:
        >>> image_of(ImageNode(image_path="photos/cat.jpg")), image_of(TextNode(text="A cat."))
        ('photos/cat.jpg', None)
    """
    if isinstance(node, ImageNode):
        if node.image:
            return _decoded(node.image)
        return node.image_path or node.image_url
    resource = node.image_resource if isinstance(node, Node) else None
    if resource is None:
        return None
    if resource.path is not None:
        return str(resource.path)
    if resource.url is not None:
        return str(resource.url)
    return _decoded(resource.data) if resource.data else None


def _decoded(data: str | bytes) -> bytes:
    try:
        return base64.b64decode(data)
    except ValueError:
        return b""  # no picture either: whoever opens it says so


def _common(hit: Hit) -> dict[str, Any]:
    item, evidence = hit.item, hit.evidence
    facts: dict[str, Any] = {
        "source": _source(item),
        "mime_type": _mime_type(item.image),
        "kind": item.kind,
        "rank": hit.rank,
        "generated_id": evidence.identifiers[0].text if evidence.identifiers else None,
        "verification": evidence.verification,
        "filled": evidence.filled,
    }
    if item.title is not None:
        facts["title"] = item.title
    own = {f"item_{key}" if key in facts else key: value for key, value in item.metadata.items()}
    return {
        "id_": item.id,
        "metadata": own | facts,
        "excluded_embed_metadata_keys": [key for key in facts if key != "title"],
        "excluded_llm_metadata_keys": [key for key in facts if key not in ("source", "title")],
    }


def _content(hit: Hit) -> str:
    """The item's own text, then for a picture the index's caption, each once."""
    item = hit.item
    if item.image is None:
        return item.text or ""
    return "\n".join(dict.fromkeys(t for t in (item.text, hit.evidence.caption) if t))


def _resource(image: str | bytes) -> MediaResource:
    mime_type = _mime_type(image)
    if isinstance(image, bytes):
        return MediaResource(data=image, mimetype=mime_type)
    if image.startswith("data:"):
        return MediaResource(data=_data_of_uri(image), mimetype=mime_type)
    if _is_address(image):
        return MediaResource(url=AnyUrl(image), mimetype=mime_type)
    return MediaResource(path=_local_path(image), mimetype=mime_type)


def _image_fields(image: str | bytes) -> dict[str, Any]:
    """Fields of an `ImageNode`; built from an `image_resource` it would drop bytes."""
    mime_type = _mime_type(image)
    if isinstance(image, str) and not image.startswith("data:"):
        place = (
            {"image_url": image} if _is_address(image) else {"image_path": str(_local_path(image))}
        )
        return {**place, "image_mimetype": mime_type}
    data = image if isinstance(image, bytes) else _data_of_uri(image)
    return {"image": base64.b64encode(data).decode("ascii"), "image_mimetype": mime_type}


def _source(item: Item) -> str:
    """A reference that is short enough to show: never bytes and never a `data:` URI."""
    if isinstance(item.image, str) and not item.image.startswith("data:"):
        return item.image
    return item.id


def _mime_type(image: str | bytes | None) -> str | None:
    if image is None:
        return "text/plain"
    if isinstance(image, str):
        if image.startswith("data:"):
            return image[5:].split(",", 1)[0].split(";", 1)[0] or None
        # The non-standard table too: before Python 3.13 it is the one that knows webp.
        guessed, _ = mimetypes.guess_type("x" + _local_path(image).suffix, strict=False)
        if guessed is not None or _is_address(image):
            return guessed
    try:
        with Image.open(BytesIO(image) if isinstance(image, bytes) else _local_path(image)) as file:
            return Image.MIME.get(file.format or "")
    except (OSError, Image.DecompressionBombError):
        return None


def _data_of_uri(uri: str) -> bytes:
    head, _, body = uri.partition(",")
    data = unquote_to_bytes(body)
    return base64.b64decode(data) if head.endswith(";base64") else data


def _is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _local_path(source: str) -> Path:
    parts = urlsplit(source) if "://" in source else None
    if parts is not None and parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return Path(parts.path if parts is not None else source)
