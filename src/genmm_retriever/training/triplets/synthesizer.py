"""`TripletSynthesizer`: triplets for composed retrieval out of nothing but an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genmm_retriever.corpus.store import IndexReader
from genmm_retriever.errors import InputError
from genmm_retriever.models.base import MLLM
from genmm_retriever.training.triplets.book import Triplet
from genmm_retriever.training.triplets.drafts import Draft, judge
from genmm_retriever.training.triplets.filters import Fit, text_key
from genmm_retriever.training.triplets.gallery import Gallery
from genmm_retriever.training.triplets.mining import ImagePair, mine_pairs
from genmm_retriever.training.triplets.writing import Look, Writer, writer_for


@dataclass(frozen=True)
class Outcome:
    """What became of one pair: a triplet, or the reason why it is dropped."""

    pair: ImagePair
    triplet: Triplet | None = None
    reason: str | None = None


class TripletSynthesizer:
    """Finds pairs of pictures in an index and writes what leads between them, both ways (MTST).

    Pairs are of one group and look alike without being the same. An instructed model is shown
    both pictures; for the builtin model, which cannot compare two in words, texts are made by
    rule from what their descriptions say differently. A text is kept only if it fits the target
    better than the reference and says what the reference's descriptions do not.

    Args:
        reader: The open index; stays the caller's.
        model: Writes and judges; the index's own or another that takes pictures.
        category: Field of the metadata whose values are the groups; None for the topics of the
            structured identifiers and the object seen first.
        per_item: Pairs that a picture is the reference of, at most.
        seed: Of all choices.

    Raises:
        InputError: If `per_item` is below 1, or the index is one of clues.
        CapabilityError: If the model takes no pictures.

    References:
        MTST in "Composed image retrieval", arXiv 2504.05316.
    """

    def __init__(
        self,
        reader: IndexReader,
        model: MLLM,
        *,
        category: str | None = None,
        per_item: int = 1,
        seed: int = 0,
    ) -> None:
        if per_item < 1:
            raise InputError(f"per_item is {per_item}", "give at least 1")
        if reader.settings.identifiers == "clue":
            raise InputError(
                f"{str(reader.path)!r} is an index of clues, on which no triplets are trained",
                "build it with --identifiers structured",
            )
        self.category, self.per_item, self.seed = category, per_item, seed
        self.writer: Writer = writer_for(model, seed)
        self.gallery = Gallery(reader, model)
        self.fit = Fit(model)

    @property
    def by_rule(self) -> bool:
        """Whether texts are made by rule."""
        return self.writer.version.startswith("rule")

    def pairs(self) -> list[ImagePair]:
        """Pairs to be written for, in an order of which every beginning is balanced.

        Raises:
            InputError: If there is no group of two pictures that look alike; see
                `Gallery.groups`.
        """
        rows, vectors = self.gallery.vectors()
        groups = self.gallery.groups(self.category) if len(rows) > 1 else {}
        pairs = mine_pairs(rows, vectors, groups, per_item=self.per_item, seed=self.seed)
        if not pairs:
            raise InputError(
                f"no two pictures of {str(self.gallery.reader.path)!r} are of one group and "
                f"different ({len(rows)} pictures, {len(groups)} with a group)",
                "add pictures, or name a field of the metadata that they share: --category FIELD",
            )
        return pairs

    def ids(self, pairs: Sequence[ImagePair]) -> list[tuple[str, str]]:
        """The ids of the references and targets of pairs."""
        rows = sorted({row for pair in pairs for row in (pair.reference, pair.target)})
        named = {
            row: item.id for row, item in zip(rows, self.gallery.reader.items(rows), strict=True)
        }
        return [(named[pair.reference], named[pair.target]) for pair in pairs]

    def write(self, pairs: Sequence[ImagePair], taken: set[str] | None = None) -> list[Outcome]:
        """Write for pairs, check what was written, and keep the best.

        Args:
            pairs: Some pairs.
            taken: Keys (`text_key`) of texts that must not be written again; those of the new
                triplets are added.

        Returns:
            One outcome a pair, in their order.
        """
        taken = set() if taken is None else taken
        drafts = self._drafts(pairs)
        judge([one for both in drafts.values() for one in both], self.fit)
        outcomes = []
        for place, (pair, ids) in enumerate(zip(pairs, self.ids(pairs), strict=True)):
            if place in drafts:
                outcomes.append(self._outcome(pair, ids, *drafts[place], taken))
            else:
                outcomes.append(Outcome(pair, reason="unreadable"))
        return outcomes

    def _look(self, row: int) -> Look | None:
        part = self.gallery.part(row)
        return None if part is None else Look(part, self.gallery.words(row))

    def _drafts(self, pairs: Sequence[ImagePair]) -> dict[int, tuple[Draft, Draft]]:
        """What is written for both directions, by place, of pairs whose pictures can be seen."""
        looks = {row: self._look(row) for pair in pairs for row in (pair.reference, pair.target)}
        seen: list[tuple[int, Look, Look]] = []
        for place, pair in enumerate(pairs):
            reference, target = looks[pair.reference], looks[pair.target]
            if reference is not None and target is not None:
                seen.append((place, reference, target))
        if not seen:
            return {}
        both = [way for _, a, b in seen for way in ((a, b), (b, a))]
        named = self.ids([pairs[place] for place, _, _ in seen])
        names = [f"{a}>{b}" for here, there in named for a, b in ((here, there), (there, here))]
        texts = self.writer.write(both, names)
        drafts = [Draft(a, b, found) for (a, b), found in zip(both, texts, strict=True)]
        return {place: (drafts[2 * i], drafts[2 * i + 1]) for i, (place, _, _) in enumerate(seen)}

    def _outcome(
        self,
        pair: ImagePair,
        ids: tuple[str, str],
        forward: Draft,
        reverse: Draft,
        taken: set[str],
    ) -> Outcome:
        text = forward.best(taken)
        if text is None:
            return Outcome(pair, reason=forward.reason)
        taken.add(text_key(text))
        back = reverse.best(taken)
        scores = {"fit": forward.gains[text], "similarity": pair.similarity}
        if back is not None:
            taken.add(text_key(back))
            scores["reverse_fit"] = reverse.gains[back]
        rounded = {name: round(value, 4) for name, value in scores.items()}
        name, version = self.gallery.model.name, self.writer.version
        return Outcome(pair, Triplet(*ids, text, back, rounded, name, version))
