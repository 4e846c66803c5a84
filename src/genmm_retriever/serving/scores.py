"""What people are shown of a hit's score."""

from __future__ import annotations

from ..schema import Hit


def shown_score(hit: Hit) -> tuple[float, str]:
    """The number to show for a hit, and what to say beside it, if anything.

    A fused score tells how rankings agree: shown alone it would pass for a probability.

    Examples:
        >>> from ..schema import Evidence, Item
        >>> hit = Hit(item=Item(id="7", text="A dog."), score=1.0, rank=1)
        >>> shown_score(hit)
        (1.0, '')
        >>> fused = Evidence(verification=0.02, parts={"fused": 1.0})
        >>> shown_score(hit.model_copy(update={"evidence": fused}))
        (0.02, 'fused 1.000')
    """
    if not hit.is_fused:
        return hit.score, ""
    if hit.evidence.verification is None:
        return hit.score, "fused"
    return hit.evidence.verification, f"fused {hit.score:.3f}"
