"""Hits as LlamaIndex nodes that refer to their pictures."""

from __future__ import annotations

import base64
from typing import Any, Literal

from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    MediaResource,
    Node,
    NodeWithScore,
    TextNode,
)
from pydantic import AnyUrl

from genmm_retriever.corpus.kinds import media_type, shown_source
from genmm_retriever.corpus.references import decode_data_uri, is_data_uri, local_path
from genmm_retriever.schema import Hit, ImageRef

NodeType = Literal["multimodal", "image"]


def hit_to_node(hit: Hit, node_type: NodeType = "multimodal") -> NodeWithScore:
    """Turn a hit into a node with its score.

    The node's metadata is the item's own, and `source` (path or URI; the item's id if the
    picture was given as bytes), `mime_type`, `kind`, `rank`, `generated_id` (the best
    identifier the model wrote, or None), `verification` (a probability, or None), `filled`,
    and `steps` if query adapters did something to the query. Where the item has one of these
    keys, its value is kept under `item_<key>`.
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
        >>> from genmm_retriever import Item
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
        "source": shown_source(item),
        "mime_type": media_type(item.image),
        "kind": item.kind,
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
    mime_type = media_type(image)
    if isinstance(image, bytes):
        return MediaResource(data=image, mimetype=mime_type)
    if is_data_uri(image):
        return MediaResource(data=decode_data_uri(image), mimetype=mime_type)
    path = local_path(image)
    if path is None:
        return MediaResource(url=AnyUrl(image), mimetype=mime_type)
    return MediaResource(path=path, mimetype=mime_type)


def _image_fields(image: str | bytes) -> dict[str, Any]:
    """Fields of an `ImageNode`; built from an `image_resource` it would drop bytes."""
    mime_type = media_type(image)
    if isinstance(image, str) and not is_data_uri(image):
        path = local_path(image)
        place = {"image_url": image} if path is None else {"image_path": str(path)}
        return {**place, "image_mimetype": mime_type}
    data = image if isinstance(image, bytes) else decode_data_uri(image)
    return {"image": base64.b64encode(data).decode("ascii"), "image_mimetype": mime_type}
