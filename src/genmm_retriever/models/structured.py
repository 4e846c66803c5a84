"""Answers as checked values: JSON that even a small model cannot break."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, runtime_checkable

from pydantic import BaseModel, RootModel

from genmm_retriever.errors import (
    GenmmError,
    InputError,
    MissingExtraError,
    ModelNotFoundError,
    RemoteKeyError,
    RemoteUnreachableError,
)
from genmm_retriever.models.base import MLLM, Generator, Prompt
from genmm_retriever.models.json_grammar import grammar_of
from genmm_retriever.models.json_rows import Answer, write_rows
from genmm_retriever.models.json_text import (
    ModelT,
    Schema,
    closed_schema,
    extracted,
    told,
    validated,
)
from genmm_retriever.models.parallel import each
from genmm_retriever.models.usage import UsageReporter

ANSWER_TOKENS = 200
_RETRY_TEMPERATURE = 0.7
_PROBLEM_LENGTH = 300
_HOPELESS = (MissingExtraError, ModelNotFoundError, RemoteKeyError, RemoteUnreachableError)
"""What would meet every other prompt too."""

_Ask = Callable[[Sequence[Prompt]], list[Answer]]
_Read = Callable[[str, type[ModelT]], tuple[ModelT | None, str | None]]


@runtime_checkable
class JsonGenerator(Generator, Protocol):
    """A generator that can hold itself to a JSON schema."""

    def generate_json(
        self,
        prompts: Sequence[Prompt],
        json_schema: dict[str, Any],
        *,
        max_new_tokens: int = 200,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """Answer each prompt by one text of JSON; whoever asks checks it again."""
        ...


@dataclass(frozen=True)
class Written(Generic[ModelT]):
    """What a model wrote for one prompt.

    Args:
        value: The checked value, or None if there is none.
        tokens: Tokens generated in all attempts, those that the grammar forced included; None
            if nobody counted them. Of a local model without a grammar they are counted anew
            from its text.
        seconds: Wall time in all attempts, other prompts of the same batch included.
        attempts: How often the model was asked.
        problem: Why there is no value, in one line.
        cut: Whether the tokens ran out: the JSON is complete and was made to fit, so its last
            strings and lists may be shorter than the model wanted.
        error: What the last attempt raised, if that is the problem: whoever asks knows whether
            it can go on without an answer.
    """

    value: ModelT | None
    tokens: int | None
    seconds: float
    attempts: int
    problem: str | None = None
    cut: bool = False
    error: GenmmError | None = None


def write_json(
    model: Generator,
    prompts: Sequence[Prompt],
    schema: type[ModelT],
    *,
    max_new_tokens: int | None = None,
    retries: int = 2,
    seed: int = 0,
) -> list[Written[ModelT]]:
    """Have a model fill in a pydantic model for each prompt.

    A model with logits writes under a grammar, token by token: compact JSON of the schema,
    greedily, closed in time whatever the model wants. Bound strings and lists by `max_length`,
    or the first of them takes all the room. A `JsonGenerator` is given the schema; any other
    generator, and a local model whose tokenizer or schema cannot be had as a grammar, is told
    it in words, and the first object in its answer that fits is taken. What does not fit is
    asked for again, sampled by other seeds. A model has to say something of every field, also
    of those with defaults.

    Args:
        model: Local or remote; each is asked in the best way that it allows.
        prompts: Q prompts, which say what each field means.
        schema: Its JSON form is an object.
        max_new_tokens: Most tokens of one attempt's answer; None for what the model needs as it
            says by an attribute `answer_tokens`, or 200.
        retries: Further attempts at an answer that does not fit.
        seed: Of the sampling of these attempts; the first one is greedy.

    Returns:
        Q results. A query that fails (also by errors of a server) has no value and says why.

    Raises:
        InputError: If a number is out of range, the schema's form is no object, or a prompt
            begins the answer itself.
        MissingExtraError: If a local model is asked and `llguidance` is not installed.
    """
    if max_new_tokens is None:
        max_new_tokens = int(getattr(model, "answer_tokens", ANSWER_TOKENS))
    _check(prompts, schema, max_new_tokens, retries)
    if not prompts:
        return []
    form = closed_schema(schema)
    grammar = grammar_of(model, form)
    found: list[Written[ModelT]] = [Written(None, 0, 0.0, 0) for _ in prompts]
    pending = list(range(len(prompts)))
    for attempt in range(retries + 1):
        options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": _RETRY_TEMPERATURE if attempt else 0.0,
            "seed": seed + attempt,
        }
        read: _Read[ModelT] = extracted
        if grammar is not None and isinstance(model, MLLM):
            local, rules = model, grammar
            read = validated
            ask: _Ask = lambda few: write_rows(local, rules, few, **options)  # noqa: B023, E731
        else:
            ask = _free(model, form, options, words=attempt > 0)
        answers = _asked(model, ask, [prompts[i] for i in pending])
        for i, answer in zip(pending, answers, strict=True):
            found[i] = _judged(found[i], answer, schema, read)
        # Without any text there is nothing to hope for from another try.
        pending = [
            i
            for i, answer in zip(pending, answers, strict=True)
            if found[i].value is None and answer.text is not None
        ]
        if not pending:
            break
    return found


def _check(
    prompts: Sequence[Prompt], schema: type[BaseModel], max_new_tokens: int, retries: int
) -> None:
    if max_new_tokens < 1 or retries < 0:
        raise InputError(
            "write_json needs max_new_tokens >= 1 and retries >= 0",
            f"got {max_new_tokens} and {retries}",
        )
    if issubclass(schema, RootModel):
        raise InputError(
            f"{schema.__name__} is a RootModel, which need not be an object",
            "put its value into a field of a BaseModel",
        )
    if any(prompt.answer for prompt in prompts):
        raise InputError(
            "a prompt begins the answer, which has to be JSON", "leave Prompt.answer empty"
        )


def _judged(
    before: Written[ModelT], answer: Answer, schema: type[ModelT], read: _Read[ModelT]
) -> Written[ModelT]:
    """The result so far with another answer."""
    value, problem = (None, answer.problem)
    if answer.text is not None:
        value, problem = read(answer.text, schema)
    known = before.tokens is not None and answer.tokens is not None
    return Written(
        value,
        (before.tokens or 0) + (answer.tokens or 0) if known else None,
        before.seconds + answer.seconds,
        before.attempts + 1,
        None if problem is None else " ".join(problem.split())[:_PROBLEM_LENGTH],
        answer.cut,
        answer.error,
    )


def _free(model: Generator, form: Schema, options: dict[str, Any], *, words: bool) -> _Ask:
    """Asks a generator for JSON: by the schema if it takes one, else in words."""

    def ask(prompts: Sequence[Prompt]) -> list[Answer]:
        started = time.perf_counter()
        if isinstance(model, JsonGenerator):
            # Some servers take a schema and ignore it: told in words, they know it.
            shown = [told(prompt, form) if words else prompt for prompt in prompts]
            texts = model.generate_json(shown, form, **options)
        else:
            shown = [told(prompt, form) for prompt in prompts]
            texts = [found[0] for found in model.generate(shown, **options)]
        seconds = time.perf_counter() - started
        return [
            Answer(text, tokens, seconds)
            for text, tokens in zip(texts, _counted(model, texts), strict=True)
        ]

    return ask


def _counted(model: Generator, texts: list[str]) -> list[int | None]:
    """Tokens of each text, as far as somebody can tell."""
    if isinstance(model, MLLM):
        return [len(model.encode(text)) for text in texts]
    if isinstance(model, UsageReporter) and len(texts) == 1:
        usage = model.last_usage
        return [None if usage.uncounted else usage.completion_tokens]
    return [None] * len(texts)


def _asked(model: Generator, ask: _Ask, prompts: list[Prompt]) -> list[Answer]:
    """One answer a prompt; what goes wrong with one is said of that one alone."""
    concurrency = int(getattr(model, "concurrency", 0))
    if concurrency < 1:
        try:
            return ask(prompts)
        except GenmmError as error:
            if len(prompts) == 1 or isinstance(error, _HOPELESS):
                return [Answer(None, None, problem=str(error), error=error)] * len(prompts)
        return _one_by_one(model, ask, prompts, 1)
    return _one_by_one(model, ask, prompts, concurrency)


def _one_by_one(model: Generator, ask: _Ask, prompts: list[Prompt], workers: int) -> list[Answer]:
    """Each prompt by itself, several at a time; none any more once there is no hope."""
    hopeless: list[GenmmError] = []

    def spent() -> int | None:
        """Tokens of an answer that could not be used; a failure may have cost the most."""
        return _counted(model, [""])[0] if isinstance(model, UsageReporter) else None

    def one(prompt: Prompt) -> Answer:
        if hopeless:
            return Answer(None, 0, problem=str(hopeless[0]), error=hopeless[0])
        started = time.perf_counter()
        try:
            return ask([prompt])[0]
        except GenmmError as error:
            if isinstance(error, _HOPELESS):
                hopeless.append(error)
            failed = Answer(None, spent(), problem=str(error), error=error)
        return replace(failed, seconds=time.perf_counter() - started)

    return each(one, prompts, workers, "genmm-json")
