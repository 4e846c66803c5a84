"""Regions of pictures and the preset."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genmm_retriever.errors import InputError
from genmm_retriever.training.prefix import GEMKR, grid_regions, picture_regions, region_features


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_grid_boxes_lie_inside_and_cover_the_picture(width: int, height: int) -> None:
    boxes = grid_regions(width, height)
    assert len(boxes) == 10
    assert all(0 <= a < c <= width and 0 <= b < d <= height for a, b, c, d in boxes)
    for scale in (boxes[:4], boxes[4:]):
        assert {a for a, *_ in scale} >= {0}
        assert max(c for *_, c, _ in scale) == width
        assert max(d for *_, d in scale) == height


def test_grid_cells_overlap_at_two_scales() -> None:
    boxes = grid_regions(300, 200)
    areas = [(c - a) * (d - b) for a, b, c, d in boxes]
    assert min(areas[:4]) > max(areas[4:])
    assert boxes[0][2] > boxes[1][0]
    assert boxes[4][2] > boxes[5][0]
    tall = grid_regions(200, 300)
    assert sorted((b, a, d, c) for a, b, c, d in boxes) == sorted(tall)


def test_detector_boxes_are_clipped_and_checked() -> None:
    picture = Image.new("RGB", (40, 30))
    boxes = [[-5.5, 2.2, 10.4, 99], [50, 0, 60, 10], [5, 5, 5, 9], [9, 9, 3, 12], [1, 1, 2, 2]]
    for answer in (boxes, np.array(boxes), torch.tensor(boxes)):
        found = picture_regions(picture, lambda _, answer=answer: answer)
        assert found == [(0, 2, 11, 30), (1, 1, 2, 2)]
    assert picture_regions(picture, lambda _: []) == []
    assert picture_regions(picture, lambda _: boxes, count=1) == [(0, 2, 11, 30)]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([[1, 2, 3]], r"shape \[1, 3\]"),
        ([1, 2, 3, 4], r"shape \[4\]"),
        ([[0, 0, 1, 1], [0, 0, float("nan"), 1]], "box 1 of the detector is not finite"),
        ([["a", 0, 1, 1]], "no array of numbers"),
        ([[0, 0, 1, 1], [0, 0]], "no array of numbers"),
        (None, r"not finite|shape"),
    ],
)
def test_unfit_boxes(answer: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        picture_regions(Image.new("RGB", (40, 30)), lambda _: answer)


def test_region_features_are_those_of_the_crops() -> None:
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
        for w, h in ((40, 30), (25, 50))
    ]

    def encode(crops: Any) -> torch.Tensor:
        return torch.tensor([[c.width, c.height, float(np.asarray(c).mean())] for c in crops])

    def detector(picture: Image.Image) -> Any:
        return [[0, 0, 8, 9], [3, 4, 10, 12]] if picture.width == 40 else []

    found = region_features(pictures, encode, detector=detector)
    assert found.shape == (2, 10, 3)
    assert found[0, 0, :2].tolist() == [8, 9]
    assert found[0, 1, 2].item() == pytest.approx(np.asarray(pictures[0])[4:12, 3:10].mean())
    assert not found[0, 2:].any()
    assert not found[1].any()
    assert bool(region_features(pictures, encode).all())
    with pytest.raises(InputError, match="no region was found in any of 1 pictures"):
        region_features(pictures[1:], encode, detector=detector)


def test_preset_is_the_published_code() -> None:
    rates = [GEMKR.rate_at(step) for step in range(GEMKR.steps + 1)]
    assert max(rates) == rates[199] == pytest.approx(6e-5)
    assert rates[-1] == pytest.approx(1e-5)
    assert rates[200 + (GEMKR.steps - 200) // 2] == pytest.approx(3.5e-5)
    config = GEMKR.lora_config()
    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 16, 0.05)
    assert set(config.target_modules) == {"q_proj", "v_proj"}
    assert (GEMKR.weight_decay, GEMKR.batch, GEMKR.blocks, GEMKR.regions) == (0.05, 12, 20, 10)
