"""The verifier alone, for the hits of any retriever."""

from __future__ import annotations

import asyncio
import io
import threading
from pathlib import Path

import numpy as np
import pytest

from genmm_retriever import GenerativeMMReranker, GenerativeMMRetriever, Hit, Item, Query
from genmm_retriever.candidates import read_candidates
from genmm_retriever.errors import CapabilityError, ImageError, InputError, QueryError
from genmm_retriever.schema import Evidence

# ---------------------------------------------------------------- what may be given


def test_candidates_of_every_kind(tmp_path):
    (tmp_path / "a dog.png").write_bytes(b"x")
    hit = Hit(item=Item(id="h", text="t"), score=0.25, rank=3)
    given = read_candidates(
        [
            Item(id="i", text="an item"),
            hit,
            tmp_path / "p",
            "photos/a.JPG",
            str(tmp_path / "a dog.png"),
            b"encoded",
            "A text.",
            "see the photograph in boat.jpg",
            ("scored.png", 7),
            (hit, np.float32(2.5)),
        ]
    )
    found = {
        one.item.id: (one.item.image is not None, one.item.text, one.score)
        for one in given
        if one.score != 2.5
    }
    assert found == {
        "i": (False, "an item", None),
        "h": (False, "t", 0.25),
        str(tmp_path / "p"): (True, None, None),
        "photos/a.JPG": (True, None, None),
        str(tmp_path / "a dog.png"): (True, None, None),
        "5": (True, None, None),
        "6": (False, "A text.", None),
        "7": (False, "see the photograph in boat.jpg", None),
        "scored.png": (True, None, 7.0),
    }
    # By score, then as they came.
    assert [one.item.id for one in given][:5] == ["scored.png", "h", "h", "i", str(tmp_path / "p")]


def test_a_text_that_is_an_address_is_not_fetched():
    (one,) = read_candidates(["http://example.org/secret"])
    assert one.item.kind == "text"


def test_an_address_that_ends_like_a_picture_is_fetched_only_if_somebody_says_so(tmp_path):
    for address in ("http://127.0.0.1:1/x.jpg", "https://a.org/y.PNG?w=1"):
        with pytest.raises(InputError, match=r"candidate 0, '.*', is the address .*Item\(id="):
            read_candidates([address])
        [said] = read_candidates([Item(id="1", image=address)])
        assert said.item.image == address
    [file] = read_candidates([f"file://{tmp_path}/z.png"])
    assert file.item.image == file.item.id == f"file://{tmp_path}/z.png"


def test_a_path_that_is_there_is_no_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("x.svg", "t.txt"):
        (tmp_path / name).write_text("x")
        with pytest.raises(InputError, match=rf"candidate 1, '{name}', names a file .*Item.*Path"):
            read_candidates(["a", name])
    with pytest.raises(InputError, match=r"'./photos', names a folder .*Item\(id=..., text=...\)"):
        read_candidates(["./photos"])
    (item, path, absent, long) = read_candidates(
        ["photos", tmp_path / "t.txt", "u.txt", "x" * 10_000]
    )
    assert [one.item.kind for one in (item, path, absent, long)] == [
        "text",
        "image",
        "text",
        "text",
    ]


@pytest.mark.parametrize(
    ("candidates", "named"),
    [
        ([("id1", "text")], r"score of candidate 0 is 'text' .*Item\(id=, text=\)"),
        ("one.png", "give a list"),
        (Item(id="1", text="t"), "give a list"),
        ([3], "candidate 0 is of type int"),
        (["a", None], "candidate 1 is of type NoneType"),
        (["a", ""], "candidate 1 cannot be used"),
        ([("a", float("nan"))], "score of candidate 0 is nan"),
        ([("a", "high")], "score of candidate 0 is 'high'"),
        ([("a", 1.0, 2.0)], "candidate 0 is a tuple of 3"),
    ],
)
def test_what_is_no_candidate_is_named(candidates, named):
    with pytest.raises(InputError, match=named):
        GenerativeMMReranker("absent").rerank("a dog", candidates)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"verify": "off"}, "does nothing"),
        ({"verify": "magic"}, "no verifier 'magic'"),
        ({"budget": 0}, "budget is 0"),
        ({"budget_ms": -1}, "budget_ms is -1"),
    ],
)
def test_options_out_of_range_are_refused(options, named):
    with pytest.raises(InputError, match=named):
        GenerativeMMReranker(**options)


def test_bad_questions_need_no_model():
    reranker = GenerativeMMReranker("absent")
    with pytest.raises(QueryError, match="empty"):
        reranker.rerank(" ", ["a"])
    with pytest.raises(QueryError, match="k is 0"):
        reranker.rerank("a", ["a"], k=0)
    assert reranker.rerank("a", []) == []


# ---------------------------------------------------------------- with a model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TEXTS = ("A dog runs over a field.", "A cyclist rides down a hill.")


@pytest.fixture
def photos(pictures):
    return [pictures / f"p{n}.png" for n in range(6)]


@pytest.fixture
def pixels(tiny_builtin):
    """The tiny model as one that keeps no features, as large models do."""
    from genmm_retriever.models.builtin import BuiltinMLLM

    class Pixels(BuiltinMLLM):
        def encode_images(self, images):
            return None

        def _features(self, part):
            return super().encode_images([part.image])[0].float()

    return Pixels(tiny_builtin.model, tiny_builtin.processor, name="pixels")


def scores(hits):
    return {hit.item.id: hit.score for hit in hits}


@pytest.mark.parametrize("verify", ["likelihood", "choice", "yesno"])
def test_all_come_back_in_order_and_k_cuts(photos, tiny_builtin, verify):
    reranker = GenerativeMMReranker(tiny_builtin, verify=verify, budget=3)
    candidates = [*photos, *TEXTS]
    hits = reranker.rerank("a red boat", candidates)
    assert sorted(hit.item.id for hit in hits) == sorted([*map(str, photos), "6", "7"])
    assert [hit.rank for hit in hits] == list(range(1, 9))
    assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)
    assert all(hit.evidence.verification == hit.score for hit in hits)
    part = {"likelihood": "likelihood", "choice": "choice", "yesno": "yes"}[verify]
    assert sum(part in hit.evidence.parts for hit in hits) == 3
    assert all(part in hit.evidence.parts for hit in hits[:3])
    few = reranker.rerank("a red boat", candidates, k=2)
    assert [hit.item.id for hit in few] == [hit.item.id for hit in hits[:2]]


def test_it_agrees_with_the_retrievers_own_verifier(photos, tiny_builtin, tmp_path):
    with GenerativeMMRetriever.from_images(
        photos, path=tmp_path / "index", model=tiny_builtin, budget=None, progress=False
    ) as retriever:
        found = retriever.retrieve("a red boat", k=6)
    again = GenerativeMMReranker(tiny_builtin, budget=None).rerank("a red boat", found)
    assert scores(again) == pytest.approx(scores(found), rel=1e-4)
    for hit in again:
        before = next(one for one in found if one.item.id == hit.item.id)
        assert hit.evidence.identifiers == before.evidence.identifiers
        assert hit.evidence.caption == before.evidence.caption
        assert hit.evidence.parts["first_stage"] == before.score


def test_another_retrievers_scores_are_evidence_and_do_not_sway(photos, tiny_builtin):
    reranker = GenerativeMMReranker(tiny_builtin, budget=None)
    plain = reranker.rerank("a red boat", photos)
    scored = reranker.rerank("a red boat", [(p, 100.0 * n) for n, p in enumerate(photos)])
    assert scores(scored) == pytest.approx(scores(plain), rel=1e-4)
    assert {h.item.id: h.evidence.parts["first_stage"] for h in scored} == {
        str(p): 100.0 * n for n, p in enumerate(photos)
    }


def test_models_that_keep_no_features_look_at_the_same(photos, tiny_builtin, pixels):
    wanted = GenerativeMMReranker(tiny_builtin, budget=None).rerank("a red boat", photos)
    found = GenerativeMMReranker(pixels, budget=None).rerank("a red boat", photos)
    for one, other in zip(
        sorted(found, key=lambda h: h.item.id),
        sorted(wanted, key=lambda h: h.item.id),
        strict=True,
    ):
        expected = other.evidence.parts["likelihood"]
        assert one.evidence.parts["likelihood"] == pytest.approx(expected, abs=1e-3)


def test_a_query_picture_and_a_composed_query(photos, tiny_builtin):
    reranker = GenerativeMMReranker(tiny_builtin, budget=None)
    hits = reranker.rerank(None, photos, image=str(photos[2]))
    assert max(hits, key=lambda hit: hit.evidence.parts["contrastive"]).item.id == str(photos[2])
    composed = reranker.rerank(Query(text="in red", image=str(photos[2])), photos)
    assert scores(composed) != scores(hits)


def test_wordless_pictures_are_known_by_what_is_seen(photos, tiny_builtin, monkeypatch):
    def see(features, *, least=0.1):
        return [[("tabby cat", 0.75), ("sofa", 0.125)] for _ in features]

    monkeypatch.setattr(tiny_builtin, "object_words", see)
    own = Item(id="own", image=str(photos[0]), text="my own words")
    hits = GenerativeMMReranker(tiny_builtin).rerank("a cat", [photos[1], own])
    captions = {hit.item.id: hit.evidence.caption for hit in hits}
    assert captions == {str(photos[1]): "tabby cat, sofa", "own": "my own words"}


# ---------------------------------------------------------------- broken pictures


@pytest.fixture
def broken(photos):
    cut = photos[0].parent / "cut.png"
    cut.write_bytes(photos[0].read_bytes()[:60])
    return [cut, photos[0].parent / "absent.png"]


@pytest.mark.parametrize("kept", [True, False])
def test_a_broken_picture_is_named(photos, broken, tiny_builtin, pixels, kept):
    reranker = GenerativeMMReranker(tiny_builtin if kept else pixels, budget=None)
    for one, name in zip(broken, ("cut.png", "absent.png"), strict=True):
        with pytest.raises(
            ImageError, match=rf"candidate '.*{name}'.*GenerativeMMReranker.strict=False"
        ):
            reranker.rerank("a dog", [*photos, one])
    with pytest.raises(ImageError, match=r"candidate '1': a picture of 3 bytes"):
        reranker.rerank("a dog", [photos[0], b"abc"])


@pytest.mark.parametrize("kept", [True, False])
def test_or_comes_last_with_the_reason(photos, broken, tiny_builtin, pixels, kept):
    reranker = GenerativeMMReranker(tiny_builtin if kept else pixels, budget=2, strict=False)
    hits = reranker.rerank("a dog", [broken[0], *photos, broken[1], "A text."])
    assert [hit.item.id for hit in hits[-2:]] == [str(path) for path in broken]
    assert [hit.rank for hit in hits] == list(range(1, 10))
    for hit, name in zip(hits[-2:], ("cut.png", "absent.png"), strict=True):
        assert hit.score == 0.0
        assert hit.evidence.verification is None
        assert name in hit.evidence.problem
    assert all(hit.evidence.problem is None for hit in hits[:-2])
    assert len(reranker.rerank("a dog", broken)) == 2


def test_a_broken_query_picture_is_not_taken_for_a_candidate(photos, tiny_builtin, tmp_path):
    with pytest.raises(ImageError, match=r"^'.*no\.png' does not exist"):
        GenerativeMMReranker(tiny_builtin).rerank("a dog", photos, image=str(tmp_path / "no.png"))


def test_a_model_without_eyes_says_so(photos, tiny_builtin, monkeypatch):
    monkeypatch.setattr(type(tiny_builtin), "supports_images", False)
    reranker = GenerativeMMReranker(tiny_builtin)
    with pytest.raises(CapabilityError, match="'tiny-builtin' reads no pictures"):
        reranker.rerank("a dog", photos)
    assert len(reranker.rerank("a dog", TEXTS)) == 2


# ---------------------------------------------------------------- memory and threads


def test_features_are_kept_until_the_file_changes(photos, tiny_builtin, monkeypatch, noise):
    looked = []
    encode = tiny_builtin.encode_images

    def counted(images):
        looked.append(len(images))
        return encode(images)

    monkeypatch.setattr(tiny_builtin, "encode_images", counted)
    reranker = GenerativeMMReranker(tiny_builtin)
    reranker.rerank("a dog", [*photos, photos[0].read_bytes()])
    assert looked == [7]
    first = reranker.rerank("a boat", [*photos, photos[0].read_bytes()])
    assert looked == [7]
    noise(seed=77).save(photos[3])
    second = reranker.rerank("a boat", [*photos, photos[0].read_bytes()])
    assert looked == [7, 1]
    assert scores(first)[str(photos[3])] != scores(second)[str(photos[3])]


def test_kept_features_are_bounded_and_the_oldest_go_first():
    from genmm_retriever.models.kept_features import KeptFeatures

    kept = KeptFeatures(most_bytes=100)
    for name in "abc":
        kept.put(name, torch.zeros(10))
    assert len(kept) == 2
    assert kept.get("a") is None
    assert kept.get("b") is not None
    kept.put("d", torch.zeros(10))
    assert kept.get("c") is None
    kept.put("huge", torch.zeros(1000))
    assert kept.get("huge") is None
    assert kept.get("b") is not None


def test_huge_pictures_are_looked_at_a_few_at_a_time(tiny_builtin, monkeypatch, noise):
    from genmm_retriever import reranking

    monkeypatch.setattr(reranking, "_BATCH_PIXELS", 3000)
    sizes = []
    encode = tiny_builtin.encode_images
    monkeypatch.setattr(
        tiny_builtin, "encode_images", lambda images: sizes.append(len(images)) or encode(images)
    )
    encoded = []
    for n in range(5):
        stream = io.BytesIO()
        noise(40, 40, seed=n).save(stream, "PNG")
        encoded.append(stream.getvalue())
    GenerativeMMReranker(tiny_builtin).rerank("a dog", encoded)
    assert sizes == [2, 2, 1]


async def test_asynchronous_answers_are_the_same_off_the_loop(photos, tiny_builtin, monkeypatch):
    reranker = GenerativeMMReranker(tiny_builtin)
    queries = ["a dog", "a boat", "a hill"]
    wanted = [scores(reranker.rerank(query, photos)) for query in queries]
    threads = set()
    score = tiny_builtin.score

    def noted(*arguments):
        threads.add(threading.get_ident())
        return score(*arguments)

    monkeypatch.setattr(tiny_builtin, "score", noted)
    found = await asyncio.gather(*(reranker.arerank(query, iter(photos)) for query in queries))
    assert [scores(hits) for hits in found] == [pytest.approx(one) for one in wanted]
    assert threads
    assert threading.get_ident() not in threads


def test_evidence_of_a_hit_is_otherwise_its_own(tiny_builtin):
    hit = Hit(
        item=Item(id="1", text="A dog."),
        score=0.5,
        rank=1,
        evidence=Evidence(generation=-1.5, rewritings=("dog",), filled=True),
    )
    (found,) = GenerativeMMReranker(tiny_builtin).rerank("a dog", [hit])
    assert found.evidence.generation == -1.5
    assert found.evidence.rewritings == ("dog",)
    assert found.evidence.filled


# ---------------------------------------------------------------- the shipped weights


def test_the_builtin_model_puts_the_right_picture_first(builtin):
    skimage = pytest.importorskip("skimage")
    data = Path(str(skimage.__file__)).parent / "data"
    names = ("brick.png", "rocket.jpg", "chelsea.png", "motorcycle_left.png", "coffee.png")
    reranker = GenerativeMMReranker(builtin)
    for query, right in (("a cup of coffee", "coffee.png"), ("a cat", "chelsea.png")):
        hits = reranker.rerank(query, [data / name for name in names])
        assert Path(hits[0].item.id).name == right
        assert len(hits) == 5
    (first, *_) = reranker.rerank(None, [data / name for name in names], image=data / "coffee.png")
    assert Path(first.item.id).name == "coffee.png"


def test_an_encoder_stands_in_for_the_models_own_head(tiny_builtin, tiny_clip, pictures):
    from genmm_retriever.corpus.images import open_image
    from genmm_retriever.models.contrastive import load_contrastive

    folder = str(tiny_clip("clip"))
    encoder = load_contrastive(folder, device="cpu")
    looked = []
    see = encoder.embed_pictures
    encoder.embed_pictures = lambda images: looked.append(len(images)) or see(images)
    paths = [pictures / f"p{n}.png" for n in range(3)]
    given = [*paths, "a boat"]
    with_clip = GenerativeMMReranker(tiny_builtin, contrastive=encoder)
    hits = with_clip.rerank("a boat", given)
    assert sum(looked) == 3
    [words] = encoder.embed_texts(["a boat"])
    told = {hit.item.id: hit.evidence.parts["contrastive"] for hit in hits}
    for path in paths:
        wanted = float(see([open_image(path)])[0] @ words) - encoder.even
        assert told[str(path)] == pytest.approx(wanted, abs=1e-5)
    # The only text lies at the mean of the texts.
    assert told["3"] == pytest.approx(0.0, abs=1e-6)
    with_clip.rerank("a boat", given, image=paths[0])
    assert sum(looked) == 4, "candidates' vectors are kept; the query's picture is new"
    by_name = GenerativeMMReranker(tiny_builtin, contrastive=folder, device="cpu")
    again = {hit.item.id: hit.score for hit in by_name.rerank("a boat", given)}
    assert again == pytest.approx({hit.item.id: hit.score for hit in hits})
    own = {h.item.id: h.score for h in GenerativeMMReranker(tiny_builtin).rerank("a boat", given)}
    assert own != again
    with pytest.raises(InputError, match="'choice' compares no vectors"):
        GenerativeMMReranker(tiny_builtin, verify="choice", contrastive=folder)
