"""Vectors of a contrastive encoder in an index, and what the verifier makes of them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from genmm_retriever import vectors
from genmm_retriever.corpus.images import open_image
from genmm_retriever.corpus.store import IndexReader, check_index
from genmm_retriever.errors import InputError, ModelError
from genmm_retriever.models.contrastive import load_contrastive
from genmm_retriever.retriever import GenerativeMMRetriever
from genmm_retriever.schema import Item, Query
from genmm_retriever.vectors import ItemVectors, embed_index, named_encoder
from genmm_retriever.verification import Calibration, CandidateView, QueryVectors, QueryView
from genmm_retriever.verification.cheap import cheap_parts


@pytest.fixture(scope="module")
def encoder(tiny_clip):
    return load_contrastive(str(tiny_clip("clip")), device="cpu")


@pytest.fixture(scope="module")
def model(tiny_builtin):
    brief = copy.copy(tiny_builtin)
    brief.generate = lambda *given, **options: tiny_builtin.generate(
        *given, **{**options, "max_new_tokens": 6}
    )
    return brief


@pytest.fixture
def index(pictures, model, tmp_path):
    path = tmp_path / "photos.genmm"
    items = [*sorted(pictures.iterdir()), Item(id="t", text="a boat on the sea")]
    GenerativeMMRetriever.from_images(items, path=path, model=model, progress=False).close()
    return path


def exact(reader: IndexReader, encoder: Any) -> torch.Tensor:
    """The vector of each live row, from the item itself."""
    found = []
    for item in reader.items(reader.live_rows().tolist()):
        if item.kind == "image":
            found.append(encoder.embed_pictures([open_image(item.image)])[0])
        else:
            found.append(encoder.embed_texts([item.text])[0])
    return torch.stack(found)


def check_vectors(path: Any, encoder: Any) -> None:
    with IndexReader.open(path) as reader:
        assert named_encoder(reader) == encoder.name
        found = ItemVectors(reader).of(reader.live_rows().tolist())
        torch.testing.assert_close(found, exact(reader, encoder), atol=2e-3, rtol=0)
    assert check_index(path) == []


def test_every_item_has_its_vector_also_those_that_come_later(index, model, encoder, noise):
    report = embed_index(index, encoder, progress=False)
    assert (report.encoder, report.embedded, report.items) == (encoder.name, 7, 7)
    assert embed_index(index, encoder, progress=False).embedded == 0
    check_vectors(index, encoder)
    with GenerativeMMRetriever.from_index(index, model=model) as retriever:
        assert retriever.info()["contrastive"] == encoder.name
        retriever.delete("t")
        retriever.add([Item(id="n", image=_png(noise(seed=9)))], progress=False)
    check_vectors(index, encoder)


def _png(image: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_hits_are_told_the_encoders_cosines(index, model, encoder, noise):
    with GenerativeMMRetriever.from_index(index, model=model, contrastive=encoder) as retriever:
        own = {
            h.item.id: h.evidence.parts["contrastive"] for h in retriever.retrieve("a boat", k=7)
        }
        retriever.embed(encoder, progress=False)
        hits = retriever.retrieve("a boat", k=7)
        [by_picture] = retriever.retrieve_batch([Query(image=_png(noise(seed=2)))], k=7)
    with IndexReader.open(index) as reader:
        ids = [item.id for item in reader.items(reader.live_rows().tolist())]
        vectors_of = dict(zip(ids, exact(reader, encoder), strict=True))
    [words] = encoder.embed_texts(["a boat"])
    told = _parts(hits)
    assert told != own
    for name, cosine in told.items():
        # The only text lies at the mean of the texts.
        wanted = 0.0 if name == "t" else float(vectors_of[name] @ words) - encoder.even
        assert cosine == pytest.approx(wanted, abs=3e-3)
    near = _parts(by_picture)
    assert max((name for name in near if name != "t"), key=near.__getitem__).endswith("p2.png")


def test_the_same_whatever_was_killed(index, encoder, monkeypatch):
    monkeypatch.setattr(vectors, "_IN_BLOCK", 2)
    asked: list[int] = []

    class Killed:
        name, fingerprint = encoder.name, encoder.fingerprint
        embed_texts = encoder.embed_texts

        def embed_pictures(self, images: Any) -> Any:
            asked.append(len(images))
            if len(asked) == 3:
                raise KeyboardInterrupt
            return encoder.embed_pictures(images)

    with pytest.raises(KeyboardInterrupt):
        embed_index(index, Killed(), progress=False)
    with IndexReader.open(index) as reader:
        assert named_encoder(reader) is None
    assert embed_index(index, encoder, progress=False).embedded == 3
    check_vectors(index, encoder)


def test_many_blocks_become_one(index, model, encoder, monkeypatch):
    monkeypatch.setattr(vectors, "_IN_BLOCK", 1)
    monkeypatch.setattr(vectors, "_MOST_BLOCKS", 7)
    embed_index(index, encoder, progress=False)
    with GenerativeMMRetriever.from_index(index, model=model, contrastive=encoder) as retriever:
        retriever.delete("t")
        retriever.add([Item(id="u", text="snow")], progress=False)
    check_vectors(index, encoder)
    with IndexReader.open(index) as reader:
        names = [name for name in reader.arrays() if name.startswith("contrastive/")]
        assert len(names) == 2
        assert torch.isnan(ItemVectors(reader).of([999])).all()


def test_another_encoder_takes_the_place_and_none_takes_it_away(index, model, encoder, tiny_clip):
    embed_index(index, encoder, progress=False)
    other = load_contrastive(str(tiny_clip("siglip")), device="cpu")
    with GenerativeMMRetriever.from_index(index, model=model, contrastive=other) as retriever:
        with pytest.raises(ModelError, match="of other weights than those of") as caught:
            retriever.retrieve("a boat", k=1)
        assert encoder.name in caught.value.hint
    # A reader that loaded the first one loads the second when it is there.
    with GenerativeMMRetriever.from_index(index, model=model) as retriever:
        before = retriever.retrieve("a boat", k=7)
        embed_index(index, other, progress=False)
        check_vectors(index, other)
        after = retriever.retrieve("a boat", k=7)
        assert _parts(before) != _parts(after)
        embed_index(index, None, progress=False)
        own = retriever.retrieve("a boat", k=7)
    with IndexReader.open(index) as reader:
        assert named_encoder(reader) is None
        assert not [name for name in reader.arrays() if name.startswith("contrastive/")]
    with GenerativeMMRetriever.from_index(index, model=model, contrastive=False) as retriever:
        embed_index(index, other, progress=False)
        assert _parts(retriever.retrieve("a boat", k=7)) == _parts(own)


def _parts(hits: Any) -> dict[str, float]:
    return {hit.item.id: hit.evidence.parts["contrastive"] for hit in hits}


def test_a_picture_that_is_gone_has_none(index, model, encoder, pictures, noise):
    (pictures / "p3.png").write_bytes(b"no picture")
    report = embed_index(index, encoder, progress=False)
    [(name, reason)] = report.skipped
    assert name.endswith("p3.png")
    assert report.embedded == 6
    assert "p3.png" in reason
    with GenerativeMMRetriever.from_index(index, model=model, contrastive=encoder) as retriever:
        without = [h for h in retriever.retrieve("a", k=7) if "contrastive" not in h.evidence.parts]
    assert [hit.item.id for hit in without] == [name]
    # It is told of until it is there again.
    assert embed_index(index, encoder, progress=False).skipped == report.skipped
    noise(seed=3).save(pictures / "p3.png")
    assert embed_index(index, encoder, progress=False).embedded == 1
    check_vectors(index, encoder)


def test_an_index_without_anything_to_embed(index, model, encoder):
    with GenerativeMMRetriever.from_index(index, model=model, contrastive=encoder) as retriever:
        with IndexReader.open(index) as reader:
            everything = [item.id for item in reader.items(reader.live_rows().tolist())]
        retriever.delete(everything)
        assert retriever.embed(encoder, progress=False).items == 0
        assert retriever.retrieve("a boat", k=3) == []
        retriever.add([Item(id="u", text="snow")], progress=False)
        assert [hit.item.id for hit in retriever.retrieve("snow", k=3)] == ["u"]
    check_vectors(index, encoder)


def test_an_encoder_that_moved(index, model, tiny_clip, tmp_path, monkeypatch):
    place = tiny_clip("clip").rename(tmp_path / "clip")
    monkeypatch.chdir(tmp_path)
    with GenerativeMMRetriever.from_index(index, model=model) as retriever:
        retriever.embed("clip", progress=False)
        assert retriever.info()["contrastive"] == str(place)
        before = _parts(retriever.retrieve("a boat", k=7))
    place.rename(tmp_path / "moved")
    with GenerativeMMRetriever.from_index(index, model=model) as retriever:
        with pytest.raises(ModelError, match=r"the index has vectors of '.*/clip'") as caught:
            retriever.retrieve("a boat", k=1)
        assert "--no-vectors" in caught.value.hint
        assert len(retriever.retrieve("a boat", k=1, verify="off")) == 1
    with GenerativeMMRetriever.from_index(index, model=model, contrastive="moved") as retriever:
        assert _parts(retriever.retrieve("a boat", k=7)) == before
        retriever.embed("moved", progress=False)
    with GenerativeMMRetriever.from_index(index, model=model) as retriever:
        assert _parts(retriever.retrieve("a boat", k=7)) == before


def test_weights_that_changed_under_their_name(index, model, encoder, tiny_clip):
    embed_index(index, encoder, progress=False)
    other = load_contrastive(str(tiny_clip("clip", seed=1)), device="cpu")
    other.name = encoder.name
    retriever = GenerativeMMRetriever.from_index(index, model=model, contrastive=other)
    with retriever, pytest.raises(ModelError, match="of other weights") as caught:
        retriever.retrieve("a boat", k=1)
    assert caught.value.hint.startswith("they have changed since")


def test_what_is_no_encoder(index, model):
    with pytest.raises(InputError, match="contrastive=True"):
        GenerativeMMRetriever.from_index(index, model=model, contrastive=True)
    with GenerativeMMRetriever.from_index(index, model=model) as retriever:
        for wrong in (5, True, ["x"]):
            with pytest.raises(InputError, match="the encoder is"):
                retriever.embed(wrong, progress=False)


def test_clues_are_verified_by_words(model, encoder, tmp_path):
    path = tmp_path / "clues.genmm"
    items = [Item(id="a", text="A boat on the sea.")]
    GenerativeMMRetriever.from_images(
        items, path=path, model=model, identifiers="clue", progress=False
    ).close()
    with pytest.raises(InputError, match="vectors would not be asked"):
        embed_index(path, encoder, progress=False)


def test_cosines_by_hand(model):
    words, picture = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    image = torch.zeros(1)

    def view(vector: list[float] | None, pictured: bool) -> CandidateView:
        given = None if vector is None else torch.tensor(vector)
        return CandidateView("x", (lambda: image) if pictured else None, vector=given)  # type: ignore[arg-type, return-value]

    candidates = [
        view([0.6, 0.8], True),
        view([0.8, 0.6], True),
        view([1.0, 0.0], False),
        view(None, True),
        view([np.nan, np.nan], True),
    ]
    asked = QueryView("x", vectors=QueryVectors(0.25, words, picture))
    found = cheap_parts(model, asked, candidates).contrastive
    by_words = np.array([0.6 - 0.25, 0.8 - 0.25, 0.0])
    by_picture = np.array([0.8 - 0.7, 0.6 - 0.7, 0.0 - 0.25])
    assert found[:3] == pytest.approx((by_words + by_picture) / 2)
    assert np.isnan(found[3:]).all()
    alone = QueryView("x", vectors=QueryVectors(0.25, words))
    assert cheap_parts(model, alone, candidates).contrastive[:2] == pytest.approx(by_words[:2])


def test_weights_follow_the_encoders_temperature():
    weights = Calibration(contrastive=7.0, likelihood=2.0, reach_margin=1.0).with_encoder(100.0)
    assert weights.contrastive == weights.cheap_contrastive == weights.words_contrastive == 30.0
    assert weights.likelihood == 2.0
    assert not weights.can_rule_out(worded=False)
