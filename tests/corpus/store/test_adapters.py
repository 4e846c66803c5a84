"""A trained adapter in an index: published with it, kept, verified, thrown away with its rest."""

from __future__ import annotations

import pytest

from genmm_retriever.corpus.store import (
    IdentifierRecord,
    IndexReader,
    IndexSettings,
    IndexWriter,
    check_index,
)
from genmm_retriever.errors import IndexDamagedError, InputError
from genmm_retriever.schema import Item

SETTINGS = IndexSettings(model="m", model_fingerprint="f")


def peft_folder(path, content=b"weights"):
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")
    (path / "adapter_model.safetensors").write_bytes(content)
    return path


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "index"
    with IndexWriter.create(path, SETTINGS) as writer:
        writer.stage_items([Item(id="a", text="A dog.")])
        writer.put_identifiers([IdentifierRecord(0, "dog", (5, 0), (-1.0, -2.0))])
        writer.publish()
    return path


def trained(index, folder, *, publish=True):
    with IndexWriter.open(index) as writer:
        writer.provisional()
        digest = writer.put_adapter(folder)
        writer.put_identifiers([IdentifierRecord(0, "dog", (5, 0), (-3.0, -4.0))])
        if publish:
            writer.publish()
    return digest


def null_logprobs(index):
    with IndexReader.open(index) as reader:
        return [one.null_logprobs for one in reader.identifiers([0])]


def test_an_adapter_is_published_with_its_scores_and_carried_over(index, tmp_path):
    with IndexReader.open(index) as before:
        assert before.adapter() is None
        digest = trained(index, peft_folder(tmp_path / "peft"))
        assert before.adapter() is None
    with IndexWriter.open(index) as writer:
        assert writer.adapter().digest == digest
        writer.stage_items([Item(id="b", text="A cat.")])
        writer.put_identifiers([IdentifierRecord(1, "cat", (6, 0))])
        writer.publish()
    with IndexReader.open(index) as reader:
        found = reader.adapter()
        assert found.digest == digest == reader.adapter_digest
        assert (found.folder / "adapter_model.safetensors").read_bytes() == b"weights"
    assert null_logprobs(index) == [(-3.0, -4.0)]
    assert check_index(index) == []


def test_what_is_not_published_counts_for_nothing(index, tmp_path):
    trained(index, peft_folder(tmp_path / "peft"), publish=False)
    assert null_logprobs(index) == [(-1.0, -2.0)]
    with IndexWriter.open(index) as writer:
        assert writer.adapter() is None
        assert writer.identifiers()[0].null_logprobs == (-1.0, -2.0)
        writer.stage_items([Item(id="b", text="A cat.")])
        writer.put_identifiers([IdentifierRecord(1, "cat", (6, 0))])
        writer.publish()
    with IndexReader.open(index) as reader:
        assert reader.adapter_digest is None
        assert len(reader) == 2


def test_a_process_that_dies_behind_the_rename_has_published(index, tmp_path, monkeypatch):
    from genmm_retriever.corpus.store.staging import Staging

    with monkeypatch.context() as patched:

        def die(*_):
            raise KeyboardInterrupt

        patched.setattr(Staging, "settle", die)
        with pytest.raises(KeyboardInterrupt):
            trained(index, peft_folder(tmp_path / "peft"))
    assert null_logprobs(index) == [(-3.0, -4.0)]
    with IndexWriter.open(index) as writer:
        assert writer.identifiers()[0].null_logprobs == (-3.0, -4.0)
        # Nothing is provisional any more: later work stays.
        writer.stage_items([Item(id="b", text="A cat.")])
    with IndexWriter.open(index) as writer:
        assert writer.pending("identifiers") == [1]


def test_old_adapters_go_when_no_reader_can_need_them(index, tmp_path):
    digests = [
        trained(index, peft_folder(tmp_path / f"peft{n}", b"weights %d" % n)) for n in range(3)
    ]
    kept = sorted(path.name for path in (index / "adapter").iterdir())
    assert kept == sorted(digests[1:])
    assert check_index(index) == []


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_damage_is_named(index, tmp_path, name):
    digest = trained(index, peft_folder(tmp_path / "peft"))
    path = index / "adapter" / digest / name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    with IndexReader.open(index) as reader, pytest.raises(IndexDamagedError, match=name):
        reader.adapter()
    with IndexWriter.open(index) as writer, pytest.raises(IndexDamagedError, match=name):
        writer.adapter()
    assert [problem.file for problem in check_index(index)] == [f"adapter/{digest}/{name}"]


def test_a_folder_without_weights_is_refused(index, tmp_path):
    folder = peft_folder(tmp_path / "peft")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors"):
        trained(index, folder)
