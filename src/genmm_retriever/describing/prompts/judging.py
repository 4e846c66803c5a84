"""Prompts of verification: which of several fits, or whether one does."""

from __future__ import annotations

from collections.abc import Sequence

from genmm_retriever.describing.prompts.data import (
    UNKNOWN,
    data_text,
    fenced,
    joined,
    query_parts,
    style_of,
)
from genmm_retriever.errors import InputError
from genmm_retriever.models.base import ImagePart, Part, Prompt, TextPart

OPTION_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_OPTION_WORDS = 80


def choice_prompt(
    text: str | None, image: ImagePart | None, options: Sequence[ImagePart | str], model: object
) -> Prompt:
    """Shows a query and options under letters, and asks for the letter that fits best.

    Generative Semantic Verification (SemCORE, arXiv 2504.13172). The builtin model was not
    trained to choose: no form of several that were tried on Flickr8k was clearly above chance.

    Args:
        text: The query's words; with a picture, the change asked for.
        image: The query's picture.
        options: A picture or a text each, at most as many as there are `OPTION_LETTERS`.
        model: Whoever is asked; only its prompt style matters.

    Raises:
        InputError: If there is neither text nor picture, or the options are too many.
    """
    words = data_text(text or "")
    if len(options) > len(OPTION_LETTERS):
        raise InputError(f"{len(options)} options are more than {len(OPTION_LETTERS)}")
    shown = [
        option
        if isinstance(option, ImagePart)
        else data_text(option, max_words=MAX_OPTION_WORDS) or UNKNOWN
        for option in options
    ]
    if style_of(model) == "builtin":
        return _choice_builtin(words, image, shown)
    parts: list[Part] = [*query_parts(words, image), TextPart("\nHere are the options.\n")]
    for letter, option in zip(OPTION_LETTERS, shown, strict=False):
        if isinstance(option, ImagePart):
            parts += [TextPart(f"Option {letter}:\n"), option, TextPart("\n")]
        else:
            parts.append(TextPart(f"Option {letter} (data):\n{fenced(option)}\n"))
    parts.append(TextPart("Which option fits best? Answer with its letter alone."))
    return Prompt(joined(parts))


def yesno_prompt(
    text: str | None, image: ImagePart | None, item: ImagePart | str, model: object
) -> Prompt:
    """Shows a query and one item, and asks whether they fit: yes or no.

    Args:
        text: The query's words; with a picture, the change asked for.
        image: The query's picture.
        item: A picture, or a text.
        model: Whoever is asked; only its prompt style matters.

    Raises:
        InputError: If there is neither text nor picture.
    """
    words = data_text(text or "")
    shown = item if isinstance(item, ImagePart) else data_text(item) or UNKNOWN
    if style_of(model) == "builtin":
        return _yesno_builtin(words, image, shown)
    parts: list[Part] = [*query_parts(words, image), TextPart("\nHere is what was found:\n")]
    parts.append(shown if isinstance(shown, ImagePart) else TextPart(fenced(shown)))
    parts.append(TextPart("\nDoes it fit what is looked for? Answer with yes or no alone."))
    return Prompt(joined(parts))


def _choice_builtin(
    words: str, image: ImagePart | None, options: Sequence[ImagePart | str]
) -> Prompt:
    """A list of texts with a letter each that the query is the last of: to be gone on with."""
    parts: list[Part] = [TextPart("Describe: ")]
    for letter, option in zip(OPTION_LETTERS, options, strict=False):
        parts.append(TextPart(option) if isinstance(option, str) else option)
        parts.append(TextPart(f": {letter}\n"))
    return Prompt(joined([*parts, *_query_builtin(words, image), TextPart(":")]))


def _yesno_builtin(words: str, image: ImagePart | None, item: ImagePart | str) -> Prompt:
    shown: Part = TextPart(f"Describe: {item}\n") if isinstance(item, str) else item
    asked = [TextPart("Is this "), *_query_builtin(words, image), TextPart("?")]
    return Prompt(joined([shown, *asked]))


def _query_builtin(words: str, image: ImagePart | None) -> list[Part]:
    if image is None and not words:
        raise InputError("a query needs text, an image, or both")
    text: list[Part] = [TextPart(words)] if words else []
    return text if image is None else [image, *text]
