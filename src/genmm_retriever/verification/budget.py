"""How much verification may cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from genmm_retriever.errors import InputError


@dataclass(frozen=True)
class Budget:
    """Whichever comes first ends the looking; as many candidates as hits are asked for are done.

    Args:
        candidates: Candidates whose likelihood is computed; None for all.
        milliseconds: Time from the beginning of the verification, looked at between chunks:
            the chunk in hand is finished. None for no limit.

    Raises:
        InputError: If a limit is out of range.

    Examples:
        >>> Budget(16).most(100, at_least=10), Budget(16).most(100, at_least=20)
        (16, 20)
        >>> Budget(None, milliseconds=50).most(100, at_least=10)
        100
    """

    candidates: int | None = 16
    milliseconds: float | None = None

    def __post_init__(self) -> None:
        count, time = self.candidates, self.milliseconds
        if count is not None and (not isinstance(count, int) or count < 1):
            raise InputError(
                f"budget is {count!r}", "give a whole number of candidates of at least 1, or None"
            )
        if time is not None and not (
            isinstance(time, (int, float)) and math.isfinite(time) and time > 0
        ):
            raise InputError(f"budget_ms is {time!r}", "give milliseconds above 0, or None")

    def most(self, available: int, at_least: int) -> int:
        """The most candidates to look at, of those available."""
        most = available if self.candidates is None else max(self.candidates, at_least)
        return min(most, available)

    def is_spent(self, seconds: float) -> bool:
        """Whether the time is over after so many seconds."""
        return self.milliseconds is not None and seconds * 1000 >= self.milliseconds
