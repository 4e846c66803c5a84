"""The demonstration: real photographs, questions in words and one with a picture.

The photographs are those inside the scikit-image wheel; its drawings and test patterns
(chess boards, the colour wheel, the horse's outline, the logo, the phantom) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from ..errors import InputError, MissingExtraError, ModelError, StorageError
from ..schema import Hit, Item, Query

if TYPE_CHECKING:
    from ..retriever import GenerativeMMRetriever

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "microaneurysms.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)

SHOWN = 4


@dataclass(frozen=True)
class Question:
    """A question of the demonstration and the pictures that answer it."""

    query: Query
    label: str
    expected: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """A question with what the index answered."""

    question: Question
    hits: tuple[Hit, ...]

    @property
    def found_first(self) -> bool:
        """Whether the best hit is one of the expected pictures."""
        return bool(self.hits) and self.hits[0].item.id in self.question.expected

    def to_json(self) -> dict[str, Any]:
        """As `genmm demo --json` prints it."""
        return {
            "query": self.question.query.model_dump(mode="json"),
            "label": self.question.label,
            "expected": list(self.question.expected),
            "found_first": self.found_first,
            "hits": [hit.to_json() for hit in self.hits],
        }


_IN_WORDS = (
    ("a cup of coffee", ("coffee.png",)),
    ("a cat", ("chelsea.png",)),
    ("a motorcycle", ("motorcycle_left.png", "motorcycle_right.png")),
    ("a man with a camera on a tripod", ("camera.png",)),
    ("a rocket before its launch", ("rocket.jpg",)),
    ("an astronaut in an orange space suit", ("astronaut.png",)),
    ("old coins in rows", ("coins.png",)),
    ("a wall of bricks", ("brick.png",)),
)


def photographs() -> list[Item]:
    """The photographs inside the installed scikit-image, as items.

    Raises:
        MissingExtraError: Without scikit-image.
    """
    try:
        import skimage
    except ImportError as error:
        raise MissingExtraError("scikit-image", "builtin") from error
    folder = Path(str(skimage.__file__)).parent / "data"
    present = [name for name in PHOTOGRAPHS if (folder / name).is_file()]
    if not present:
        raise InputError(
            f"{folder} holds none of scikit-image's photographs",
            'reinstall it from its wheel: pip install --force-reinstall "scikit-image>=0.25"',
        )
    return [Item(id=name, image=str(folder / name)) for name in present]


def questions(items: Sequence[Item], folder: Path) -> list[Question]:
    """The questions in words, and one that is a picture: the cat's face, cut out and mirrored.

    Args:
        items: As `photographs` gives them.
        folder: Where the query picture is written.
    """
    asked = [Question(Query(text=text), text, expected) for text, expected in _IN_WORDS]
    cat = next((item.image for item in items if item.id == "chelsea.png"), None)
    if isinstance(cat, str):
        path = folder / "query.png"
        with Image.open(cat) as picture:
            width, height = picture.size
            face = picture.crop((width // 8, 0, width * 7 // 8, height))
            ImageOps.mirror(face).save(path)
        asked.append(
            Question(Query(image=str(path)), f"this picture: {path.name}", ("chelsea.png",))
        )
    return asked


def run_demo(folder: Path, *, model: str = "builtin", progress: bool = True) -> list[Answer]:
    """Index the photographs, ask the questions, draw the contact sheet `results.png`.

    Args:
        folder: Where the index, the query picture and the sheet go; made if absent.
        model: Model to use.
        progress: Show progress on stderr.

    Raises:
        StorageError: If the folder cannot be written.
    """
    from .contact_sheet import draw

    items = photographs()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        asked = questions(items, folder)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error.strerror or error}", "choose another --output"
        ) from error
    with _index(items, folder / "index", model, progress) as retriever:
        answers = [Answer(q, tuple(retriever.retrieve(q.query, k=SHOWN))) for q in asked]
    try:
        draw([(a.question.label, a.question.query, a.hits) for a in answers]).save(
            folder / "results.png"
        )
    except OSError as error:
        raise StorageError(
            f"{folder / 'results.png'} cannot be written: {error.strerror or error}",
            "free some space or choose another --output",
        ) from error
    return answers


def _index(items: Sequence[Item], path: Path, model: str, progress: bool) -> GenerativeMMRetriever:
    from ..retriever import GenerativeMMRetriever

    try:
        return GenerativeMMRetriever.from_images(items, path=path, model=model, progress=progress)
    except ModelError:
        raise
    except InputError:
        # An older demonstration's index, of another model or version; it is ours to replace.
        return GenerativeMMRetriever.from_images(
            items, path=path, model=model, progress=progress, overwrite=True
        )
