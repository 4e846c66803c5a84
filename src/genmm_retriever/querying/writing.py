"""How adapters get words out of a model: in JSON, or freely from the builtin one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from genmm_retriever.corpus.images import open_image
from genmm_retriever.describing import clean_caption
from genmm_retriever.describing.looking import picture_part
from genmm_retriever.describing.prompts import style_of
from genmm_retriever.errors import CapabilityError, ImageError, ModelError, RemoteRefusedError
from genmm_retriever.models.base import Generator, ImagePart, Prompt
from genmm_retriever.schema import Hit, Query

FormT = TypeVar("FormT", bound=BaseModel)


@dataclass(frozen=True)
class Said(Generic[FormT]):
    """What a model said.

    Attributes:
        value: The form, or None if it could not be filled.
        problem: Why not.
        tokens: Written, or None if the engine does not say.
        seconds: Of this one; a batch's are shared evenly.
        failed: Whether the model could not be asked, and not only gave nothing usable.
    """

    value: FormT | None
    problem: str | None
    tokens: int | None
    seconds: float
    failed: bool = False


def ask_for(
    model: Generator,
    prompts: Sequence[Prompt],
    form: type[FormT],
    *,
    seed: int = 0,
    strict: bool = False,
) -> list[Said[FormT]]:
    """Filled forms, one a prompt; a form that cannot be filled is no error.

    Nor is a remote engine that is busy, out of reach, or refuses this one request, unless
    `strict`: a search goes on without its help. Nobody is asked twice for what no form of asking
    mends.

    Raises:
        ModelError: If a model cannot be used: a refused key, an unknown name, a missing package.
        RemoteError: If `strict` and a remote engine is busy, out of reach, or refuses.
    """
    from genmm_retriever.models.structured import write_json

    start = time.perf_counter()
    written = write_json(model, prompts, form, seed=seed)
    each = (time.perf_counter() - start) / max(1, len(prompts))
    for one in written:
        usable = isinstance(one.error, RemoteRefusedError) or not isinstance(one.error, ModelError)
        if one.error is not None and (strict or not usable):
            raise one.error
    return [
        Said(one.value, one.problem, one.tokens, each, one.error is not None) for one in written
    ]


@dataclass(frozen=True)
class Texts:
    """Free answers to one prompt, cleaned and distinct, the likeliest first."""

    texts: list[str]
    tokens: int | None
    seconds: float


def write_freely(
    model: Generator, prompts: Sequence[Prompt], *, number: int, max_words: int, seed: int = 0
) -> list[Texts]:
    """The likeliest answer to each prompt and samples beside it.

    Args:
        model: Any.
        prompts: Q of them.
        number: Answers a prompt, at most: equal ones are dropped.
        max_words: Words beyond are cut.
        seed: Of the samples.
    """
    start = time.perf_counter()
    limit = 2 * max_words
    rounds = [model.generate(prompts, max_new_tokens=limit)]
    if number > 1:
        rounds.append(
            model.generate(
                prompts,
                max_new_tokens=limit,
                num_return_sequences=number - 1,
                temperature=0.7,
                seed=seed,
            )
        )
    seconds = (time.perf_counter() - start) / max(1, len(prompts))
    answers = [[text for some in texts for text in some] for texts in zip(*rounds, strict=True)]
    return [Texts(_cleaned(some, max_words), _tokens(model, some), seconds) for some in answers]


def looked_at(model: Generator, query: Query) -> ImagePart | None:
    """A query's picture as the model takes it, or None if it has none.

    Raises:
        ImageError: If it cannot be opened.
        CapabilityError: If the model reads no pictures.
    """
    if query.image is None:
        return None
    if not getattr(model, "supports_images", True):
        raise CapabilityError(f"{model.name!r} reads no pictures", "name a model that does")
    return picture_part(query.image, model)


def picture_of(model: Generator, hit: Hit) -> ImagePart | None:
    """A hit's picture, if it has one that the model reads and that can be opened."""
    if hit.item.image is None or not getattr(model, "supports_images", True):
        return None
    try:
        return ImagePart(open_image(hit.item.image))
    except ImageError:
        return None


def is_builtin(model: Generator) -> bool:
    """Whether a model knows the builtin model's short forms alone."""
    return style_of(model) == "builtin"


def _cleaned(texts: Sequence[str], max_words: int) -> list[str]:
    clean = (clean_caption(text, max_words=max_words) for text in texts)
    return list(dict.fromkeys(text for text in clean if text))


def _tokens(model: Any, texts: Sequence[str]) -> int | None:
    encode = getattr(model, "encode", None)
    return None if encode is None else sum(len(encode(text)) for text in texts)
