"""Caption-prefix identifiers: the first words of a description, for comparison.

The plainest identifier in words: no clusters, no keywords, what a captioner says first. First
sentences play this part in GeMKR's comparison (arXiv 2401.08206).
"""

from __future__ import annotations

from collections.abc import Sequence

from genmm_retriever.errors import InputError
from genmm_retriever.identifiers.base import (
    Arrays,
    State,
    checked_state,
    free_number,
    readable,
)
from genmm_retriever.identifiers.keywords import words
from genmm_retriever.models.sentences import SentenceEncoder

LENGTH = 8
_MORE = 8


class CaptionIdentifiers:
    """Identifiers such as "a brown dog runs through the snow"; same use as the other schemes.

    Made by `fit` or `from_state`; there is nothing to learn.

    Args:
        length: Words an identifier; collisions are told apart by up to eight more, and then
            by a number.

    Examples:
        >>> scheme = CaptionIdentifiers(3)
        >>> scheme.assign([["A dog in snow."], ["A dog in water."]], taken=set())
        [['a dog in'], ['a dog in water']]
    """

    kind = "caption"

    def __init__(self, length: int = LENGTH) -> None:
        if length < 1:
            raise InputError(f"length={length} must be at least 1")
        self.length = length

    @classmethod
    def fit(
        cls,
        descriptions: Sequence[Sequence[str]],
        encoder: SentenceEncoder | None = None,
        *,
        length: int = LENGTH,
        seed: int = 0,
    ) -> CaptionIdentifiers:
        """Check that there is something to name; all schemes are made in this way.

        Args:
            descriptions: The descriptions of each item.
            encoder: Plays no part.
            length: Words an identifier.
            seed: Plays no part.

        Raises:
            InputError: If there is no item, or `length` is below 1.
        """
        if not descriptions:
            raise InputError("there is nothing to make identifiers for", "index at least one item")
        return cls(length)

    def assign(self, descriptions: Sequence[Sequence[str]], *, taken: set[str]) -> list[list[str]]:
        """Identifiers of items; see `Identifiers.assign`.

        Descriptions of one item with the same first words share an identifier.
        """
        out: list[list[str]] = []
        for some in descriptions:
            own: list[str] = []
            plain: set[str] = set()
            for text in some or [""]:
                spoken = words(readable(text))[: self.length + _MORE]
                first = " ".join(spoken[: self.length])
                if first in plain:
                    continue
                plain.add(first)
                own.append(self._free(spoken, taken))
                taken.add(own[-1])
            out.append(own)
        return out

    def _free(self, spoken: list[str], taken: set[str]) -> str:
        """The shortest free form: `length` words, then more of them, then a number."""
        for count in range(min(self.length, len(spoken)), len(spoken) + 1):
            text = " ".join(spoken[:count])
            if text not in taken:
                return text
        return free_number(lambda number: f"{text} {number}", 2, taken)

    def to_state(self) -> tuple[Arrays, State]:
        """Arrays (none) and JSON-ready values for `from_state`."""
        return {}, {"kind": self.kind, "version": 1, "length": self.length}

    @classmethod
    def from_state(
        cls, arrays: Arrays, state: State, encoder: SentenceEncoder | None = None
    ) -> CaptionIdentifiers:
        """The scheme that `to_state` was called on.

        Raises:
            InputError: If the state is of another kind.
        """
        return cls(checked_state(state, cls.kind)["length"])
