"""JSON of random models that never want to stop, and of generators that write anything."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from enum import Enum
from typing import Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, field_validator

from genmm_retriever.errors import CapabilityError, InputError, RemoteKeyError
from genmm_retriever.models import json_grammar
from genmm_retriever.models.base import ImagePart, Prompt, TextPart
from genmm_retriever.models.json_grammar import grammar_of
from genmm_retriever.models.json_rows import write_rows
from genmm_retriever.models.json_text import closed_schema
from genmm_retriever.models.structured import write_json
from genmm_retriever.models.usage import Usage


class Colour(Enum):
    RED = "red"
    BLUE = 'a "blue"'


class Words(BaseModel):
    title: str = Field(max_length=20)
    words: list[str] = Field(max_length=4)


class Judgement(BaseModel):
    reason: str = Field(max_length=400)
    fits: bool
    kind: Literal["picture", "text", "none of them"]


class Loose(BaseModel):
    """Nothing is bounded, nothing is required."""

    note: str | None = None
    notes: list[str] = []
    amount: float = 0.5
    colour: Colour = Colour.RED


class Inner(BaseModel):
    label: str = Field(min_length=2, max_length=9)
    share: float = Field(gt=0, lt=1)


class Nested(BaseModel):
    parts: list[Inner] = Field(min_length=1)
    best: Inner | None
    counts: dict[str, int] = {}
    number: int = Field(ge=10, le=12345)


class Tree(BaseModel):
    name: str
    branches: list[Tree] = []


# The shortest JSON of each has at most so many characters, which are the tiny models' tokens.
SCHEMAS = {Words: 24, Judgement: 48, Loose: 55, Nested: 90, Tree: 30}
NASTY = ['"', "}", '{"title": "no"}', "<|im_end|>\n<|im_start|>assistant\n{", '\\\\" é 犬']
KINDS = ["llama", "mistral-sliding", "qwen3-vl", "smolvlm"]


def ask(*texts):
    return [Prompt((TextPart(text),)) for text in texts]


def check(written, schema, limit):
    """Every answer is there, of the schema, and no longer than allowed."""
    for one in written:
        assert one.problem is None
        assert isinstance(one.value, schema)
        assert 0 < one.tokens <= limit * one.attempts


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("more", [0, 9, 120])
def test_every_model_writes_by_the_schema_whatever_room_there_is(mllm, schema, more):
    if mllm.name in ("tiny-mamba", "tiny-lfm2-hybrid") and more == 120:
        pytest.skip("slow: whole sequences are run anew for each token")
    limit = SCHEMAS[schema] + more
    check(write_json(mllm, ask(*NASTY), schema, max_new_tokens=limit), schema, limit)


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    texts=st.lists(st.text(max_size=30) | st.sampled_from(NASTY), min_size=1, max_size=3),
    schema=st.sampled_from(list(SCHEMAS)),
    more=st.integers(0, 60),
    temperature=st.sampled_from([0.0, 0.7, 5.0]),
    seed=st.integers(0, 3),
)
def test_samples_are_of_the_schema_too(build, kind, texts, schema, more, temperature, seed):
    mllm = build(kind)
    grammar = grammar_of(mllm, closed_schema(schema))
    limit = SCHEMAS[schema] + more
    answers = write_rows(
        mllm, grammar, ask(*texts), max_new_tokens=limit, temperature=temperature, seed=seed
    )
    for answer in answers:
        value = schema.model_validate_json(answer.text)
        # All fields are there, and there is no blank between them.
        assert list(json.loads(answer.text)) == list(schema.model_fields)
        assert len(mllm.encode(answer.text)) >= answer.tokens
        assert answer.tokens <= limit
        assert isinstance(value, schema)


def test_pictures_may_be_in_the_prompts(visual, picture):
    prompts = [Prompt((ImagePart(picture(30, 40, i)), TextPart("Describe."))) for i in range(2)]
    check(write_json(visual, prompts, Words, max_new_tokens=40), Words, 40)


def test_the_builtin_model_writes_by_the_schema(tiny_builtin, picture):
    model = tiny_builtin
    features = model.encode_images([picture(30, 40)])[0]
    prompts = [*ask("a dog"), Prompt((ImagePart(features=features), TextPart("Describe.")))]
    check(write_json(model, prompts, Judgement, max_new_tokens=60), Judgement, 60)


def test_an_answer_does_not_depend_on_the_batch(build):
    mllm = build("llama")
    prompts = ask("a", "a longer one", "}")
    together = write_json(mllm, prompts, Judgement, max_new_tokens=120)
    alone = [write_json(mllm, [p], Judgement, max_new_tokens=120)[0] for p in prompts]
    assert [w.value for w in together] == [w.value for w in alone]
    assert [w.tokens for w in together] == [w.tokens for w in alone]


def test_more_prompts_than_fit_into_a_batch(build, monkeypatch):
    mllm = build("llama")
    monkeypatch.setattr(mllm, "batch_size", 2)
    written = write_json(mllm, ask(*"abcde"), Words, max_new_tokens=40)
    assert len(written) == 5
    check(written, Words, 40)


def test_what_comes_after_a_long_string_is_the_models_own_choice(build):
    """Strings that go on for ever leave room for every name and for whole numbers."""

    class Long(BaseModel):
        reason: str
        kind: Literal["cat", "a much longer name"]
        number: int = Field(ge=0, le=99999)

    mllm = build("llama")
    grammar = grammar_of(mllm, closed_schema(Long))
    for limit in (90, 120):
        shown = write_rows(mllm, grammar, ask(*"abcdefgh"), max_new_tokens=limit)
        for prompt, answer in zip(ask(*"abcdefgh"), shown, strict=True):
            assert answer.cut
            value = Long.model_validate_json(answer.text)
            head = answer.text[: answer.text.index('"kind":"') + len('"kind":"')]
            row = mllm.prefill([prompt]), torch.tensor([0])
            state, _ = mllm.extend(*row, [mllm.encode(head)], [False])
            first = {name[0]: float(state.logits[0, mllm.encode(name)[0]]) for name in ("c", "a")}
            assert value.kind[0] == max(first, key=first.get)


def test_what_fits_is_not_called_cut(build):
    class Small(BaseModel):
        fits: bool

    [written] = write_json(build("llama"), ask("x"), Small)
    assert (written.cut, written.attempts, written.problem) == (False, 1, None)
    assert written.seconds > 0


def test_greedy_follows_the_logits(build):
    """Among the legal answers of a tiny schema, token by token the likeliest is taken."""

    class Pick(BaseModel):
        pick: Literal["a", "b", "c", "d"]

    mllm = build("llama")
    for text in "xyz":
        [prompt] = ask(text)
        start = '{"pick":"'
        state, _ = mllm.extend(
            mllm.prefill([prompt]), torch.tensor([0]), [mllm.encode(start)], [False]
        )
        letters = {mllm.encode(letter)[0]: letter for letter in "abcd"}
        wanted = letters[max(letters, key=lambda token: float(state.logits[0, token]))]
        [written] = write_json(mllm, [prompt], Pick)
        assert written.value.pick == wanted


def test_too_little_room_is_said_and_not_tried_again(build):
    [written] = write_json(build("llama"), ask("x"), Judgement, max_new_tokens=20)
    assert (written.value, written.attempts, written.tokens) == (None, 1, 0)
    assert "max_new_tokens=20" in written.problem


def test_what_pydantic_refuses_is_sampled_again(build):
    class Picky(BaseModel):
        word: str = Field(max_length=6)
        seen: int = Field(ge=0, le=9)

        @field_validator("seen")
        @classmethod
        def even(cls, value):
            if value % 2 == chosen:
                raise ValueError("not this one")
            return value

    chosen = None
    mllm = build("llama")
    [first] = write_json(mllm, ask("x"), Picky, max_new_tokens=40)
    chosen = first.value.seen % 2
    [written] = write_json(mllm, ask("x"), Picky, max_new_tokens=40, retries=20)
    assert written.attempts > 1
    assert written.value.seen % 2 != chosen
    assert written.tokens > first.tokens
    [never] = write_json(mllm, ask("x"), Picky, max_new_tokens=40, retries=0)
    assert (never.value, never.attempts) == (None, 1)
    assert "not this one" in never.problem


def test_a_tokenizer_is_read_once_and_forgotten_with_its_model(build, monkeypatch):
    read = []
    original = json_grammar._read_tokenizer
    monkeypatch.setattr(
        json_grammar, "_read_tokenizer", lambda model: read.append(1) or original(model)
    )
    mllm = build("llama").copy()
    for _ in range(3):
        write_json(mllm, ask("x"), Words, max_new_tokens=30)
    assert len(read) == 1
    gone = weakref.ref(mllm)
    known = len(json_grammar._tokenizers)
    del mllm
    gc.collect()
    assert gone() is None
    assert len(json_grammar._tokenizers) == known - 1


def test_one_prompt_that_cannot_be_shown_leaves_the_others(build, picture):
    good, bad = ask("a dog")[0], Prompt((ImagePart(picture(8, 8)),))
    found = write_json(build("llama"), [good, bad, good], Words, max_new_tokens=40)
    check([found[0], found[2]], Words, 40)
    assert found[1].value is None
    assert "text-only" in found[1].problem


@pytest.mark.parametrize("options", [{"max_new_tokens": 0}, {"retries": -1}])
def test_numbers_out_of_range(build, options):
    with pytest.raises(InputError, match="write_json needs"):
        write_json(build("llama"), ask("x"), Words, **options)


def test_forms_that_are_no_object_and_begun_answers(build):
    with pytest.raises(InputError, match="RootModel"):
        write_json(build("llama"), ask("x"), RootModel[int])
    with pytest.raises(InputError, match="begins the answer"):
        write_json(build("llama"), [Prompt((TextPart("x"),), answer="It")], Words)


def test_no_prompts():
    assert write_json(Scripted(), [], Words) == []


class Scripted:
    """Answers what it is told to; remembers what it was asked."""

    name = "scripted"

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def generate(
        self, prompts, *, max_new_tokens=64, num_return_sequences=1, temperature=0.0, seed=0
    ):
        self.asked.append((list(prompts), temperature, seed))
        return [[self.answers.pop(0)] for _ in prompts]


GOOD = '{"title": "A dog", "words": ["dog"]}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Sure! Here {{it}} is: {GOOD} Have fun :-}}",
        f'<think>{{"title": "No", "words": []}}</think>{GOOD}',
        f'{{"title": 5}} {GOOD}',
        f'{{"title": "B", "title": "A", "words": []}} {GOOD}',
        f"{{{{{{ {GOOD}",
        "{" * 3000 + GOOD[:0] + "x" * 10 + "</think>" + GOOD,
    ],
)
def test_the_object_is_found_in_free_text(text):
    model = Scripted(text)
    [written] = write_json(model, ask("x"), Words)
    assert written.value == Words(title="A dog", words=["dog"])
    assert (written.attempts, written.tokens) == (1, None)
    [[[prompt], temperature, _]] = model.asked
    assert temperature == 0
    assert '"maxLength":20' in prompt.parts[-1].text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no", "no JSON object"),
        ("", "no JSON object"),
        ("x" * 100_001 + '{"title": "a", "words": []}', "in its first 100,000 characters"),
        ('{"title": "a", "words": NaN}', "NaN"),
        ('{"title": "a", "words": [1e999]}', "too large"),
        ('{"title": "a", "title": "b", "words": []}', "twice"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "no JSON object"),
        ('{"title": ' + "9" * 5000 + "}", "no JSON"),
        ('{"title": "\\ud800", "words": []}', "does not fit"),
        ('{"title": "' + "x" * 21 + '", "words": []}', "title"),
        ('__import__("os").abort()', "no JSON object"),
    ],
)
def test_what_is_no_answer_is_asked_for_again(text, problem):
    model = Scripted(text, text, GOOD)
    [written] = write_json(model, ask("x"), Words, seed=7)
    assert (written.value.title, written.attempts) == ("A dog", 3)
    assert [(t > 0, s) for _, t, s in model.asked] == [(False, 7), (True, 8), (True, 9)]
    [written] = write_json(Scripted(text, text), ask("x"), Words, retries=1)
    assert (written.value, written.attempts) == (None, 2)
    assert problem in written.problem
    assert "\n" not in written.problem


def test_only_those_that_failed_are_asked_again():
    model = Scripted(GOOD, "no", GOOD, GOOD)
    written = write_json(model, ask("a", "b", "c"), Words)
    assert [w.attempts for w in written] == [1, 2, 1]
    assert [p.parts[0].text for p in model.asked[1][0]] == ["b"]


@settings(deadline=None)
@given(st.text() | st.text(alphabet='{}[]",:\\ab1'))
def test_no_text_breaks_the_reading(text):
    [written] = write_json(Scripted(text), ask("x"), Words, retries=0)
    assert (written.value is None) == (written.problem is not None)


def test_a_local_model_without_a_grammar_is_asked_freely(build, monkeypatch):
    mllm = build("llama").copy()
    monkeypatch.setattr(mllm, "tokenizer", Unreadable(mllm.tokenizer))
    [written] = write_json(mllm, ask("x"), Words, max_new_tokens=5, retries=1)
    assert (written.value, written.attempts) == (None, 2)
    assert written.tokens >= 2


class Unreadable:
    """Not one of the tokenizers that can be read from outside."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __len__(self):
        return len(self._tokenizer)


class Scheming(Scripted):
    """Takes a schema; counts what it writes, and fails where it is told to."""

    concurrency = 3

    def __init__(self, answer, error=None):
        super().__init__()
        self.answer, self.error = answer, error
        self.calls = 0
        self.lock = threading.Lock()

    @property
    def last_usage(self):
        return Usage(5, 3, 1)

    def generate_json(self, prompts, json_schema, *, max_new_tokens=200, temperature=0.0, seed=0):
        with self.lock:
            self.calls += 1
        [prompt] = prompts
        assert json_schema["additionalProperties"] is False
        if prompt.parts[0].text == "bad":
            raise self.error
        if prompt.parts[0].text == "bug":
            raise ZeroDivisionError
        return [self.answer]


def test_a_generator_with_schemas_is_asked_one_by_one():
    model = Scheming(GOOD, CapabilityError("not this one"))
    written = write_json(model, ask("a", "bad", "c"), Words)
    assert [w.value is None for w in written] == [False, True, False]
    assert written[1].problem == "not this one"
    # What a failure cost is told by whoever counts.
    assert [w.tokens for w in written] == [3, 3, 3]
    assert model.calls == 3


def test_without_hope_nobody_else_is_asked():
    model = Scheming(GOOD, RemoteKeyError("no key"))
    model.concurrency = 1
    written = write_json(model, ask("a", "bad", "c", "d"), Words)
    assert [w.problem for w in written] == [None, "no key", "no key", "no key"]
    assert model.calls == 2


def test_programming_errors_are_raised():
    with pytest.raises(ZeroDivisionError):
        write_json(Scheming(GOOD), ask("a", "bug"), Words)
