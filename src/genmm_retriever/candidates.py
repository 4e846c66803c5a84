"""Candidates of any retriever: what may be given to be reranked."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import ValidationError

from genmm_retriever.corpus.images import IMAGE_SUFFIXES
from genmm_retriever.corpus.references import image_reference, is_uri, local_path
from genmm_retriever.errors import InputError, first_problem
from genmm_retriever.open_pictures import is_open_picture
from genmm_retriever.schema import Evidence, Hit, Item

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

Candidate: TypeAlias = "Item | Hit | str | bytes | os.PathLike[str] | Image.Image"


@dataclass(eq=False)
class Given:
    """A candidate on its way: what came in, and what became known of its picture.

    Attributes:
        item: The item.
        evidence: What an earlier retriever knows of it.
        score: What an earlier retriever gave it, higher for better.
        features: Of its picture, of `MLLM.encode_images`.
        seen: What the model sees in its picture, in words.
        problem: Why its picture cannot be looked at.
        vector: By a contrastive encoder, [d].
    """

    item: Item
    evidence: Evidence
    score: float | None = None
    features: Tensor | None = None
    seen: str = ""
    problem: str | None = None
    vector: Tensor | None = None

    @property
    def words(self) -> str:
        """Its own text or caption, or what the model sees in the picture."""
        if self.item.kind == "text" and self.item.text:
            return self.item.text
        return self.evidence.caption or self.item.text or self.seen


def read_candidates(candidates: Iterable[Candidate | tuple[Candidate, float]]) -> list[Given]:
    """Candidates by the scores given, best first, those without one last and as they came.

    Raises:
        InputError: If one cannot be used; its place is named.
    """
    if isinstance(candidates, (str, bytes, os.PathLike, Item, Hit)) or is_open_picture(candidates):
        raise InputError("the candidates are a single one", "give a list of candidates")
    if isinstance(candidates, Mapping) or not isinstance(candidates, Iterable):
        raise InputError(f"the candidates are {shortened(candidates)}", "give a list of candidates")
    given = [_read_one(place, candidate) for place, candidate in enumerate(candidates)]
    return sorted(given, key=lambda one: math.inf if one.score is None else -one.score)


def _read_one(place: int, given: Candidate | tuple[Candidate, float]) -> Given:
    if not isinstance(given, tuple):
        return _unscored(place, given)
    if len(given) != 2:
        raise InputError(
            f"candidate {place} is a tuple of {len(given)}", "give it alone, or with its score"
        )
    return replace(_unscored(place, given[0]), score=_number(place, given[1]))


def _unscored(place: int, candidate: Candidate) -> Given:
    if isinstance(candidate, Hit):
        return Given(candidate.item, candidate.evidence, candidate.score)
    if isinstance(candidate, Item):
        return Given(candidate, Evidence())
    fields: dict[str, Any]
    if isinstance(candidate, bytes) or is_open_picture(candidate):
        fields = {"id": str(place), "image": candidate}
    elif isinstance(candidate, os.PathLike):
        fields = {"id": os.fspath(candidate), "image": image_reference(Path(candidate))}
    elif isinstance(candidate, str) and _names_picture(candidate):
        if _is_address(candidate):
            # Texts of strangers may be addresses: nothing is fetched unless somebody says so.
            raise InputError(
                f"candidate {place}, {candidate!r}, is the address of a picture",
                "say Item(id=..., image=...) to have it fetched, or Item(id=..., text=...)",
            )
        # A file's address stays as it is: as a path its slashes would be folded.
        image = candidate if is_uri(candidate) else image_reference(Path(candidate))
        fields = {"id": candidate, "image": image}
    elif isinstance(candidate, str):
        _check_text(place, candidate)
        fields = {"id": str(place), "text": candidate}
    else:
        raise InputError(
            f"candidate {place} is of type {type(candidate).__name__}",
            "give items, hits, paths of pictures, or texts",
        )
    try:
        return Given(Item(**fields), Evidence())
    except ValidationError as error:
        raise InputError(f"candidate {place} cannot be used: {first_problem(error)}") from error


def _number(place: int, score: object) -> float:
    try:
        value = float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        hint = "give a finite number"
        if isinstance(score, str):
            hint = "a tuple is a candidate and its score; an id and a text are an Item(id=, text=)"
        raise InputError(f"the score of candidate {place} is {score!r}", hint)
    return value


def _names_picture(candidate: str) -> bool:
    """Whether a `str` ends like a picture's file; a sentence may, if there is no such file."""
    name = urlsplit(candidate).path if _is_address(candidate) else candidate
    if PurePath(name).suffix.lower() not in IMAGE_SUFFIXES:
        return False
    return not any(map(str.isspace, candidate)) or os.path.isfile(candidate)  # noqa: PTH113


def _is_address(candidate: str) -> bool:
    return is_uri(candidate) and local_path(candidate) is None


def _check_text(place: int, text: str) -> None:
    """Refuse what names a file or folder and no picture: its letters would be judged.

    A word without a dot or a slash is a word, whatever lies in the present folder.
    """
    # Not by `Path.exists`, which raises where a text is too long for a name.
    if not {".", "/", os.sep} & set(text) or not os.path.exists(text):  # noqa: PTH110
        return
    folder = os.path.isdir(text)  # noqa: PTH112
    what = "a folder" if folder else "a file that is not called like a picture"
    raise InputError(
        f"candidate {place}, {text!r}, names {what}",
        "say Item(id=..., text=...) if it is a text, pathlib.Path(...) if it is a picture",
    )
