"""Composed queries over pictures of single garments: the same colour, another garment.

The rule. A picture's colour is the name that most pixels of its middle have. It counts only if it
is clear: a share of `CLEAR` of those pixels, and at most `SECOND` of any other name; all other
pictures are left out of queries and index alike. A query is a picture of a garment and "the same
colour, but as a skirt"; every picture of the split with that label and that colour is relevant.

Queries of the split "train", which are for training, are worded in other ways than the others.

The checks. The text alone is ambiguous: the label comes in at least two other colours. The picture
alone is too: its colour is found on at least two other labels.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.corpora.photos import Made, Record
from genmm_retriever.corpus.images import open_image
from genmm_retriever.corpus.lines import iter_jsonl, line_error, record_id

MIDDLE = 0.4
"""Share of width and of height that the middle of a picture takes."""
CLEAR = 0.65
SECOND = 0.2
LARGEST = 12
"""Most relevant pictures of a query; with more, any picture of the garment would do."""
NAMES = (
    "black", "white", "gray", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown",
    "beige", "",
)  # fmt: skip
_PLURAL = frozenset(("pants", "shorts", "shoes"))
_NOUNS = {"outwear": "jacket", "longsleeve": "long-sleeved shirt"}
_PHRASINGS = (
    "the same colour, but as {a}",
    "{a} in the same colour",
    "{a} of this colour",
    "not this, but {a} in that colour",
    "same colour, {a} instead",
    "{a} in a matching colour",
)
_TO_TRAIN_ON = (
    "keep the color, make it {a}",
    "as {a}, colour unchanged",
    "turn this into {a}, coloured as it is",
    "show me {a} that has this shade",
    "swap it for {a} with the same color",
    "{a} whose colour matches this one",
    "is there {a} like this one, in its colour?",
    "{a}, same tone",
)
"""Other wordings than those of the test."""


@dataclass(frozen=True)
class Garment:
    """A picture of one garment.

    Attributes:
        id: Of the item.
        image: Its file.
        label: What it is.
        split: Of the collection.
    """

    id: str
    image: Path
    label: str
    split: str


def read_garments(path: Path) -> list[Garment]:
    """The lines `{"id", "image", "label", "split"}` of a JSONL file.

    Raises:
        SourceError: If the file cannot be read or a line lacks one of them.
    """
    found: list[Garment] = []
    for number, line in iter_jsonl(path):
        values = [line.get(name) for name in ("image", "label", "split")]
        if not all(isinstance(value, str) for value in values):
            raise line_error(path, number, "it has no image, label and split")
        image, label, split = map(str, values)
        found.append(Garment(record_id(line, path, number), path.parent / image, label, split))
    return found


def garment_queries(
    garments: Sequence[Garment],
    *,
    split: str = "test",
    number: int | None = 300,
    seed: int = 0,
    colour: Callable[[Path], str | None] | None = None,
) -> Made:
    """Composed queries over the pictures of one split.

    Args:
        garments: Pictures of all splits.
        split: Whose pictures are asked for, and ask.
        number: Queries wanted; None for all that the rule gives.
        seed: Of the order and the phrasings.
        colour: Names a picture's colour, or gives None if it is not clear; from its pixels by
            default.

    Returns:
        Query lines with the id of the reference, and in `items` the source lines to index: the
        pictures with a clear colour. `dropped` counts pictures without one, and pairs of a picture
        and a label that fail a check.
    """
    made, draw = Made(), random.Random(seed)
    name = colour or colour_of_file
    by_colour: dict[tuple[str, str], list[Garment]] = {}
    clear: list[tuple[Garment, str]] = []
    for garment in (one for one in garments if one.split == split):
        found = name(garment.image)
        if found is None:
            made.dropped["no clear colour"] += 1
            continue
        clear.append((garment, found))
        by_colour.setdefault((garment.label, found), []).append(garment)
        item = {"id": garment.id, "image": str(garment.image)}
        made.items.append(item)
        made.sources.append({**item, "captions": [_named(garment.label)]})
    labels = sorted({label for label, _ in by_colour})
    asked = [(*one, label) for one in clear for label in labels if label != one[0].label]
    draw.shuffle(asked)
    for garment, shade, label in asked:
        why = _fault(by_colour, label, shade)
        if why is None and number is not None and len(made.records) == number:
            why = "more than were asked for"
        if why is not None:
            made.dropped[why] += 1
            continue
        text = _text(label, draw, _TO_TRAIN_ON if split == "train" else _PHRASINGS)
        relevant = [one.id for one in by_colour[label, shade]]
        made.records.append(_record(len(made.records), garment, text, relevant))
    return made


def _fault(
    by_colour: Mapping[tuple[str, str], Sequence[Garment]], label: str, shade: str
) -> str | None:
    """The first check that a label in a colour fails, or None."""
    relevant = by_colour.get((label, shade), ())
    if not relevant:
        return "no such garment in that colour"
    if len(relevant) > LARGEST:
        return "too many are relevant"
    if sum(one == label for one, _ in by_colour) < 3:
        return "the text alone is enough"
    if sum(one == shade for _, one in by_colour) < 3:
        return "the picture alone is enough"
    return None


def _record(number: int, garment: Garment, text: str, relevant: list[str]) -> Record:
    return {
        "id": f"garment-{number:04}",
        "text": text,
        "image": str(garment.image),
        "relevant": relevant,
        "reference": garment.id,
    }


def _text(label: str, draw: random.Random, phrasings: Sequence[str]) -> str:
    return draw.choice(phrasings).format(a=_named(label))


def _named(label: str) -> str:
    noun = _NOUNS.get(label, label)
    return noun if noun in _PLURAL else f"a {noun}"


def colour_of_file(path: Path) -> str | None:
    """The clear colour of a picture's middle, or None."""
    return clear_colour(open_image(path))


def clear_colour(picture: Image.Image) -> str | None:
    """The name that most pixels of a picture's middle have, if it is clear.

    Examples:
        >>> clear_colour(Image.new("RGB", (40, 40), (30, 60, 200)))
        'blue'
    """
    small = picture.convert("RGB").resize((100, 100), Image.Resampling.BOX)
    edge = round(100 * (1 - MIDDLE) / 2)
    middle = small.crop((edge, edge, 100 - edge, 100 - edge)).convert("HSV")
    counts = Counter(colour_names(np.asarray(middle).reshape(-1, 3)).tolist()).most_common(2)
    total = middle.width * middle.height
    if counts[0][1] < CLEAR * total or (len(counts) > 1 and counts[1][1] > SECOND * total):
        return None
    return NAMES[counts[0][0]] or None


def colour_names(pixels: NDArray[Any]) -> NDArray[np.int64]:
    """Places in `NAMES` of pixels in hue, saturation and value of 0 to 255 each, [n, 3] -> [n].

    The last name is empty: such pixels have no colour that people would agree in.
    """
    hue = pixels[:, 0].astype(np.float32) * (360 / 255)
    saturation, value = pixels[:, 1] / 255, pixels[:, 2] / 255
    warm, dull = (hue < 45) | (hue >= 345), saturation < 0.4
    rules = [
        ("black", value < 0.22),
        ("white", (saturation < 0.12) & (value > 0.75)),
        ("gray", saturation < 0.12),
        # Warm light gives such a tinge to white and gray, so it tells nothing.
        ("", saturation < 0.2),
        ("beige", dull & (hue >= 15) & (hue < 68) & (value > 0.6)),
        ("brown", warm & (hue < 45) & (hue >= 10) & (value < 0.65)),
        ("", dull & warm & (value < 0.6)),
        ("pink", ((hue >= 320) | (hue < 10)) & (saturation < 0.5)),
        ("red", (hue < 15) | (hue >= 345)),
        ("orange", hue < 40),
        ("yellow", hue < 68),
        ("green", hue < 165),
        ("blue", hue < 250),
        ("purple", (hue < 300) | (value < 0.6)),
        ("pink", hue < 345),
    ]
    found = np.full(len(pixels), -1, dtype=np.int64)
    for name, holds in rules:
        found[(found < 0) & holds] = NAMES.index(name)
    return found
