"""Notes asked of a model: what they can be about, and which answers may stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genmm_retriever.corpus.store import NOTES_VERSION, NoteKind, NoteVersion
from genmm_retriever.describing.guarding import ANSWERS, NOTHING, checked_note
from genmm_retriever.describing.prompts import style_of
from genmm_retriever.describing.prompts.notes import MOST_REFINED_WORDS, note_prompt, sees
from genmm_retriever.models.base import Generator, ImagePart
from genmm_retriever.schema import Item

# Answers and temperature. A greedy answer, and for what is broken of these two samples; the
# builtin model gives its best beams, as its greedy caption is a description of its items
# already, and its samples tell of things that are not there.
_ATTEMPTS = ((1, 0.0), (2, 0.7))
_BUILTIN_ATTEMPTS = ((4, 0.0),)
_TOKENS: dict[NoteKind, int] = {"dense": 180, "refined": 420, "knowledge": 110}
_BUILTIN_TOKENS = 32


@dataclass(frozen=True)
class Subject:
    """An item that a note is about.

    Args:
        item: The item.
        image: Its picture, if the model is to see it.
        known: Other words that the item is known by; a note that only repeats them is dropped.
    """

    item: Item
    image: ImagePart | None = None
    known: tuple[str, ...] = ()


def version_of(model: Generator) -> NoteVersion:
    """What notes that a model writes now are written with."""
    return NoteVersion(NOTES_VERSION, model.name, str(getattr(model, "fingerprint", "")))


def write_notes(
    model: Generator, kind: NoteKind, subjects: Sequence[Subject], *, seed: int = 0
) -> list[tuple[str, str]]:
    """Ask a model for notes; nothing is kept.

    What comes back empty, broken or without the facts of the text is asked for once more, by
    sampling.

    Args:
        model: Writes them.
        kind: Of the notes.
        subjects: Items that the kind can be written about.
        seed: Of the sampling.

    Returns:
        For each the note and an empty reason, or an empty note and the reason.

    Raises:
        CapabilityError: If the model cannot write the kind.
    """
    prompts = [
        note_prompt(kind, model, image=one.image, text=one.item.text, title=one.item.title)
        for one in subjects
    ]
    found = [("", "")] * len(subjects)
    open_ = list(range(len(subjects)))
    builtin = style_of(model) == "builtin"
    for number, temperature in _BUILTIN_ATTEMPTS if builtin else _ATTEMPTS:
        if not open_:
            break
        answers = model.generate(
            [prompts[i] for i in open_],
            max_new_tokens=_BUILTIN_TOKENS if builtin else _TOKENS[kind],
            num_return_sequences=number,
            temperature=temperature,
            seed=seed,
        )
        for i, texts in zip(open_, answers, strict=True):
            found[i] = _first_usable(kind, texts, subjects[i])
        open_ = [i for i in open_ if not found[i][0] and found[i][1] not in ANSWERS]
    return found


def _first_usable(kind: NoteKind, texts: Sequence[str], subject: Subject) -> tuple[str, str]:
    note, reason = "", "it is empty"
    for text in texts:
        note, reason = checked_note(
            kind, text, original=subject.item.text or "", known=subject.known
        )
        if note or reason == NOTHING:
            break
    return note, reason


def applies(kind: NoteKind, item: Item, model: object) -> bool:
    """Whether an item has what a kind of notes is made of, for such a model."""
    looked_at = item.kind == "image" and sees(model)
    words = bool(item.text and item.text.strip())
    if kind == "dense":
        return looked_at
    if kind == "refined":
        return looked_at and words and len((item.text or "").split()) <= MOST_REFINED_WORDS
    return looked_at or words
