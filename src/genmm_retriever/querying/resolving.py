"""Questions about a picture made to stand alone: what "it" is gets its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from genmm_retriever.describing import clean_caption
from genmm_retriever.describing.prompts.queries import resolve_prompt
from genmm_retriever.models.base import Generator, ImagePart
from genmm_retriever.querying.adapters import Draft, QueryAdapter
from genmm_retriever.querying.forms import Resolved
from genmm_retriever.querying.guard import dropped_words, new_words, refers
from genmm_retriever.querying.writing import ask_for, is_builtin, looked_at
from genmm_retriever.schema import Query

MAX_NEW_WORDS = 6
_LEAST = 0.3
"""Probability of what is seen, at least, to be named by the builtin model."""
_POINTING = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(?:this|that|these|those)\s+"
        r"(?:animal|plant|thing|object|building|vehicle|bird|dog)\b",
        r"\b(?:it|this|they|these)\b",
        # Elsewhere it joins clauses: "the town that lies", "does it show that".
        r"(?:^|(?<=\bis )|(?<=\bwas )|(?<=\bare )|(?<=\bwere )|(?<=\bdoes )|(?<=\bdid )"
        r"|(?<=\bdo )|(?<=\bof )|(?<=\bin )|(?<=\bon )|(?<=\bat )|(?<=\bfor )|(?<=\babout )"
        r"|(?<=\bwith )|(?<=\blike )|(?<=\bfrom )|(?<=\bby )|(?<=\bto ))(?:that|those)\b",
    )
)
"""What points at a picture, the surest first."""


class ReferenceResolver(QueryAdapter):
    """With a picture, "when was it discovered?" becomes "when was the panda discovered?".

    The picture stays with the query unless `drop_image`. A rewriting that drops words of the
    question or adds more than six is not taken: it may have answered instead. The builtin model
    cannot write questions; there the name of what its classifier sees stands for a word that
    points at the picture, if it is sure enough.

    Args:
        model: Looks and writes.
        drop_image: Ask on in words alone.
        seed: Of further attempts where a form could not be filled.
    """

    name: ClassVar[str] = "resolve"

    def __init__(self, model: Generator, *, drop_image: bool = False, seed: int = 0) -> None:
        super().__init__(model)
        self.drop_image, self.seed = drop_image, seed

    def applies(self, query: Query) -> bool:
        """Whether there is a picture, and words that point at it."""
        return query.is_composed and refers(query.text or "")

    def drafts(self, queries: Sequence[Query]) -> list[Draft]:
        """A self-contained question for each query, or why there is none."""
        images = [_picture(self.model, query) for query in queries]
        if is_builtin(self.model):
            return [self._named(query, image) for query, image in zip(queries, images, strict=True)]
        asked = zip(queries, images, strict=True)
        prompts = [resolve_prompt(query.text or "", image) for query, image in asked]
        drafts = []
        for query, one in zip(
            queries, ask_for(self.model, prompts, Resolved, seed=self.seed), strict=True
        ):
            written = "" if one.value is None else clean_caption(one.value.question)
            note = one.problem if not written else _fault(query.text or "", written)
            new = None if not written or note else self._with(query, written)
            drafts.append(Draft(new, note, one.tokens, one.seconds))
        return drafts

    def _named(self, query: Query, image: ImagePart) -> Draft:
        model: Any = self.model
        assert image.features is not None
        [seen] = model.object_words(image.features.unsqueeze(0), least=_LEAST)
        if not seen:
            return Draft(None, "nothing in the picture is recognised for sure")
        name = seen[0][0]
        text = _replaced(query.text or "", f"the {name}")
        if text == query.text:
            return Draft(None, "no word of the question can be replaced")
        return Draft(self._with(query, text), f"{name} is seen with probability {seen[0][1]:.2f}")

    def _with(self, query: Query, text: str) -> Query:
        image = None if self.drop_image else query.image
        return query.model_copy(update={"text": text, "image": image})


def _replaced(question: str, name: str) -> str:
    """The question with a name for the word that points at the picture.

    Examples:
        >>> _replaced("Which river flows past the town that it stands in?", "the castle")
        'Which river flows past the town that the castle stands in?'
        >>> _replaced("What is that?", "the castle")
        'What is the castle?'
    """
    for pattern in _POINTING:
        replaced = pattern.sub(lambda _: name, question, count=1)
        if replaced != question:
            return replaced
    return question


def _picture(model: Generator, query: Query) -> ImagePart:
    image = looked_at(model, query)
    assert image is not None
    return image


def _fault(question: str, written: str) -> str | None:
    """Why a rewriting of a question is not taken."""
    lost, added = dropped_words(question, written), new_words(question, written)
    if lost:
        return f"the rewriting {written!r} dropped {', '.join(lost[:5])}"
    if len(added) > MAX_NEW_WORDS:
        return f"the rewriting {written!r} added more than a name"
    return None
