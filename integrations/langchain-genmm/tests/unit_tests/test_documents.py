from __future__ import annotations

import base64
import os
from io import BytesIO
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage
from PIL import Image

from genmm_retriever.errors import ImageError
from genmm_retriever.schema import Evidence, Hit, Item
from langchain_genmm import (
    GenerativeMMRetriever,
    documents_to_content_blocks,
    hit_to_document,
)


def png() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    return buffer.getvalue()


def document_of(image: str | bytes, **fields: object):
    item = Item(id="7", image=image, **fields)
    return hit_to_document(Hit(item=item, score=0.5, rank=1, evidence=Evidence(caption="a red")))


def test_bytes_and_data_uris_never_enter_the_document() -> None:
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    for image in (png(), uri):
        document = document_of(image)
        assert document.metadata["source"] == "7"
        assert document.metadata["mime_type"] == "image/png"
        assert "base64" not in document.model_dump_json()


@pytest.mark.parametrize(
    ("name", "mime_type"),
    [("a.png", "image/png"), ("a.JPEG", "image/jpeg"), ("a.webp", "image/webp"), ("a", None)],
)
def test_mime_type_of_references(name: str, mime_type: str | None) -> None:
    assert document_of(f"/absent/{name}").metadata["mime_type"] == mime_type
    assert document_of(f"https://example.org/{name}?size=1").metadata["mime_type"] == mime_type


def test_mime_type_without_a_suffix_comes_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(png())
    assert document_of(str(tmp_path / "blob")).metadata["mime_type"] == "image/png"
    assert document_of((tmp_path / "blob").as_uri()).metadata["mime_type"] == "image/png"


def test_own_metadata_is_kept_beside_the_retrievers() -> None:
    document = document_of("/a.png", metadata={"source": "camera 3", "year": 2020}, title="Red")
    assert document.metadata["source"] == "/a.png"
    assert document.metadata["item_source"] == "camera 3"
    assert document.metadata["year"] == 2020
    assert document.metadata["title"] == "Red"


def test_content_has_the_text_and_the_caption_once_each() -> None:
    assert document_of("/a.png", text="Shirt, size M").page_content == "Shirt, size M\na red"
    assert document_of("/a.png", text="a red").page_content == "a red"
    assert document_of("/a.png").page_content == "a red"


def test_a_hit_without_evidence_has_the_same_keys() -> None:
    filled = hit_to_document(Hit(item=Item(id="1", text="x"), score=0.0, rank=9))
    assert filled.metadata["generated_id"] is None
    assert filled.metadata["verification"] is None


def test_content_blocks_make_a_message(retriever: GenerativeMMRetriever) -> None:
    documents = retriever.invoke("coffee", k=2)
    assert [document.id for document in documents] == ["coffee.png", "note-1"]
    blocks = documents_to_content_blocks(documents)
    assert [block["type"] for block in blocks] == ["text", "image", "text"]
    assert (
        base64.b64decode(blocks[1]["base64"]) == Path(documents[0].metadata["source"]).read_bytes()
    )
    assert blocks[1]["mime_type"] == "image/png"
    assert HumanMessage(content_blocks=blocks).content_blocks[1]["type"] == "image"


def test_content_blocks_pass_addresses_on() -> None:
    (_, block) = documents_to_content_blocks([document_of("https://example.org/a.png")])
    assert block["url"] == "https://example.org/a.png"
    assert "base64" not in block


def test_content_blocks_name_a_lost_file(tmp_path: Path) -> None:
    path = tmp_path / "gone.png"
    with pytest.raises(ImageError, match=r"gone\.png"):
        documents_to_content_blocks([document_of(os.fspath(path))])
