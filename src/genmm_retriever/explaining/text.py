"""How an answer came about, as text for people."""

from __future__ import annotations

from collections.abc import Iterable

from genmm_retriever.schema import Hit


def as_text(hits: Iterable[Hit]) -> str:
    """One paragraph a hit: what it is known as, what was written, what the check said."""
    lines = []
    for hit in hits:
        evidence = hit.evidence
        lines.append(f"{hit.rank}. {hit.item.id}  score {hit.score:.3f}")
        if evidence.caption:
            lines.append(f"   known as   {evidence.caption}")
        for written in evidence.identifiers:
            rest = "" if written.written is None else f", of {written.text!r}"
            lines.append(
                f"   written    {written.written or written.text!r}{rest}  "
                f"log p {written.logprob:.2f}, debiased {written.score:.2f}"
            )
        for clue in evidence.clues:
            where = ", ".join(f"{start}-{end}" for start, end in clue.spans)
            source = "seen" if clue.seen else "in common" if clue.given else "written"
            lines.append(
                f"   {source:<10} {clue.text!r}  "
                f"log p {clue.logprob:.2f}, adds {clue.score:.1f}" + (where and f", at {where}")
            )
        if evidence.filled:
            lines.append("   filled     nothing that was written led here")
        lines += [f"   {name:<10} {value:.3f}" for name, value in evidence.parts.items()]
    return "\n".join(lines)
