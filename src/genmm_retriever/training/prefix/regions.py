"""Regions of a picture: a grid at two scales, or the boxes of the user's detector."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genmm_retriever.errors import InputError

REGIONS = 10
"""Regions a picture, as in GeMKR."""

Box = tuple[int, int, int, int]
Detector = Callable[[Image.Image], Any]
"""From an RGB picture to boxes [n, 4] in pixels: left, top, right, bottom, the best first."""
Encoder = Callable[[Sequence[Image.Image]], Tensor]
"""From m pictures to their features, [m, d]."""

# Columns and rows along the longer and the shorter side, and the share of each that a cell takes.
_SCALES = ((2, 2, 2 / 3, 2 / 3), (3, 2, 0.4, 0.6))


def grid_regions(width: int, height: int, count: int = REGIONS) -> list[Box]:
    """Overlapping cells of a picture at two scales: 2 x 2, then 3 x 2 along its longer side.

    GeMKR takes its regions from a detector; this grid, for when there is none, is ours.

    Args:
        width: Of the picture, in pixels.
        height: Likewise.
        count: At most this many boxes; there are ten.

    Returns:
        Boxes (left, top, right, bottom) in pixels, the larger cells first.

    Examples:
        >>> grid_regions(300, 200, 2)
        [(0, 0, 200, 133), (100, 0, 300, 133)]
    """
    boxes = []
    for along, across, long_share, short_share in _SCALES:
        wide = width >= height
        columns, rows = (along, across) if wide else (across, along)
        shares = (long_share, short_share) if wide else (short_share, long_share)
        for top, bottom in _spans(height, rows, shares[1]):
            for left, right in _spans(width, columns, shares[0]):
                boxes.append((left, top, right, bottom))
    return boxes[:count]


def _spans(length: int, cells: int, share: float) -> list[tuple[int, int]]:
    """Evenly spread, overlapping stretches of a side; each at least one pixel."""
    size = max(1, round(length * share))
    starts = [round((length - size) * cell / (cells - 1)) for cell in range(cells)]
    return [(start, start + size) for start in starts]


def picture_regions(
    picture: Image.Image, detector: Detector | None = None, count: int = REGIONS
) -> list[Box]:
    """The regions of a picture, from the detector or else from the grid.

    Boxes are clipped to the picture, and those without a pixel of it are left out; so there may
    be fewer than `count`, or none.

    Raises:
        InputError: If the detector's answer is no [n, 4] of finite numbers.
    """
    if detector is None:
        return grid_regions(picture.width, picture.height, count)
    boxes = []
    for left, top, right, bottom in _checked(detector(picture)):
        box = (
            max(0, math.floor(left)),
            max(0, math.floor(top)),
            min(picture.width, math.ceil(right)),
            min(picture.height, math.ceil(bottom)),
        )
        if box[0] < box[2] and box[1] < box[3]:
            boxes.append(box)
    return boxes[:count]


def _checked(answer: Any) -> list[list[float]]:
    try:
        tensor = isinstance(answer, Tensor)
        boxes = np.asarray(answer.detach().float().cpu() if tensor else answer, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the detector's boxes are no array of numbers: {error}",
            "give [n, 4]: left, top, right, bottom in pixels",
        ) from error
    if boxes.size == 0:
        return []
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(
            f"the detector's boxes have shape {list(boxes.shape)}",
            "give [n, 4]: left, top, right, bottom in pixels",
        )
    if not np.isfinite(boxes).all():
        row = int(np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0])
        raise InputError(
            f"box {row} of the detector is not finite: {boxes[row].tolist()}",
            "leave such boxes out",
        )
    listed: list[list[float]] = boxes.tolist()
    return listed


def region_features(
    pictures: Sequence[Image.Image],
    encode: Encoder,
    *,
    detector: Detector | None = None,
    count: int = REGIONS,
) -> Tensor:
    """F: features of the regions of each picture, by the vision side that sees the picture.

    Args:
        pictures: n RGB pictures of any size.
        encode: The vision side, from m pictures to [m, d]: `PrefixTuning.encode` behind an image
            processor, or the mean over the cells of the builtin model's grid features.
        detector: Finds the regions; the grid does without.
        count: Regions a picture.

    Returns:
        [n, count, d]; rows beyond a picture's last region are zero, so that there a prompt is
        the learned one alone.

    Raises:
        InputError: See `picture_regions`; or if no picture has any region.
    """
    boxes = [picture_regions(picture, detector, count) for picture in pictures]
    crops = [picture.crop(box) for picture, own in zip(pictures, boxes, strict=True) for box in own]
    if not crops:
        raise InputError(
            f"no region was found in any of {len(pictures)} pictures",
            "leave the detector out to take regions from a grid",
        )
    found = encode(crops)
    features = found.new_zeros(len(pictures), count, found.shape[-1])
    rows = torch.tensor([row for row, own in enumerate(boxes) for _ in own], device=found.device)
    places = torch.tensor([i for own in boxes for i in range(len(own))], device=found.device)
    features[rows, places] = found
    return features
