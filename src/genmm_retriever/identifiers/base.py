"""What every kind of identifier does, and what all kinds share."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Container, Sequence
from typing import Any, Protocol

import numpy as np

from genmm_retriever.errors import InputError
from genmm_retriever.identifiers.keywords import words
from genmm_retriever.models.sentences import SentenceEncoder, default_encoder

Arrays = dict[str, np.ndarray[Any, Any]]
State = dict[str, Any]
NOTHING = "untitled"


class Identifiers(Protocol):
    """Gives items identifiers; fitted once, then able to name whatever comes later."""

    def assign(self, descriptions: Sequence[Sequence[str]], *, taken: set[str]) -> list[list[str]]:
        """Identifiers of items, one a description, without repetitions.

        Args:
            descriptions: The descriptions of each item; an item without any still gets an
                identifier.
            taken: All identifiers in use. None of them is given out; the new ones are added.

        Returns:
            For each item at least one identifier, in the order of its descriptions.
        """
        ...

    def to_state(self) -> tuple[Arrays, State]:
        """Everything that `from_state` needs: arrays, and JSON-ready values."""
        ...


def readable(text: str) -> str:
    """The text itself if it has words, else its symbols' names, else "untitled".

    Examples:
        >>> readable("\N{DOG FACE}\N{SNOWFLAKE}"), readable(" ")
        ('dog face snowflake', 'untitled')
    """
    text = text.encode("utf-8", "replace").decode()  # lone surrogates break encoders
    if words(text):
        return text
    names = (unicodedata.name(char, "") for char in text[:64] if not char.isspace())
    kept = (
        name.lower()
        for name in dict.fromkeys(names)
        if name and not name.startswith(("VARIATION SELECTOR", "ZERO WIDTH"))
    )
    spoken = " ".join(kept)
    return spoken if words(spoken) else NOTHING


def flatten(descriptions: Sequence[Sequence[str]]) -> tuple[list[str], list[int]]:
    """All readable descriptions in a row, and how many each item has (at least one)."""
    texts: list[str] = []
    counts: list[int] = []
    for some in descriptions:
        own = [readable(text) for text in some] or [NOTHING]
        texts += own
        counts.append(len(own))
    return texts, counts


def free_number(text_of: Callable[[int], str], start: int, taken: Container[str]) -> str:
    """A text with a number from `start` that is not taken, in O(log n) looks.

    Thousands of equal captions must not be counted through one by one for each of them.
    """
    if text_of(start) not in taken:
        return text_of(start)
    used, step = start, 1
    while text_of(used + step) in taken:
        used, step = used + step, step * 2
    free = used + step
    while free - used > 1:
        middle = (used + free) // 2
        used, free = (middle, free) if text_of(middle) in taken else (used, middle)
    return text_of(free)


class EncoderHolder:
    """Loads the default encoder only when something has to be encoded."""

    def __init__(self, name: str, dimensions: int, encoder: SentenceEncoder | None = None) -> None:
        if encoder is not None and encoder.name != name:
            raise InputError(
                f"these identifiers were fitted with the encoder {name!r}, not {encoder.name!r}",
                "pass the same encoder, or build the index anew",
            )
        self.name = name
        self.dimensions = dimensions
        self._encoder = encoder

    def get(self) -> SentenceEncoder:
        """The encoder.

        Raises:
            InputError: If the state needs an encoder that was not given.
            MissingExtraError: If the default encoder is not installed.
        """
        if self._encoder is None:
            encoder = default_encoder()
            if encoder.name != self.name:
                raise InputError(
                    f"these identifiers need the encoder {self.name!r}",
                    "pass it as encoder=... to from_state",
                )
            self._encoder = encoder
        return self._encoder


def checked_state(state: State, kind: str) -> State:
    """The state, if it is one of this kind.

    Raises:
        InputError: If it is not.
    """
    if state.get("kind") != kind or state.get("version") != 1:
        raise InputError(
            f"this is no state of {kind} identifiers, version 1: "
            f"kind {state.get('kind')!r}, version {state.get('version')!r}",
            "build the index anew with this version of genmm-retriever",
        )
    return state
