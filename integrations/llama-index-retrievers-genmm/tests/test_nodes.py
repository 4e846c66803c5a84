from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.schema import ImageNode, MetadataMode, Node, NodeWithScore, TextNode
from PIL import Image

from genmm_retriever.schema import Evidence, Hit, Item
from keyword_core import KeywordCore
from llama_index.retrievers.genmm import GenerativeMMRetriever
from llama_index.retrievers.genmm.nodes import hit_to_node


def png() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    return buffer.getvalue()


def hit_of(image: str | bytes | None, **fields: Any) -> Hit:
    item = Item(id="7", image=image, **fields)
    return Hit(item=item, score=0.5, rank=1, evidence=Evidence(caption="a red square"))


def test_default_node_carries_caption_and_picture_as_blocks(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    node = hit_to_node(hit_of(str(tmp_path / "a.png"))).node
    assert type(node) is Node
    text, picture = node.get_content_blocks()
    assert isinstance(text, TextBlock)
    assert text.text == "a red square"
    assert isinstance(picture, ImageBlock)
    assert picture.path == tmp_path / "a.png"
    assert picture.image is None


def test_path_survives_serialisation(tmp_path: Path) -> None:
    found = hit_to_node(hit_of(str(tmp_path / "a.png")))
    data = json.loads(found.to_json())
    assert data["node"]["image_resource"]["path"] == str(tmp_path / "a.png")
    again = Node.from_dict(found.node.to_dict())
    assert again.image_resource is not None
    assert again.image_resource.path == tmp_path / "a.png"
    assert again.id_ == "7"


def test_image_node_for_engines_that_test_for_it(core: KeywordCore) -> None:
    retriever = GenerativeMMRetriever(core, similarity_top_k=3, node_type="image")
    nodes = retriever.retrieve("coffee")
    assert isinstance(nodes[0].node, ImageNode)
    assert nodes[0].node.image_path is not None
    assert Path(nodes[0].node.image_path).is_file()
    assert nodes[0].node.image_mimetype == "image/png"
    assert nodes[0].text.startswith("a cup of coffee")
    assert type(nodes[1].node) is TextNode


def test_text_item_is_a_text_node() -> None:
    found = hit_to_node(Hit(item=Item(id="1", text="A dog runs."), score=0.2, rank=3))
    assert type(found.node) is TextNode
    assert found.text == "A dog runs."
    assert found.metadata["mime_type"] == "text/plain"


@pytest.mark.parametrize("node_type", ["multimodal", "image"])
@pytest.mark.parametrize("uri", [False, True])
def test_bytes_are_not_lost(node_type: Any, uri: bool) -> None:
    encoded = base64.b64encode(png()).decode()
    found = hit_to_node(hit_of(f"data:image/png;base64,{encoded}" if uri else png()), node_type)
    node = found.node
    if isinstance(node, ImageNode):
        kept = node.resolve_image().read()  # type: ignore[union-attr]
        assert node.image_mimetype == "image/png"
    else:
        assert isinstance(node, Node)
        assert node.image_resource is not None
        assert node.image_resource.data is not None
        kept = base64.b64decode(node.image_resource.data)
        assert node.image_resource.mimetype == "image/png"
    assert kept == png()
    assert found.metadata["source"] == "7"
    assert "base64" not in json.dumps(found.metadata)


@pytest.mark.parametrize("node_type", ["multimodal", "image"])
def test_addresses_and_file_uris(tmp_path: Path, node_type: Any) -> None:
    (tmp_path / "a b.png").write_bytes(png())

    def place(found: NodeWithScore) -> tuple[str | None, str | None, str | None]:
        node = found.node
        if isinstance(node, ImageNode):
            return node.image_path, node.image_url, node.image_mimetype
        assert isinstance(node, Node)
        resource = node.image_resource
        assert resource is not None
        path = None if resource.path is None else str(resource.path)
        return path, None if resource.url is None else str(resource.url), resource.mimetype

    address = "https://example.org/a.webp?size=1"
    assert place(hit_to_node(hit_of(address), node_type)) == (None, address, "image/webp")
    uri = (tmp_path / "a b.png").as_uri()
    assert place(hit_to_node(hit_of(uri), node_type)) == (
        str(tmp_path / "a b.png"),
        None,
        "image/png",
    )


def test_mime_type_without_a_suffix_comes_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(png())
    assert hit_to_node(hit_of(str(tmp_path / "blob"))).metadata["mime_type"] == "image/png"
    assert hit_to_node(hit_of(str(tmp_path / "absent"))).metadata["mime_type"] is None


def test_evidence_is_kept_from_models_and_embeddings() -> None:
    node = hit_to_node(hit_of("/a.png", metadata={"year": 2020, "source": "camera 3"})).node
    shown = node.get_content(MetadataMode.LLM)
    assert "source: /a.png" in shown
    assert "year: 2020" in shown
    assert "item_source: camera 3" in shown
    assert "verification" not in shown
    embedded = node.get_content(MetadataMode.EMBED)
    assert "year: 2020" in embedded
    assert "/a.png" not in embedded
    assert node.metadata["verification"] is None


def test_without_words_there_is_no_empty_text_block() -> None:
    node = hit_to_node(Hit(item=Item(id="1", image=png()), score=0.0, rank=1)).node
    assert [type(block) for block in node.get_content_blocks()] == [ImageBlock]
    assert node.get_content() == ""
