"""Where the items under each topic lie, in the space of the model's own vectors.

A search looks ahead to the topics that a query may mean. The topics of the model are the same in
every collection; what lies under them is not. The mean of a collection's own items under a topic
says better than the topic's own centre whether a query is likely to find something there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from genmm_retriever.corpus.store import IndexReader, IndexWriter
from genmm_retriever.models.base import DualEncoder

_PREFIX = "identifiers/topics/"
_AT_ONCE = 256
_LARGEST_SHARE = 1 / 8


def begins_with_topics(holder: IndexReader | IndexWriter) -> bool:
    """Whether an index's identifiers begin with the model's topics, not with clusters."""
    if holder.settings.identifiers != "structured":
        return False
    scheme = holder.json("identifiers")
    return scheme is not None and not scheme["state"].get("names", True)


def update_centres(writer: IndexWriter, model: Any, bar: Callable[[int, str], tqdm[Any]]) -> None:
    """Take up the items that came since the centres were last brought up to date.

    What is gone stays in the centres until it is more than an eighth of what they count; then
    they are made anew.

    Args:
        writer: Has identifiers, which begin with topics, for all of its live rows.
        model: Knows the topics, and gives vectors.
        bar: Makes a progress bar of a number of items and a name.
    """
    if not isinstance(model, DualEncoder):
        return
    live = writer.live_rows()
    kept = writer.arrays_under(_PREFIX)
    next_row, counted = map(int, kept.get("rows", (0, 0)))
    sums = torch.from_numpy(np.array(kept["sums"])) if kept else None
    if counted - int((live < next_row).sum()) > counted * _LARGEST_SHARE:
        next_row, counted, sums = 0, 0, None
    rows = live[live >= next_row].tolist()
    if not rows:
        return
    places = {name: place for place, name in enumerate(model.topic_names)}  # type: ignore[attr-defined]
    with bar(len(rows), "centres") as shown:
        for start in range(0, len(rows), _AT_ONCE):
            batch = rows[start : start + _AT_ONCE]
            vectors = _vectors(writer, model, batch)
            if sums is None:
                sums = torch.zeros(len(places), vectors.shape[1])
            for place, topic in _topics(writer, batch, places):
                sums[topic] += vectors[place]
            shown.update(len(batch))
    assert sums is not None
    state = np.array([rows[-1] + 1, counted + len(rows)])
    # In one step: a number of rows beside the sums of others would count some of them twice.
    writer.put_arrays({_PREFIX + "sums": sums.numpy(), _PREFIX + "rows": state})


def _topics(
    writer: IndexWriter, rows: Sequence[int], places: dict[str, int]
) -> Iterator[tuple[int, int]]:
    """Place of a row in `rows`, and a topic of its; each once."""
    order = {row: place for place, row in enumerate(rows)}
    met = set()
    for record in writer.identifiers(rows):
        topic = places.get(record.text.partition(",")[0].strip())
        if topic is not None:
            met.add((order[record.row], topic))
    yield from sorted(met)


def _vectors(writer: IndexWriter, model: DualEncoder, rows: Sequence[int]) -> Tensor:
    """Unit vectors of items, [n, d]: of pictures, and of texts by their first description."""
    items = writer.items(rows)
    pictures = [i for i, item in enumerate(items) if item.kind == "image"]
    texts = [i for i, item in enumerate(items) if item.kind != "image"]
    parts: list[tuple[list[int], Tensor]] = []
    if pictures:
        features = writer.features([rows[i] for i in pictures])
        assert features is not None
        parts.append((pictures, model.embed_images(torch.from_numpy(np.array(features)))))
    if texts:
        described = writer.descriptions([rows[i] for i in texts])
        parts.append((texts, model.embed_texts([some[0].text for some in described])))
    vectors = torch.zeros(len(rows), parts[0][1].shape[1])
    for places, found in parts:
        vectors[places] = found.cpu().float()
    return vectors


def read_centres(reader: IndexReader) -> Tensor | None:
    """Unit vectors of an index's centres, [topics, d]; zeros where a topic has no item.

    None if the index was built without.
    """
    kept = reader.arrays_under(_PREFIX)
    if not kept:
        return None
    return torch.nn.functional.normalize(torch.from_numpy(np.array(kept["sums"])), dim=1)
