"""An index of clues, end to end: built, asked, changed, broken off, damaged."""

from __future__ import annotations

import math
import random
import shutil
from itertools import pairwise

import pytest

from genmm_retriever import GenerativeMMRetriever
from genmm_retriever.corpus.store import Description, IndexReader, IndexWriter
from genmm_retriever.errors import IndexDamagedError
from genmm_retriever.schema import Item, Query

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("numba")

from genmm_retriever import building_clues  # noqa: E402
from genmm_retriever.asking import Candidates  # noqa: E402
from genmm_retriever.building_clues import Cut, clue_texts, heading_of, passages_of  # noqa: E402
from genmm_retriever.constraints.clues import ClueIndex  # noqa: E402
from genmm_retriever.models.base import DecodingState, TextPart  # noqa: E402
from genmm_retriever.verification import Calibration, QueryView  # noqa: E402

TEXTS = (
    "A brown dog catches a frisbee on the beach.",
    "Two children build a castle of sand.",
    "A cyclist rides down a muddy hill.",
    "An old man plays the violin in a subway station.",
    "A brown dog sleeps beside a brown cat.",
)


class Parrot:
    """A model that says after the prompt what the prompt has said; a token is a byte.

    Behind two written bytes it expects what follows them in the prompt, behind none any byte of
    it. Pictures are described by their mean colour.
    """

    name, fingerprint, prompt_style = "parrot", "parrot-1", "builtin"
    vocab_size, eos_token_id, supports_images = 257, 256, True

    def encode(self, text):
        return list(text.lower().encode())

    def decode(self, tokens):
        return bytes(token for token in tokens if token < 256).decode("utf-8", "replace")

    def encode_images(self, images):
        return None

    def generate(self, prompts, *, num_return_sequences=1, **_):
        described = []
        for prompt in prompts:
            red, green, blue = prompt.parts[0].image.resize((1, 1)).getpixel((0, 0))
            texts = [f"red {red}, green {green}", f"green {green} and blue {blue}"]
            described.append((texts * num_return_sequences)[:num_return_sequences])
        return described

    def prefill(self, prompts):
        texts = ["".join(p.text for p in q.parts if isinstance(p, TextPart)) for q in prompts]
        texts = [text.removeprefix("Find: ").removeprefix("Describe: ") for text in texts]
        return self._state([(i, tuple(self.encode(text)), ()) for i, text in enumerate(texts)])

    def _state(self, rows):
        query = torch.tensor([row[0] for row in rows], dtype=torch.int64)
        return DecodingState(torch.stack([self._logits(*row[1:]) for row in rows]), query, rows)

    def _logits(self, said, written):
        logits = torch.zeros(257)
        context = written[-2:]
        for i in range(len(said) - len(context)):
            if said[i : i + len(context)] == context:
                logits[said[i + len(context)]] = 5.0
        return logits

    def step(self, state, parents, tokens):
        pairs = zip(parents.tolist(), tokens.tolist(), strict=True)
        rows = [(*state.cache[row][:2], (*state.cache[row][2], token)) for row, token in pairs]
        return self._state(rows)

    def extend(self, state, parents, tails, ends):
        raise AssertionError("clues are written a token at a time")

    def score_from(self, state, parents, tails):
        scored = []
        for row, tail in zip(parents.tolist(), tails, strict=True):
            _, said, written = state.cache[row]
            logits = [self._logits(said, (*written, *tail[:i])) for i in range(len(tail))]
            scored.append(torch.stack(logits).log_softmax(-1)[range(len(tail)), list(tail)])
        return scored

    def score(self, prompts, continuations):
        state = self.prefill(prompts)
        return self.score_from(state, torch.arange(len(prompts)), continuations)


def long_text():
    """Some four passages of bytes, whose words stand nowhere else; no two are alike."""
    draw = random.Random(0)
    words = ["".join(draw.choice("bcdfgklmpqvwxz") for _ in range(6)) for _ in range(90)]
    return " ".join(words).capitalize() + "."


LONG = long_text()


def items_of(texts=TEXTS, start=0):
    return [
        Item(id=f"t{n}", text=text, metadata={"half": n // 3})
        for n, text in enumerate(texts, start)
    ]


@pytest.fixture
def build():
    made = []

    def make(items, **options):
        options = {"model": Parrot(), "progress": False, "identifiers": "clue"} | options
        made.append(GenerativeMMRetriever.from_images(items, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """An index of texts, a long one among them; not to be changed."""
    path = tmp_path_factory.mktemp("clues") / "index"
    GenerativeMMRetriever.from_images(
        [*items_of(), Item(id="long", text=LONG)],
        path=path,
        model=Parrot(),
        identifiers="clue",
        progress=False,
    ).close()
    return path


@pytest.fixture
def retriever(shared):
    with GenerativeMMRetriever.from_index(shared, model=Parrot(), verify="off") as opened:
        yield opened


@pytest.fixture
def narrow(shared):
    with GenerativeMMRetriever.from_index(
        shared, model=Parrot(), verify="off", num_beams=1
    ) as opened:
        yield opened


def found(retriever, query, **options):
    """First-stage scores by id."""
    hits = retriever.retrieve(query, k=50, verify="off", **options)
    return {h.item.id: h.evidence.generation for h in hits if not h.evidence.filled}


def check_clues(hit):
    """Every clue stands where the evidence says."""
    assert hit.evidence.clues
    for clue in hit.evidence.clues:
        assert clue.spans
        for start, end in clue.spans:
            assert hit.evidence.caption[start:end].lower() == clue.text.lower()
        assert clue.logprob < 0 <= clue.score
        assert clue.count >= clue.documents >= 1
    assert max(0, hit.evidence.generation) ** 2 >= sum(c.score for c in hit.evidence.clues) - 1e-6
    spans = sorted(span for clue in hit.evidence.clues for span in clue.spans)
    assert all(one[1] <= two[0] for one, two in pairwise(spans))


@pytest.mark.parametrize("verify", ["likelihood", "off"])
def test_k_distinct_items_with_clues_where_they_stand(retriever, verify):
    hits = retriever.retrieve("brown dog, a castle", k=6, verify=verify)
    assert sorted(h.item.id for h in hits) == ["long", "t0", "t1", "t2", "t3", "t4"]
    named = [h for h in hits if not h.evidence.filled]
    assert {"t0", "t1", "t4"} <= {h.item.id for h in named}
    for hit in named:
        check_clues(hit)
        assert hit.evidence.caption == hit.item.text
        assert hit.evidence.identifiers == ()
    assert len(retriever.retrieve("brown dog", k=2)) == 2


def test_phrases_in_common_count_for_the_items_that_have_them(narrow):
    # One beam writes little: the rest is what query and passage have in common.
    [hit] = narrow.retrieve("the violin in a subway", k=1)
    assert hit.item.id == "t3"
    assert any(clue.given and "violin" in clue.text for clue in hit.evidence.clues)
    text = narrow.explain("the violin in a subway", k=1)
    assert "in common  'violin" in text


def test_a_long_text_is_found_by_any_part_of_it(retriever):
    words = LONG.split()
    for phrase in (words[0], words[45], words[-1][:-1]):
        [hit] = retriever.retrieve(phrase, k=1)
        assert hit.item.id == "long"
        check_clues(hit)
        at = LONG.index(phrase)
        assert any(
            at - 1 <= start and end <= at + len(phrase)
            for clue in hit.evidence.clues
            for start, end in clue.spans
        )


def test_the_passage_is_verified_not_the_whole_text(retriever, monkeypatch):
    asker = retriever._current([])
    last = LONG.split()[-1][:-1]
    text = Candidates([0], [None], [Item(id="long", text=LONG)], [[]])
    verifier = asker.verifier_for("likelihood", QueryView(text=last), text)
    seen = []
    real = verifier.verify_all
    monkeypatch.setattr(
        verifier,
        "verify_all",
        lambda q, c, **o: (seen.extend(v.words for some in c for v in some), real(q, c, **o))[1],
    )
    retriever.retrieve(last, k=2, verify="likelihood")
    [passage] = [words for words in seen if last in words]
    assert passage.lower() in LONG.lower()
    assert len(passage) < len(LONG) / 2
    # An item that nothing led to, and a short one, are read whole.
    assert {words for words in seen if words != passage} <= {*TEXTS, LONG}


def test_pictures_are_found_by_what_was_seen_in_them(build, pictures):
    with build([pictures, *items_of()[:2]]) as retriever:
        for name in ("p0.png", "p3.png"):
            row = retriever._reader.row(name)
            [described] = retriever._reader.descriptions([row])
            captions = [d.text for d in described]
            hits = retriever.retrieve(captions[-1], k=8, verify="off")
            assert len(hits) == 8
            [hit] = [h for h in hits if h.item.id == name]
            assert hit.evidence.caption in captions
            check_clues(hit)


def test_filters_come_before_the_search(shared, retriever, build):
    query = Query(text="a brown dog", filters={"half": 1})
    hits = retriever.retrieve(query, k=9)
    assert {h.item.id for h in hits} == {"t3", "t4"}
    some = [item for item in items_of() if item.metadata["half"] == 1]
    alone = found(build(some), "a brown dog")
    assert found(retriever, query) == pytest.approx(alone, abs=1e-4)
    for hit in hits:
        for clue in hit.evidence.clues:
            # Counted in what may be found alone: "dog" stands there once.
            assert clue.count <= sum(item.text.count(clue.text) for item in some)
    assert retriever.retrieve(Query(text="a dog", filters={"half": 7})) == []
    named = [item.id for item in some]
    assert found(retriever, Query(text="a brown dog", ids=named)) == pytest.approx(alone, abs=1e-4)
    assert [h.item.id for h in retriever.retrieve("x", kind="image")] == []


def test_several_queries_at_once_are_answered_as_alone(retriever):
    queries = [
        Query(text="a brown dog"),
        Query(text="sand", filters={"half": 0}),
        Query(text="a cat", filters={"half": 1}),
    ]
    together = retriever.retrieve_batch(queries, k=4)
    for query, hits in zip(queries, together, strict=True):
        alone = retriever.retrieve(query, k=4)
        assert [h.item.id for h in hits] == [h.item.id for h in alone]
        assert [h.evidence.generation or 0 for h in hits] == pytest.approx(
            [h.evidence.generation or 0 for h in alone], abs=1e-3
        )


QUERIES = ("a brown dog", "sand castle", "a red bus in the station")


def same_answers(one, other):
    for query in QUERIES:
        assert found(one, query) == pytest.approx(found(other, query), abs=1e-4)


def test_added_deleted_and_replaced_items_are_as_if_built_so(build, tmp_path):
    changed = build(items_of(TEXTS[:3]), path=tmp_path / "changed")
    changed.add(items_of(TEXTS[3:], start=3), progress=False)
    changed.delete("t1")
    assert "t1" not in found(changed, TEXTS[1])
    new = Item(id="t0", text="A red bus waits at the station.", metadata={"half": 0})
    report = changed.add([new, Item(id="long", text=LONG)], replace=True, progress=False)
    assert (report.items, report.added, report.replaced) == (5, 1, 1)
    final = [new, *(item for item in items_of() if item.id not in ("t0", "t1"))]
    fresh = build([*final, Item(id="long", text=LONG)], path=tmp_path / "fresh")
    same_answers(changed, fresh)
    with IndexReader.open(changed.path) as reader:
        index = open_index(reader)
    with IndexReader.open(fresh.path) as reader:
        assert open_index(reader).tokens == index.tokens
    assert index.item_rows.tolist() == changed._reader.live_rows().tolist()


def open_index(reader):
    from genmm_retriever.finding_clues import open_clues

    return open_clues(reader)


def test_many_additions_are_merged_and_change_no_answer(build, tmp_path):
    changed = build(items_of(TEXTS[:1]), path=tmp_path / "changed")
    extra = [Item(id=f"x{n}", text=f"Station number {n} has a red bus.") for n in range(10)]
    for item in [*items_of()[1:], *extra]:
        changed.add([item], progress=False)
    with IndexReader.open(changed.path) as reader:
        assert open_index(reader).shards < 10
        names = reader.arrays()
        # Nothing of the merged shards is left behind.
        groups = {name.split("/")[1] for name in names if name.count("/") == 2}
        assert len(groups) == open_index(reader).shards
    same_answers(changed, build([*items_of(), *extra]))


def test_an_addition_carries_the_large_shard_over(build, tmp_path):
    changed = build(items_of(), path=tmp_path / "changed")
    before = {file.name: file.stat().st_ino for file in (tmp_path / "changed" / "arrays").iterdir()}
    large = [name for name in before if "0000" in name and "clues" in name]
    assert large
    changed.add([Item(id="new", text="A ship crosses the sea.")], progress=False)
    after = {file.name: file.stat().st_ino for file in (tmp_path / "changed" / "arrays").iterdir()}
    assert all(after[name] == before[name] for name in large)


@pytest.mark.parametrize("place", ["encode", "put_arrays", "drop_arrays", "publish"])
def test_a_build_that_is_broken_off_goes_on(build, tmp_path, monkeypatch, place):
    expected = build([*items_of(), *extra_items()])
    changed = build(items_of(), path=tmp_path / "it")
    target = Parrot if place == "encode" else IndexWriter
    real = getattr(target, place)
    calls = []

    def broken(*arguments, **options):
        calls.append(arguments)
        if place == "put_arrays":
            real(*arguments, **options)  # killed behind it
        if place != "encode" or len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    if place == "drop_arrays":
        # Nothing but a merge drops arrays.
        everything = ClueIndex.merged
        monkeypatch.setattr(ClueIndex, "needs_merge", True)
        monkeypatch.setattr(ClueIndex, "merged", lambda self, **_: everything(self))
    with monkeypatch.context() as patch:
        patch.setattr(target, place, broken)
        with pytest.raises(KeyboardInterrupt):
            changed.add(extra_items(), progress=False)
    assert "x0" not in found(changed, "bus")
    changed.add(extra_items(), progress=False)
    same_answers(changed, expected)


def extra_items():
    return [Item(id=f"x{n}", text=f"Station number {n} has a red bus.") for n in range(3)]


def test_overwriting_leaves_nothing_of_the_old_texts(build, tmp_path):
    build(items_of(), path=tmp_path / "it").close()
    over = build(extra_items(), path=tmp_path / "it", overwrite=True)
    same_answers(over, build(extra_items()))


def test_an_item_without_tokens_is_kept_and_filled(build, tmp_path, monkeypatch):
    real = Parrot.encode
    monkeypatch.setattr(
        Parrot, "encode", lambda self, text: [] if "castle" in text else real(self, text)
    )
    retriever = build(items_of(), path=tmp_path / "it")
    assert len(retriever.retrieve("a dog", k=9, verify="off")) == 5
    calls = []
    monkeypatch.setattr(
        building_clues, "passages_of", lambda *a: calls.append(a) or list(passages_of(*a))
    )
    retriever.add(extra_items()[:1], progress=False)
    # It is not taken for new.
    assert len(calls) == 1


def test_a_flipped_byte_is_refused(shared, tmp_path):
    shutil.copytree(shared, tmp_path / "copy")
    for file in sorted((tmp_path / "copy" / "arrays").iterdir()):
        if "clues" not in file.name:
            continue
        good = file.read_bytes()
        for place in (9, len(good) // 2, len(good) - 1):
            bad = bytearray(good)
            bad[place] ^= 16
            file.chmod(0o644)
            file.write_bytes(bad)
            with pytest.raises(IndexDamagedError, match="clues"):
                GenerativeMMRetriever.from_index(tmp_path / "copy", model=Parrot())
        file.write_bytes(good)
    GenerativeMMRetriever.from_index(tmp_path / "copy", model=Parrot()).close()


def test_texts_of_an_item_are_its_own_and_what_was_seen():
    both = Item(id="b", image="b.png", text="Rex.")
    seen = [
        Description("a dog", "model"),
        Description("dog", "objects"),
        Description("Rex", "text"),
    ]
    assert clue_texts(both, seen) == ["Rex.", "a dog", "dog"]
    assert clue_texts(Item(id="i", image="i.png"), seen) == ["a dog", "dog"]
    assert clue_texts(Item(id="t", text="Rex."), [Description("Rex", "text")]) == ["Rex."]


def test_passages_name_their_place():
    found = list(passages_of(Parrot(), ["ab", LONG], Cut()))
    assert found[0][:2] == (0, 0)
    whole = Parrot().encode(" " + LONG)
    assert len(found) > 3
    for number, start, tokens in found[1:]:
        assert number == 1
        assert tokens == whole[start : start + 192]


def titled():
    return [
        Item(
            id="n1",
            title="tench",
            text="A fish of fresh water.",
            metadata={"names": ["tench", "Tinca tinca"]},
        ),
        Item(id="n2", title="ship", text="It was named tench, says a sailor."),
        Item(id="n3", text="A crane lifts a stone.", metadata={"names": "crane"}),
    ]


def test_titles_and_names_are_found_and_shown(build):
    retriever = build(titled(), verify="off")
    [hit] = retriever.retrieve("tinca tinca", k=1)
    assert hit.item.id == "n1"
    assert "tinca" in hit.evidence.clues[0].text
    assert hit.evidence.caption == "| tench | Tinca tinca | A fish of fresh water."
    check_clues(hit)
    hits = retriever.retrieve("a tench", k=2)
    assert {hit.item.id for hit in hits} == {"n1", "n2"}
    for hit in hits:
        check_clues(hit)
    [hit] = retriever.retrieve("fresh water", k=1)
    assert hit.item.id == "n1"
    check_clues(hit)


def test_a_heading_stands_before_each_piece_of_a_long_text(build):
    cut = Cut()
    item = Item(id="long", title="tench", text=LONG)
    assert heading_of(item, cut) == "| tench |"
    pieces = list(passages_of(Parrot(), [LONG], cut, heading_of(item, cut)))
    head = Parrot().encode(" | tench |")
    whole = Parrot().encode(" " + LONG)
    assert len(pieces) > 3
    for _, start, tokens in pieces:
        assert len(tokens) == 192
        assert tokens[: len(head)] == head
        assert tokens[len(head) :] == whole[start : start + 192 - len(head)]
    retriever = build([item, *items_of()], verify="off")
    words = LONG.split()
    for phrase in (words[3], words[60], words[-1][:-1]):
        [hit] = retriever.retrieve(f"tench {phrase}", k=1)
        assert hit.item.id == "long"
        check_clues(hit)
        shown = {clue.text for clue in hit.evidence.clues}
        assert any("tench" in text for text in shown)
        assert any(phrase in text for text in shown)


def test_titles_of_pictures_are_found_only_where_asked_for():
    picture = Item(id="p", image="p.png", title="Rex", metadata={"names": ["dog"]})
    assert heading_of(picture, Cut()) == ""
    assert heading_of(Item(id="t", text="x"), Cut()) == ""
    assert heading_of(Item(id="t", text="x", title="a | b"), Cut()) == "| a b |"


def test_an_index_without_headings_stays_as_it_is(build, tmp_path, monkeypatch):
    """As indexes were before titles were indexed; what is added to one is like the rest."""
    path = tmp_path / "old"
    monkeypatch.setattr(Cut, "settings", lambda self: {"passage": 192, "overlap": 32})
    old = build(titled()[:2], path=path, verify="off")
    monkeypatch.undo()
    old.add(titled()[2:], progress=False)
    with GenerativeMMRetriever.from_index(path, model=Parrot(), verify="off") as again:
        hits = again.retrieve("tinca tinca", k=3)
        assert not any("tinca" in clue.text for hit in hits for clue in hit.evidence.clues)
        hit = again.retrieve("fresh water", k=1)[0]
        assert hit.item.id == "n1"
        assert hit.evidence.caption == hit.item.text
        check_clues(hit)
        with IndexReader.open(path) as reader:
            assert open_index(reader).tokens == sum(len(i.text) + 1 for i in titled())


class Seeing(Parrot):
    """It sees tenches and sailors in every picture, and says so."""

    def encode_images(self, images):
        return torch.zeros(len(images), 2, dtype=torch.float16)

    def object_words(self, features, *, least=0.1):
        names = [("tench", 0.8), ("sailor", 0.15), ("unicorn", 0.04)]
        return [[(name, p) for name, p in names if p >= least]] * len(features)


@pytest.fixture
def photo(tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("text", [None, "What is this?"])
def test_what_is_seen_in_the_query_leads_to_passages(build, photo, text):
    retriever = build(titled(), model=Seeing(), verify="off")
    hits = retriever.retrieve(text, image=str(photo), k=3)
    assert [hit.item.id for hit in hits][:2] == ["n1", "n2"]
    first, second = (hit.evidence.clues[0] for hit in hits[:2])
    # A name that heads a passage leads there; one that heads none to where it is mentioned.
    assert (first.text, first.seen, first.given) == ("| tench |", True, False)
    assert (second.text, second.seen) == ("sailor", True)
    assert first.logprob > second.logprob
    assert not any(clue.seen for clue in hits[2].evidence.clues)
    for hit in hits[:2]:
        check_clues(hit)
    assert "seen       '| tench |'" in retriever.explain(Query(text=text, image=str(photo)), k=1)
    # Words alone are as before.
    assert not any(c.seen for h in retriever.retrieve("tench", k=3) for c in h.evidence.clues)


def test_pictures_look_for_passages_by_weights_of_their_own(build, photo):
    """The question, which no passage repeats, does not turn the order of the clues around."""
    model = Seeing()
    model.calibration = {"generation": 0.0, "likelihood": 9.0}
    for way in ("passages", "shown"):
        keep = {f"{way}_{name}": 0.0 for name in ("likelihood", "contrastive", "objects")}
        model.calibration |= {**keep, f"{way}_generation": 1.0}
    retriever = build(titled(), model=model)
    composed, alone = Query(text="What is it?", image=str(photo)), Query(image=str(photo))
    words = Query(text="tench")
    hits = retriever.retrieve_batch([composed, words, alone], k=3)
    off = retriever.retrieve_batch([composed, words, alone], k=3, verify="off")
    for place in (0, 2):
        assert [h.item.id for h in hits[place]] == [h.item.id for h in off[place]]
        found = [h for h in hits[place] if not h.evidence.filled]
        scores = [h.evidence.generation + model_bias() for h in found]
        assert [h.score for h in found] == pytest.approx([1 / (1 + math.exp(-s)) for s in scores])
        # Without weight it is not looked at.
        assert not any("likelihood" in h.evidence.parts for h in found)
    assert all("likelihood" in h.evidence.parts for h in hits[1] if not h.evidence.filled)


def test_beside_pictures_the_usual_weights_hold(build, photo, pictures):
    model = Seeing()
    model.calibration = {"likelihood": 9.0}
    model.generate = lambda prompts, *, num_return_sequences=1, **_: [
        [f"a red thing {n}" for n in range(num_return_sequences)] for _ in prompts
    ]
    items = [*titled(), Item(id="picture", image=str(sorted(pictures.glob("*.png"))[0]))]
    retriever, asked = build(items, model=model), Query(text="What is it?", image=str(photo))
    hits = retriever.retrieve(asked, k=3)
    assert {hit.item.kind for hit in hits} == {"image", "text"}
    assert all("likelihood" in h.evidence.parts for h in hits if not h.evidence.filled)
    # Among its texts alone the index is one of texts: the same hits with the same scores.
    model.calibration = {"likelihood": 9.0, "passages_likelihood": 0.0}
    texts, beside = build(titled(), model=model), build(items, model=model)
    wanted = [(h.item.id, h.score) for h in texts.retrieve(asked, k=3)]
    found = [(h.item.id, h.score) for h in beside.retrieve(asked, kind="text", k=3)]
    assert [name for name, _ in found] == [name for name, _ in wanted]
    assert [score for _, score in found] == pytest.approx([score for _, score in wanted], rel=0.05)


def model_bias():
    return Calibration().passages_bias


def test_clues_lead_the_shipped_model_to_passages(builtin, tmp_path):
    """With real weights the first clues are those that a person would choose."""
    asked = {
        "a violin player in the subway": ("t3", "violin"),
        "kids make a sand castle": ("t1", "sand"),
        "a dog with a frisbee": ("t0", "f"),
    }
    path = tmp_path / "it"
    with GenerativeMMRetriever.from_images(
        items_of(), path=path, model=builtin, identifiers="clue", progress=False
    ) as retriever:
        for query, (wanted, word) in asked.items():
            for verify in ("off", "likelihood"):
                hits = retriever.retrieve(query, k=5, verify=verify)
                assert len({h.item.id for h in hits}) == 5
                assert hits[0].item.id == wanted
                check_clues(hits[0])
                assert any(word in clue.text for clue in hits[0].evidence.clues)


def test_words_without_blanks_between_them_are_found(build):
    """Their characters are several tokens each, and any of them may begin a word."""
    texts = (
        "東京の桜は三月の末に満開になります。",
        "新幹線は一九六四年に開業しました。",
        "ラーメンは熱いうちに食べます。",
    )
    retriever = build(items_of([*texts, *TEXTS]))
    for asked, wanted in (("桜はいつ満開", "t0"), ("When was the 新幹線 opened?", "t1")):
        best = retriever.retrieve(asked, k=1, verify="off")[0]
        assert best.item.id == wanted
        check_clues(best)
