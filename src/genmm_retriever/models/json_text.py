"""JSON in free text: schemas that leave no choice, and the object in what a model wrote."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from genmm_retriever.errors import first_problem
from genmm_retriever.models.base import Prompt, TextPart

ModelT = TypeVar("ModelT", bound=BaseModel)
Schema = dict[str, Any]

MAX_TEXT = 100_000
"""Characters of an answer that are looked at."""
MAX_DEPTH = 32
"""Brackets within brackets; deeper objects are passed over."""
_MAX_OBJECTS = 32
_MARKS = re.compile(r'[{}\[\]]|"(?:[^"\\]|\\.)*"?', re.DOTALL)
_MAPS = ("properties", "$defs", "patternProperties")
_VALUES = ("default", "examples", "const", "enum", "required")


def walked(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """A copy of a JSON schema, with every schema inside it changed, the innermost first."""

    def inner(key: str, value: Any) -> Any:
        if key in _VALUES:
            return value
        if key in _MAPS and isinstance(value, dict):
            return {name: walked(sub, change) for name, sub in value.items()}
        if isinstance(value, dict):
            return walked(value, change)
        if isinstance(value, list):
            return [walked(one, change) if isinstance(one, dict) else one for one in value]
        return value

    return change({key: inner(key, value) for key, value in schema.items()})


def closed_schema(schema: type[BaseModel]) -> Schema:
    """A model's JSON schema in which every object has all of its properties and no other.

    Whoever writes by it has to say something of every field, in the fields' order, so that a
    model that never wants to stop cannot go on with properties of its own.

    Examples:
        >>> class Dog(BaseModel):
        ...     name: str = "Rex"
        >>> closed = closed_schema(Dog)
        >>> closed["required"], closed["additionalProperties"]
        (['name'], False)
    """

    def close(node: Schema) -> Schema:
        if isinstance(node.get("properties"), dict):
            node["required"] = list(node["properties"])
            node["additionalProperties"] = False
        return node

    return walked(schema.model_json_schema(), close)


def told(prompt: Prompt, schema: Schema) -> Prompt:
    """The prompt, with the form of the answer described in words at its end."""
    form = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    words = (
        "\nAnswer with one JSON object and nothing else: no code fence, no words around it. "
        f"It has the form of this JSON schema:\n{form}"
    )
    return Prompt((*prompt.parts, TextPart(words)), prompt.answer)


def validated(text: str, schema: type[ModelT]) -> tuple[ModelT | None, str | None]:
    """The value that a text of JSON alone stands for, or what is wrong with it."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_doubles,
            parse_constant=_refused,
            parse_float=_finite,
        )
        # Read again by pydantic, whose rules for JSON are its own (dates, enumerations).
        return schema.model_validate_json(json.dumps(value)), None
    except ValidationError as error:
        return None, f"the JSON does not fit: {first_problem(error)}"
    except (ValueError, RecursionError) as error:
        return None, f"the answer is no JSON: {error}"


def extracted(text: str, schema: type[ModelT]) -> tuple[ModelT | None, str | None]:
    """The first JSON object in a text that fits a schema, or what is wrong.

    Code fences, thoughts and words around the object are passed over; so are objects with a
    key twice, with numbers that are none (NaN, Infinity) or nested more than `MAX_DEPTH` deep.

    Examples:
        >>> class Dog(BaseModel):
        ...     name: str
        >>> extracted('Sure! {"name": "Rex"} is {good}.', Dog)
        (Dog(name='Rex'), None)
        >>> extracted("Rex", Dog)
        (None, 'the answer has no JSON object')
    """
    problem: str | None = None
    for candidate in objects(text[:MAX_TEXT]):
        value, wrong = validated(candidate, schema)
        if value is not None:
            return value, None
        problem = problem or wrong
    if problem is None and len(text) > MAX_TEXT:
        problem = f"the answer has no JSON object in its first {MAX_TEXT:,} characters"
    return None, problem or "the answer has no JSON object"


def objects(text: str) -> Iterator[str]:
    """Parts of a text in balanced braces, in order, those after the model's thoughts first."""
    thoughts, mark, answer = text.rpartition("</think>")
    for part in (answer, thoughts) if mark else (text,):
        start = part.find("{")
        for _ in range(_MAX_OBJECTS):
            if start < 0:
                break
            end = _object_end(part, start)
            if end is not None:
                yield part[start:end]
            start = part.find("{", start + 1 if end is None else end)


def _object_end(text: str, start: int) -> int | None:
    """Where the object that begins at `start` ends; None if it does not, or goes too deep."""
    depth = 0
    for mark in _MARKS.finditer(text, start):
        if mark.group() in ("{", "["):
            depth += 1
        elif mark.group() in ("}", "]"):
            depth -= 1
        if depth > MAX_DEPTH:
            return None
        if depth == 0:
            return mark.end()
    return None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number
