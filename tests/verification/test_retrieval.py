"""The cascade inside the retriever."""

from __future__ import annotations

import pytest

from genmm_retriever import GenerativeMMRetriever, Item
from genmm_retriever.errors import InputError

TEXTS = ("A dog runs over a field.", "A cyclist rides down a hill.")


@pytest.fixture(scope="module")
def items(tmp_path_factory, noise):
    folder = tmp_path_factory.mktemp("pictures")
    made = []
    for n in range(6):
        noise(seed=n).save(folder / f"p{n}.png")
        made.append(Item(id=f"p{n}", image=str(folder / f"p{n}.png")))
    return [*made, *(Item(id=f"t{n}", text=text) for n, text in enumerate(TEXTS))]


@pytest.fixture(scope="module")
def index(items, tmp_path_factory, tiny_builtin):
    path = tmp_path_factory.mktemp("cascade") / "index"
    GenerativeMMRetriever.from_images(items, path=path, model=tiny_builtin, progress=False).close()
    return path


def test_the_evidence_says_who_was_read_and_who_was_looked_at(index, tiny_builtin):
    scores = {}
    for cascade in (True, False, None):
        with GenerativeMMRetriever.from_index(
            index, model=tiny_builtin, budget=None, cascade=cascade
        ) as retriever:
            hits = retriever.retrieve("a red boat", k=8)
        assert all("likelihood" in hit.evidence.parts for hit in hits)
        read = {hit.item.id for hit in hits if "text_likelihood" in hit.evidence.parts}
        assert read == ({f"p{n}" for n in range(6)} if cascade else set())
        scores[cascade] = {hit.item.id: hit.score for hit in hits}
    # Unless they were fitted to count, words choose whom to look at and nothing else.
    assert scores[True] == pytest.approx(scores[False], rel=1e-3)
    assert scores[None] == pytest.approx(scores[False], rel=1e-3)


def test_no_time_at_all_still_verifies_the_hits(index, tiny_builtin):
    with GenerativeMMRetriever.from_index(index, model=tiny_builtin, budget_ms=1e-6) as retriever:
        hits = retriever.retrieve("a red boat", k=3)
    assert all("likelihood" in hit.evidence.parts for hit in hits)


def test_pictures_are_opened_when_they_are_looked_at(items, tiny_builtin, tmp_path, monkeypatch):
    from genmm_retriever import asking
    from genmm_retriever.models.builtin import BuiltinMLLM

    class Pixels(BuiltinMLLM):
        """Keeps no features, as large models do."""

        def encode_images(self, images):
            return None

        def _features(self, part):
            return super().encode_images([part.image])[0].float()

    model = Pixels(tiny_builtin.model, tiny_builtin.processor, name="pixels")
    opened = []
    real = asking.open_image
    monkeypatch.setattr(asking, "open_image", lambda ref: opened.append(ref) or real(ref))
    with GenerativeMMRetriever.from_images(
        items[:6], path=tmp_path / "index", model=model, budget=2, cascade=False, progress=False
    ) as retriever:
        hits = retriever.retrieve("a red boat", k=2)
    assert len(opened) == 2
    assert {hit.item.image for hit in hits} == set(opened)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"budget": 0}, "budget is 0"),
        ({"budget_ms": 0}, "budget_ms is 0"),
        ({"budget_ms": float("nan")}, "budget_ms is nan"),
        ({"budget_ms": "50ms"}, "budget_ms is '50ms'"),
        ({"cascade": "yes"}, "cascade is 'yes'"),
    ],
)
def test_options_out_of_range(index, tiny_builtin, options, named):
    with pytest.raises(InputError, match=named):
        GenerativeMMRetriever.from_index(index, model=tiny_builtin, **options)
