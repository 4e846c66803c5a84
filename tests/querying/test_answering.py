"""Answers that rest on what was found, and honest silence."""

from __future__ import annotations

import asyncio

import pytest

from genmm_retriever.errors import InputError, WriterError
from genmm_retriever.models.base import ImagePart
from genmm_retriever.querying import AdaptedRetriever, Answerer, QueryRewriter
from genmm_retriever.schema import Evidence, FoundClue, Hit, Item, Query, QueryStep

from .conftest import words_of

FOUND = [("a", 0.8), ("b", 0.3)]


def saying(found=True, answer="A frisbee.", sources=(1,)):
    return {"found": found, "answer": answer, "sources": list(sources)}


def test_an_answer_names_the_hits_it_rests_on(writer, searcher):
    model = writer({"What does": saying(sources=(2, 2, 1))})
    answer = Answerer(searcher({"": FOUND}), model).ask("What does the dog catch?")
    assert (answer.found, answer.text, answer.confidence) == (True, "A frisbee.", 0.8)
    assert [one.item.id for one in answer.sources] == ["b", "a"]
    assert answer.seconds > 0
    assert not answer.quoted
    assert answer.to_json()["sources"][0]["id"] == "b"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (saying(found=False, answer=""), "no answer in the sources"),
        (saying(answer=" "), "no answer in the sources"),
        (saying(sources=()), "names none of the sources"),
        (saying(sources=(9,)), "names none of the sources"),
    ],
)
def test_what_is_not_grounded_is_no_answer(writer, searcher, said, reason):
    answer = Answerer(searcher({"": FOUND}), writer({"What": said})).ask("What is it?")
    assert not answer.found
    assert answer.text == ""
    assert reason in answer.reason
    assert [one.item.id for one in answer.sources] == ["a", "b"]


@pytest.mark.parametrize("said", ["I think so", "", '{"found": "maybe"}'])
def test_a_writer_that_fails_is_an_error_and_not_an_answer(writer, searcher, said):
    answerer = Answerer(searcher({"": FOUND}), writer({"What": said}))
    with pytest.raises(WriterError, match="'scripted' gave no usable answer"):
        answerer.ask("What is it?")
    with pytest.raises(WriterError):
        asyncio.run(answerer.aask("What is it?"))


def test_below_the_threshold_nobody_is_asked(writer, searcher):
    model = writer({"": saying()})
    answer = Answerer(searcher({"": FOUND}), model, threshold=0.9).ask("What is it?")
    assert not answer.found
    assert "0.80" in answer.reason
    assert "0.90" in answer.reason
    assert model.prompts == []
    near = searcher({"": [("a", 0.0049)]})
    assert "0.0049, less than 0.005" in Answerer(near, model, threshold=0.005).ask("What?").reason


@pytest.mark.parametrize("threshold", ["0.3", float("nan"), -1, 2, True])
def test_a_threshold_is_a_probability(threshold, searcher):
    with pytest.raises(InputError, match="threshold"):
        Answerer(searcher({}), threshold=threshold)


def test_numbers_of_no_source_do_not_count(writer, searcher):
    model = writer({"What": saying(sources=(0, 1, 7, 99))})
    answer = Answerer(searcher({"": FOUND}), model).ask("What is it?")
    assert [one.item.id for one in answer.sources] == ["a"]
    nowhere = Answerer(searcher({"": FOUND}), writer({"What": saying(sources=(0, 99))}))
    assert not nowhere.ask("What is it?").found


def test_the_threshold_of_the_calibration_is_the_default(writer, searcher):
    model = writer({"": saying()})
    model.calibration = {"answer_from": 0.85}
    found = searcher({"": FOUND}, model=model)
    assert Answerer(found).threshold == 0.85
    assert Answerer(found, threshold=0.1).threshold == 0.1
    assert not Answerer(found).ask("What?").found
    del model.calibration
    assert Answerer(found).threshold == 0.0


def test_without_verification_there_is_no_threshold_and_without_hits_no_answer(writer, searcher):
    unverified = searcher({"": [("a", None)]})
    answer = Answerer(unverified, writer({"": saying()}), threshold=0.9).ask("What?")
    assert answer.found
    assert answer.confidence is None
    assert not Answerer(searcher({}), writer({"": saying()})).ask("What?").found


def test_the_builtin_model_quotes(writer, searcher):
    found = searcher({"": FOUND}, model=writer({}, style="builtin"))
    answer = Answerer(found).ask("What?")
    assert answer.found
    assert answer.quoted
    assert answer.text == "text of a"
    assert [one.item.id for one in answer.sources] == ["a"]


def test_pictures_are_shown_and_broken_ones_are_read_in_words(writer, searcher, picture):
    model = writer({"What": saying()})
    hits = [
        Hit(
            item=Item(id=name, image=image),
            score=0.5,
            rank=rank,
            evidence=Evidence(caption=f"caption of {name}"),
        )
        for rank, (name, image) in enumerate([("a", picture), ("b", "no-such.png")], start=1)
    ]
    answerer = Answerer(searcher({}), model)
    assert answerer.answer_from("What?", hits).found
    assert sum(isinstance(part, ImagePart) for part in model.prompts[0].parts) == 1
    Answerer(searcher({}), model, pictures=False).answer_from("What?", hits)
    assert not model.prompts[1].has_image


def test_it_does_not_block_and_says_the_same(writer, searcher):
    answerer = Answerer(searcher({"": FOUND}), writer({"What": saying()}))
    answer = asyncio.run(answerer.aask("What is it?"))
    assert answer.text == answerer.ask("What is it?").text


def test_a_threshold_without_verification_is_refused(writer, searcher):
    found = searcher({"": FOUND})
    answerer = Answerer(found, writer({"": saying()}), threshold=0.1)
    for verify in ("off", False):
        with pytest.raises(InputError, match="needs verification"):
            answerer.ask("What?", verify=verify)
        with pytest.raises(InputError, match="needs verification"):
            asyncio.run(answerer.aask("What?", verify=verify))
    found.verify = "off"
    with pytest.raises(InputError, match="needs verification"):
        answerer.ask("What?")
    assert answerer.ask("What?", verify="likelihood").found


@pytest.mark.parametrize("options", [{"k": 0}, {"k": 21}, {"threshold": 1.5}])
def test_options_out_of_range_are_refused(searcher, options):
    with pytest.raises(InputError):
        Answerer(searcher({}), **options)


def test_a_rewritten_question_is_answered_as_it_was_asked(writer, searcher, picture):
    said = saying()
    model = writer({"": said})
    found = searcher({"": FOUND})
    rewritten = Query(text="dog, frisbee", rewritings=("Hello! What does the dog catch?",))
    Answerer(found, model).ask(rewritten)
    assert found.asked[0][0].text == "dog, frisbee"
    assert "What does the dog catch?" in words_of(model.prompts[-1])
    steps = (QueryStep(adapter="resolve", text="When was the panda found?"),)
    resolved = Query(text="When was the panda found?", rewritings=("When?",), steps=steps)
    Answerer(found, model).ask(resolved)
    assert "When was the panda found?" in words_of(model.prompts[-1])
    Answerer(found, model).ask(resolved.model_copy(update={"image": picture}))
    assert "panda" not in words_of(model.prompts[-1])


def test_without_a_retriever_it_answers_from_what_others_find(writer):
    answerer = Answerer(None, writer({"What": saying()}))
    hit = Hit(item=Item(id="a", text="It catches a frisbee."), score=0.5, rank=1)
    assert answerer.answer_from("What does it catch?", [hit]).text == "A frisbee."
    assert answerer.threshold == 0
    with pytest.raises(InputError, match="no retriever"):
        answerer.ask("What?")
    with pytest.raises(InputError, match="nobody"):
        Answerer(None)


def of_a_long_text():
    """A hit by a clue in the last sentence."""
    text = "Of the weather there is much to be told. " * 80 + "The keeper was Ida Lewis. She rowed."
    begin = text.index("Ida")
    clue = FoundClue(
        text="Ida Lewis", logprob=-1, score=2, count=1, documents=1, spans=((begin, begin + 9),)
    )
    return Hit(
        item=Item(id="a", text=text, title="Lime Rock"),
        score=0.9,
        rank=1,
        evidence=Evidence(clues=(clue,), caption=text, verification=0.9),
    )


def test_of_a_long_text_the_place_that_was_found_is_read(writer, searcher):
    model = writer({"Who": saying(answer="Ida Lewis.")})
    Answerer(searcher({}), model).answer_from("Who was the keeper?", [of_a_long_text()])
    told = words_of(model.prompts[0])
    assert "The keeper was Ida Lewis. She rowed." in told
    assert "Lime Rock: \u2026 The keeper" in told
    builtin = searcher({}, model=writer({}, style="builtin"))
    answer = Answerer(builtin).answer_from("Who was the keeper?", [of_a_long_text()])
    assert answer.text == "Lime Rock: \u2026 The keeper was Ida Lewis. She rowed."


@pytest.mark.parametrize(
    "text",
    [
        "New York, New York is a musical film directed by Martin Scorsese.",
        "Row, row, row your boat, gently down the stream.",
        "The score was 3 - 3 - 3 at the end.",
    ],
)
def test_words_that_repeat_are_quoted_and_answered_whole(writer, searcher, text):
    hits = [Hit(item=Item(id="a", text=text), score=0.9, rank=1)]
    builtin = searcher({}, model=writer({}, style="builtin"))
    assert Answerer(builtin).answer_from("What?", hits).text == text
    model = writer({"What": saying(answer=text)})
    assert Answerer(searcher({}), model).answer_from("What?", hits).text == text


def test_behind_adapters_too_a_threshold_needs_verification(writer, searcher):
    found = searcher({"": FOUND})
    found.verify = "off"
    adapted = AdaptedRetriever(found, [QueryRewriter(writer({}))])
    assert adapted.verify == "off"
    with pytest.raises(InputError, match="needs verification"):
        Answerer(adapted, writer({"": saying()}), threshold=0.1).ask("What?")


def test_of_a_text_without_blanks_too(writer, searcher):
    filler, place = (
        "\u59d4\u5458\u4f1a\u5f00\u4f1a\u4e86\u3002" * 3000,
        "\u80f8\u9488\u5728\u7bb1\u5b50\u91cc\u3002",
    )
    text = filler + place + filler
    begin = text.index(place)
    clue = FoundClue(
        text=place[:2], logprob=-1, score=2, count=1, documents=1, spans=((begin, begin + 2),)
    )
    found = Hit(
        item=Item(id="a", text=text),
        score=0.9,
        rank=1,
        evidence=Evidence(clues=(clue,), caption=text, verification=0.9),
    )
    model = writer({"Who": saying()})
    Answerer(searcher({}), model).answer_from("Who?", [found])
    assert place in words_of(model.prompts[0])
    builtin = searcher({}, model=writer({}, style="builtin"))
    quoted = Answerer(builtin).answer_from("Who?", [found]).text
    assert place in quoted
    assert len(quoted) < 1200
    assert quoted.endswith("\u3002")


def test_a_title_is_told_once(writer, searcher):
    model = writer({"What": saying()})
    hits = [Hit(item=Item(id="a", title="Lamp", text="Lamp of oil."), score=1, rank=1)]
    Answerer(searcher({}), model).answer_from("What?", hits)
    assert words_of(model.prompts[0]).count("Lamp") == 1
