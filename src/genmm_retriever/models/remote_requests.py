"""Prompts as chat requests in the dialect that a server turns out to understand."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from PIL import Image

from genmm_retriever.errors import CapabilityError
from genmm_retriever.models.base import ImagePart, Prompt, TextPart
from genmm_retriever.models.json_text import Schema, told, walked

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROL_TOKEN = re.compile(r"<(?=[|\uff5c])")
_JPEG_QUALITY = 90
SHORT = 200
"""Tokens of an answer where a server's context has no room for more."""
# What strict servers know of JSON schema; the rest is left to whoever checks the answer.
_KNOWN = frozenset(
    {
        *("$defs", "$ref", "additionalProperties", "anyOf", "const", "description", "enum"),
        *("items", "properties", "required", "type"),
    }
)


@dataclass(frozen=True)
class Request:
    """One prompt and how it is to be answered.

    Args:
        prompt: Shown to the model.
        max_new_tokens: Length limit of an answer, in tokens.
        number: Answers wanted.
        temperature: 0 is greedy.
        seed: Of the sampling.
        schema: JSON schema of the answer, if it has one.
    """

    prompt: Prompt
    max_new_tokens: int
    number: int
    temperature: float
    seed: int
    schema: Schema | None = None


@dataclass(frozen=True)
class Dialect:
    """What a server takes; found out by what it refuses.

    Args:
        limit: The name of the length limit: newer models take only the second.
        temperature: Whether it takes one; models that reason may not.
        seed: Whether it takes one.
        schema: How JSON is asked for: by the whole schema, by its plainest keywords, in words.
        roomy: Whether an answer may take more than `SHORT` tokens.
    """

    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True
    seed: bool = True
    schema: Literal["whole", "plain", "words"] = "whole"
    roomy: bool = True

    def arguments(self, request: Request, max_image_pixels: int) -> dict[str, Any]:
        """Arguments of the chat call, without the model's name."""
        prompt = request.prompt
        if request.schema is not None and self.schema == "words":
            prompt = told(prompt, request.schema)
        content = _content(prompt, max_image_pixels)
        arguments: dict[str, Any] = {
            "messages": [{"role": "user", "content": content}],
            self.limit: request.max_new_tokens if self.roomy else self._short(request),
        }
        if request.number > 1:
            arguments["n"] = request.number
        if self.temperature:
            arguments["temperature"] = request.temperature
        if self.seed:
            arguments["seed"] = request.seed
        if request.schema is not None and self.schema != "words":
            schema = request.schema if self.schema == "whole" else plain_schema(request.schema)
            form = {"name": "answer", "strict": True, "schema": schema}
            arguments["response_format"] = {"type": "json_schema", "json_schema": form}
        return arguments

    def after_refusal(self, about: str, request: Request) -> Dialect | None:
        """Another dialect to try, or None if there is none.

        Args:
            about: What the server objects to: a parameter's name, or its whole message.
            request: Which it refused.
        """
        long = request.max_new_tokens > SHORT and self.roomy
        if long and ("context" in about or "too large" in about):
            return replace(self, roomy=False)
        if self.limit == "max_tokens" and (
            about == "max_tokens" or "max_completion_tokens" in about
        ):
            return replace(self, limit="max_completion_tokens")
        if self.temperature and "temperature" in about:
            return replace(self, temperature=False)
        if self.seed and "seed" in about:
            return replace(self, seed=False)
        if long and ("max_tokens" in about or "max_completion_tokens" in about):
            return replace(self, roomy=False)
        if request.schema is not None and self.schema != "words":
            return replace(self, schema="plain" if self.schema == "whole" else "words")
        return None

    @staticmethod
    def _short(request: Request) -> int:
        return min(request.max_new_tokens, SHORT)


def plain_schema(schema: Schema) -> Schema:
    """The schema with those keywords alone that every server with schemas knows."""

    def plain(node: Schema) -> Schema:
        if "$ref" in node and "$defs" not in node:
            return {"$ref": node["$ref"]}
        return {key: value for key, value in node.items() if key in _KNOWN}

    return walked(schema, plain)


def _content(prompt: Prompt, max_image_pixels: int) -> str | list[dict[str, Any]]:
    """Plain text where there is no picture, for not every server takes parts."""
    if prompt.answer:
        raise CapabilityError(
            "a remote engine cannot go on with an answer that a prompt begins",
            "name a local model, by its hub name or path",
        )
    texts = [_clean(part.text) for part in prompt.parts if isinstance(part, TextPart)]
    if len(texts) == len(prompt.parts):
        return "\n".join(texts)
    return _parts(prompt.parts, max_image_pixels)


def _parts(parts: Sequence[TextPart | ImagePart], max_image_pixels: int) -> list[dict[str, Any]]:
    return [
        {"type": "text", "text": _clean(part.text)}
        if isinstance(part, TextPart)
        else {"type": "image_url", "image_url": {"url": _data_url(part, max_image_pixels)}}
        for part in parts
    ]


def _clean(text: str) -> str:
    """Text that can be sent, with what chat templates read as control tokens broken up."""
    return _CONTROL_TOKEN.sub("< ", _SURROGATE.sub("\ufffd", text))


def _data_url(part: ImagePart, max_pixels: int) -> str:
    if part.image is None:
        raise CapabilityError(
            "a remote engine takes pictures as pixels, and a prompt carries cached features",
            "features can be used only with the model that made them",
        )
    image = part.image.convert("RGB")
    excess = image.width * image.height / max_pixels
    if excess > 1:
        image = image.resize(_shrunk(image.size, max_pixels), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _shrunk(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """A size of the same shape with at most so many pixels."""
    scale = math.sqrt(max_pixels / (size[0] * size[1]))
    width = max(1, min(max_pixels, int(size[0] * scale)))
    return width, max(1, min(max_pixels // width, int(size[1] * scale)))
