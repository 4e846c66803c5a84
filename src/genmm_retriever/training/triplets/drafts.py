"""Drafts: the texts written for one direction of a pair, and which of them is kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from genmm_retriever.training.triplets.filters import REASONS, Fit, fault, text_key
from genmm_retriever.training.triplets.writing import Look


@dataclass
class Draft:
    """What was written for one direction of one pair.

    Attributes:
        reference: The picture that somebody has.
        target: The picture that is looked for.
        texts: As written.
        gains: How much better the texts that passed the checks fit the target, by text.
        faults: Why others did not pass; see `filters.REASONS`.
    """

    reference: Look
    target: Look
    texts: Sequence[str]
    gains: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """Why no text was kept: the furthest that one came."""
        return max(self.faults, key=REASONS.index, default="empty")

    def best(self, taken: Collection[str]) -> str | None:
        """The text that fits best, of those whose keys are not taken; None if none is left."""
        free = [text for text in self.gains if text_key(text) not in taken]
        if len(free) < len(self.gains):
            self.faults.append("duplicate")
        return max(free, key=self.gains.__getitem__, default=None)


def judge(drafts: Sequence[Draft], fit: Fit) -> None:
    """Check all texts of some drafts, in one pass of the model: `gains` and `faults` are set."""
    fair: list[tuple[Draft, str]] = []
    for draft in drafts:
        for text in draft.texts:
            wrong = fault(text, draft.reference.words, draft.target.words)
            if wrong is None:
                fair.append((draft, text))
            else:
                draft.faults.append(wrong)
    gains = fit.gains(
        [text for _, text in fair],
        [draft.reference.part for draft, _ in fair],
        [draft.target.part for draft, _ in fair],
    )
    for (draft, text), gain in zip(fair, gains, strict=True):
        if gain > 0:
            draft.gains[text] = gain
        else:
            draft.faults.append("unfit")
