"""`train_index`: what is learnt, kept, published, resumed, and what is not."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from genmm_retriever import GenerativeMMRetriever, Item
from genmm_retriever.constraints.trie import TokenTrie
from genmm_retriever.corpus.store import (
    NOTES_VERSION,
    IndexReader,
    IndexWriter,
    Note,
    NoteBook,
    NoteVersion,
    check_index,
    marks_by_row,
)
from genmm_retriever.errors import IndexDamagedError, InputError, ModelError, SourceError
from genmm_retriever.models.fingerprints import fingerprint_of_file
from genmm_retriever.training import loop, publishing, train, train_index
from genmm_retriever.training.exam import null_logprobs

FAST = {"steps": 40, "learning_rate": 1e-2, "progress": False}
SHORT = {"steps": 6, "learning_rate": 1e-2, "progress": False, "force": True}


@pytest.fixture(autouse=True)
def few_examinations(monkeypatch):
    """Two examinations a training."""
    monkeypatch.setattr(train, "_EXAMINATIONS", 2)


def identifiers(path):
    with IndexReader.open(path) as reader:
        return reader.identifiers(reader.live_rows().tolist())


def opened(path, model, **options):
    return GenerativeMMRetriever.from_index(path, model=model, verify="off", **options)


def found_first(path, model):
    """How many of the six texts are found first by their own words, by generation alone."""
    with IndexReader.open(path) as reader:
        items = [i for i in reader.items(reader.live_rows().tolist()) if i.kind == "text"]
    with opened(path, model) as retriever:
        hits = retriever.retrieve_batch([item.text for item in items], k=1)
    return sum(hit.item.id == item.id for [hit], item in zip(hits, items, strict=True))


def trie_arrays(path):
    with IndexReader.open(path) as reader:
        return {n: a.tolist() for n, a in reader.arrays_under("trie/").items()}


@pytest.mark.parametrize(("kind", "own"), [("llama", 4), ("qwen3-vl", 2)])
def test_a_model_learns_its_index_and_is_served_with_it(build, make_index, kind, own):
    model = build(kind)
    path = make_index(model)
    old = identifiers(path)
    report = train_index(path, model=model, **FAST)
    assert report.after.loss < 0.5 * report.before.loss
    assert report.after.mean_recall > report.before.mean_recall
    assert report.published
    assert found_first(path, model) >= own
    # The model that was given is as it was; the index brings the adapter.
    assert not any("lora" in name for name, _ in model.model.named_parameters())
    with opened(path, model) as retriever:
        adapted = retriever.model
        assert retriever.info()["adapter"] == report.adapter
    assert adapted.fingerprint == f"{model.fingerprint}+{report.adapter}"
    # Tokens stay; the unconditional scores are those of the adapted model, in the trie too.
    new = identifiers(path)
    assert [(r.row, r.text, r.tokens) for r in new] == [(r.row, r.text, r.tokens) for r in old]
    scored = [s.tolist() for s in null_logprobs(adapted, [r.tokens for r in new])]
    for record, expected, was in zip(new, scored, old, strict=True):
        assert record.null_logprobs == pytest.approx(expected, abs=1e-4)
        assert record.null_logprobs != pytest.approx(was.null_logprobs, abs=1e-2)
    rebuilt = TokenTrie.build(
        [r.tokens for r in new], [r.row for r in new], [r.null_logprobs for r in new]
    )
    assert trie_arrays(path) == {n: a.tolist() for n, a in rebuilt.to_arrays().items()}
    assert check_index(path) == []


def test_what_is_added_later_needs_no_training_and_a_refresh_learns_it(build, make_index, asked):
    model = build("llama")
    path = make_index(model)
    with opened(path, model) as open_before:
        open_before.retrieve("a dog")
        first = train_index(path, model=model, texts=asked, **SHORT)
        # A retriever that was open all along adds with the trained model.
        report = open_before.add(Item(id="new", text="A zebra eats yellow grass"), progress=False)
        assert report.added == 1
        assert open_before.model.fingerprint.endswith(f"+{first.adapter}")
        hits = open_before.retrieve("A zebra eats yellow grass", k=7)
        assert "new" in [hit.item.id for hit in hits]
        assert any(hit.item.id == "new" and hit.evidence.identifiers for hit in hits)
        added = [one for one in identifiers(path) if one.row == 6]
        expected = null_logprobs(open_before.model, [one.tokens for one in added])
        for one, scores in zip(added, expected, strict=True):
            assert one.null_logprobs == pytest.approx(scores.tolist(), abs=1e-4)
    with IndexReader.open(path) as reader:
        assert reader.adapter_digest == first.adapter
    second = train_index(path, model=model, refresh=True, **SHORT)
    assert second.published
    assert second.adapter != first.adapter
    with IndexReader.open(path) as reader:
        assert reader.json("training")["next_row"] == 7
        assert reader.json("training")["adapter"] == second.adapter
    # The new item's words and two queries of four, and as many old pairs.
    assert second.pairs == 6
    with pytest.raises(InputError, match="nothing was added"):
        train_index(path, model=model, refresh=True, **SHORT)


def test_notes_are_learnt_from_unless_they_are_left_out(build, make_index):
    model = build("llama")
    path = make_index(model)
    with IndexReader.open(path) as reader:
        marks = [mark for _, mark in marks_by_row(reader)]
    version = NoteVersion(NOTES_VERSION, "m", "f")
    with NoteBook.writing(path, marks) as book:
        for n, mark in enumerate((*marks[:3], "of nothing that is here")):
            book.put([Note(f"t{n}", mark, "knowledge", f"It is known for {n}.", version)])
    without = train_index(path, model=model, notes=False, **SHORT)
    report = train_index(path, model=model, **SHORT)
    assert (without.notes, report.notes) == (0, 3)
    assert report.pairs == without.pairs + 3
    assert report.to_json()["notes"] == 3
    assert check_index(path) == []


class Killed(BaseException):
    """What a test ends a training with."""


def stop_at(step):
    def interrupt(number):
        if number == step:
            raise Killed

    return interrupt


@pytest.mark.parametrize("saving", [True, False], ids=["ctrl-c", "kill"])
def test_a_training_that_was_ended_goes_on_to_the_same_adapter(
    build, make_index, asked, monkeypatch, saving
):
    model = build("llama")
    whole = make_index(model, "whole")
    expected = train_index(whole, model=model, texts=asked, **SHORT)
    path = make_index(model, "broken")
    if not saving:  # a kill runs no more code: what counts was saved before
        monkeypatch.setattr(loop._Keeper, "__exit__", lambda *_: None)
    for step in (2, 4):
        with pytest.raises(Killed):
            train_index(path, model=model, texts=asked, interrupt=stop_at(step), **SHORT)
        kept = loop.progress_of(path / "training" / "state")
        assert (kept.step if kept else 0) == (step if saving else 3 * (step // 3))
        with IndexReader.open(path) as reader:
            assert reader.adapter_digest is None
    report = train_index(path, model=model, texts=asked, **SHORT)
    assert report.steps == expected.steps == 6
    assert report.best_step == expected.best_step
    assert report.after.loss == pytest.approx(expected.after.loss, abs=1e-3)
    assert report.after.recall == expected.after.recall
    one, other = (
        load_file(each / "adapter" / found.adapter / "adapter_model.safetensors")
        for each, found in ((whole, expected), (path, report))
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.numpy() == pytest.approx(other[name].numpy(), abs=1e-4)


@pytest.mark.parametrize("few", [0, 200])
def test_nothing_is_published_when_it_did_not_help(build, make_index, monkeypatch, few):
    monkeypatch.setattr(train, "_FEW_STEPS", few)
    model = build("llama")
    path = make_index(model)
    options = {"steps": 2, "learning_rate": 1e-9, "progress": False}
    report = train_index(path, model=model, **options)
    assert not report.published
    assert report.adapter is None
    # Short trainings of small corpora are searched before and after alone.
    history = loop.progress_of(path / "training" / "state").history
    assert [set(figures["recall"]) for _, figures in history] == 2 * [
        set() if few else {"1", "5", "10"}
    ]
    assert set(report.before.recall) == set(report.after.recall) == {"1", "5", "10"}
    with IndexReader.open(path) as reader:
        assert reader.generation == 1
        assert reader.adapter() is None
    # What was trained is kept: --force publishes it without another step.
    forced = train_index(path, model=model, force=True, interrupt=stop_at(2), **options)
    assert forced.published


def test_a_publication_that_fails_leaves_the_old_state(build, make_index, monkeypatch):
    model = build("llama")
    path = make_index(model)
    old, arrays = identifiers(path), trie_arrays(path)

    def fail(writer):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(publishing, "write_trie", fail)
        with pytest.raises(Killed):
            train_index(path, model=model, **SHORT)
    assert identifiers(path) == old
    with IndexWriter.open(path) as writer:
        # Half of a publication is worth nothing: the next writer begins with what is served.
        assert writer.identifiers() == old
        assert writer.adapter() is None
    with opened(path, model) as retriever:
        retriever.add(Item(id="new", text="A zebra eats grass"), progress=False)
        retriever.delete("new")
    assert identifiers(path) == old
    report = train_index(path, model=model, **SHORT)
    assert report.published
    assert trie_arrays(path).keys() == arrays.keys()


def test_a_damaged_adapter_is_refused_by_name(build, make_index):
    model = build("llama")
    path = make_index(model)
    report = train_index(path, model=model, **SHORT)
    weights = path / "adapter" / report.adapter / "adapter_model.safetensors"
    assert fingerprint_of_file(weights) == report.adapter
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with opened(path, model) as retriever:
        with pytest.raises(IndexDamagedError, match=r"adapter_model\.safetensors"):
            retriever.retrieve("a dog")
        with pytest.raises(IndexDamagedError, match=r"adapter_model\.safetensors"):
            retriever.add(Item(id="new", text="A zebra"), progress=False)
    with pytest.raises(IndexDamagedError, match=r"adapter_model\.safetensors"):
        train_index(path, model=model, **SHORT)
    assert [problem.file for problem in check_index(path)] == [
        f"adapter/{report.adapter}/adapter_model.safetensors"
    ]
    weights.unlink()
    with pytest.raises(IndexDamagedError, match=r"adapter_model\.safetensors is missing"):
        opened(path, model).retrieve("a dog")


@pytest.mark.parametrize(
    ("line", "error", "match"),
    [
        ('{"text": "a", "relevant": ["t0"]', SourceError, "line 2"),
        ('{"text": "a", "relevant": "t0"}', SourceError, "line 2: `relevant`"),
        ('{"relevant": ["t0"]}', SourceError, "line 2: it has neither"),
        ('{"text": "a", "relevant": ["t0"], "colour": 1}', SourceError, "line 2.*colour"),
        ('{"id": "t0", "captions": "a"}', SourceError, "line 2: `captions`"),
    ],
)
def test_wrong_texts_are_named(build, make_index, tmp_path, line, error, match):
    model = build("llama")
    path = make_index(model)
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "elsewhere", "relevant": ["nobody"]}\n' + line)
    with pytest.raises(error, match=match):
        train_index(path, model=model, texts=texts, **SHORT)
    assert not (path / "training" / "queries.jsonl").exists()


def test_what_cannot_be_trained_is_refused(build, make_index, tmp_path):
    model = build("llama")
    path = make_index(model)
    with pytest.raises(SourceError, match=r"none\.jsonl"):
        train_index(path, model=model, texts=tmp_path / "none.jsonl")
    texts = tmp_path / "others.jsonl"
    texts.write_text('{"text": "elsewhere", "relevant": ["nobody"]}')
    with pytest.raises(InputError, match=r"others\.jsonl.*no item"):
        train_index(path, model=model, texts=texts)
    with pytest.raises(ModelError, match="other weights"):
        train_index(path, model=build("qwen3-vl"))
    with pytest.raises(InputError, match="never trained"):
        train_index(path, model=model, refresh=True, progress=False)
    with pytest.raises(InputError, match="epochs is 0"):
        train_index(path, model=model, epochs=0)
    with IndexReader.open(path) as reader:
        everything = [item.id for item in reader.items(reader.live_rows().tolist())]
    with opened(path, model) as retriever:
        retriever.delete(everything)
    with pytest.raises(InputError, match="is empty"):
        train_index(path, model=model)
    clues = tmp_path / "clues"
    items = [Item(id="a", text="A dog runs over the snow of the hills.")]
    with GenerativeMMRetriever.from_images(
        items, path=clues, model=model, identifiers="clue", progress=False
    ):
        pass
    with pytest.raises(InputError, match="index of clues"):
        train_index(clues, model=model)
