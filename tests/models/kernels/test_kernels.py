"""Compiled loops against the formulas that they stand for, reckoned in float32."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from genmm_retriever.jit import as_f32, vectorised
from genmm_retriever.models import kernels
from genmm_retriever.models.base import log_normaliser
from genmm_retriever.models.kernels import Form, Visible
from genmm_retriever.models.kernels.numbers import exponential
from genmm_retriever.models.packed.steps import attended

LEAST = torch.finfo(torch.bfloat16).min
ROUNDED = {"rtol": 2**-8, "atol": 1e-6}
"""One rounding to bfloat16, whose significand has eight bits."""


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers in bfloat16."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).bfloat16()


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (3, 7), (5, 64), (40, 576)])
def test_norms_are_rounded_once(rows: int, size: int) -> None:
    states, weight = drawn(rows, size), drawn(size, seed=1).float()
    right = functional.rms_norm(states.float(), (size,), weight, 1e-5)
    torch.testing.assert_close(
        kernels.rms_norm(states, weight, 1e-5).float(), right, check_dtype=False, **ROUNDED
    )


@pytest.mark.parametrize("size", [2, 6, 64, 80])
@pytest.mark.parametrize("normed", [False, True])
def test_heads_are_split_normed_and_turned(size: int, normed: bool) -> None:
    rows, width, heads, shared = 2, 5, 4, 2
    mixed = drawn(rows, width, heads + 2 * shared, size)
    angles = torch.rand((rows, width, size), generator=torch.Generator().manual_seed(2)) * 6
    turns = (angles.cos().bfloat16(), angles.sin().bfloat16())
    norms = (drawn(size, seed=3).float(), drawn(size, seed=4).float()) if normed else None
    flat = mixed.view(rows * width, -1)
    form = Form(heads, shared, size, norms, 1e-6)
    found = kernels.split_heads(flat, turns, form)

    queries, keys, values = mixed.float().split([heads, shared, shared], dim=2)
    if norms is not None:
        queries = functional.rms_norm(queries, (size,), norms[0], 1e-6)
        keys = functional.rms_norm(keys, (size,), norms[1], 1e-6)
    for one, given_heads in zip(found, (queries, keys), strict=False):
        halves = given_heads.chunk(2, dim=-1)
        other = torch.cat([-halves[1], halves[0]], dim=-1)
        cosine, sine = (turn.float().unsqueeze(2) for turn in turns)
        right = (given_heads * cosine + other * sine).transpose(1, 2)
        torch.testing.assert_close(one.float(), right, rtol=2**-8, atol=1e-5)
    assert torch.equal(found[2].float(), values.transpose(1, 2))


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (3, 17), (20, 1536)])
def test_gates(rows: int, size: int) -> None:
    both = drawn(rows, 2 * size, scale=4)
    left, right = both.float().chunk(2, dim=1)
    torch.testing.assert_close(
        kernels.gate(both).float(), functional.silu(left) * right, check_dtype=False, **ROUNDED
    )


@vectorised
def _powers(given: int, made: int, size: int) -> None:
    """Exponentials, by the helper that the loops use."""
    source, target = as_f32(given, (size,)), as_f32(made, (size,))
    for i in range(size):
        target[i] = exponential(source[i])


def powers(values: Tensor) -> Tensor:
    """Exponentials of float32."""
    values, found = values.contiguous(), torch.empty_like(values)
    _powers(values.data_ptr(), found.data_ptr(), len(values))
    return found


def test_exponentials() -> None:
    values = torch.linspace(-87.3, 88.7, 1_000_001)
    right = values.double().exp()
    assert ((powers(values) / right) - 1).abs().max() < 1e-5
    least = powers(torch.linspace(-89, -87, 10_001))
    assert (least >= 0).all()
    assert (least.diff() >= 0).all()
    far = torch.tensor([-math.inf, -3e38, -200, 0, 89, 3e38, math.inf])
    assert powers(far).tolist() == [0, 0, 0, 1, math.inf, math.inf, math.inf]
    for size in (1, 3, 8, 9, 17):
        assert torch.isnan(powers(torch.full((size,), math.nan))).all()
        assert torch.isnan(powers(torch.full((size,), -math.nan))).all()


def test_heads_have_halves() -> None:
    with pytest.raises(ValueError, match="halves"):
        Form(2, 1, 7)


def test_gates_that_are_far_open_or_shut() -> None:
    both = torch.tensor([[-1e30, -200.0, -0.0, 0.0, 200.0, 1e30] + [2.0] * 6]).bfloat16()
    assert kernels.gate(both).tolist() == (functional.silu(both[:, :6]) * 2).tolist()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=70),
    st.sampled_from([1e-37, 1e-3, 1.0]),
)
def test_normalisers_of_any_logits(values: list[float], scale: float) -> None:
    logits = (torch.tensor([values, values[::-1]]) * scale).bfloat16()
    right = torch.logsumexp(logits.double(), dim=-1).float()
    torch.testing.assert_close(kernels.log_sum_exp(logits), right, rtol=1e-5, atol=1e-5)


def test_normalisers_of_a_vocabulary_and_of_what_may_not_be_written() -> None:
    logits = drawn(9, 49_280, scale=5)
    logits[3, 100:] = -torch.inf
    logits[4] = LEAST
    logits[4, 7] = 1
    right = torch.logsumexp(logits.double(), dim=-1).float()
    torch.testing.assert_close(kernels.log_sum_exp(logits), right, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(log_normaliser(logits[:, 3:]), right_of(logits[:, 3:]))


@pytest.mark.parametrize("threads", [1, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_tokens_that_may_not_be_written_count_for_nothing(
    dtype: torch.dtype, threads: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(kernels, "pays", lambda _elements: threads == 1)
    logits = drawn(5, 300).to(dtype)
    logits[0] = -torch.inf
    logits[1, :100] = -torch.inf
    logits[2, 100:] = -torch.inf
    logits[3] = -torch.inf
    logits[3, 200] = torch.tensor(-math.nan)
    found = log_normaliser(logits)
    assert found[0] == -torch.inf
    assert torch.isnan(found).tolist() == [False, False, False, True, False]
    torch.testing.assert_close(found[[1, 2, 4]], right_of(logits[[1, 2, 4]]))


def test_the_default_type_and_device_of_torch_do_not_matter() -> None:
    # transformers sets the type for all threads while it loads a model.
    logits, mask = drawn(50, 100), masks(3, 400, 2, 0)
    right = right_of(logits)
    torch.set_default_dtype(torch.float16)
    try:
        found = kernels.log_sum_exp(logits)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, right)
    with torch.device("meta"):
        assert Visible.of(mask.clone()) is not None
        assert Visible.before(7) is not None
        assert kernels.Scratch().take("any", 3, 4).device.type == "cpu"
        torch.testing.assert_close(kernels.log_sum_exp(logits), right)
    assert Visible.of(mask) is not None


def right_of(logits: Tensor) -> Tensor:
    """The normalisers by torch."""
    return torch.logsumexp(logits.float(), dim=-1)


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_normalisers_do_not_depend_on_threads(threads: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    logits = drawn(9, 20_000, scale=5)
    torch.testing.assert_close(log_normaliser(logits), right_of(logits), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("sign", [math.nan, -math.nan])
def test_what_is_no_number_is_never_hidden(sign: float) -> None:
    bad = torch.tensor(sign)
    logits = drawn(3, 100)
    logits[1, 50] = bad
    assert torch.isnan(kernels.log_sum_exp(logits)).tolist() == [False, True, False]
    states = drawn(3, 33)
    states[1, 5] = bad
    assert torch.isnan(kernels.rms_norm(states, torch.ones(33), 1e-5))[1].all()
    assert torch.isnan(kernels.gate(torch.cat([states, states], dim=1)))[1, 5]
    assert torch.isnan(kernels.gate(torch.cat([states, states], dim=1))).sum() == 1
    mixed = drawn(2, 4 * 8)
    mixed[0, 2 * 8 + 3] = bad  # in the key of the first token
    visible = Visible(torch.tensor([0, 1, 2]).int(), torch.tensor([0, 1]).int(), 2)
    found, _ = looked_up(mixed, unturned(2, 8), Form(2, 1, 8), None, visible, 1.0)
    assert torch.isnan(found).sum(dim=1).tolist() == [16, 0]


def unturned(width: int, size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of position 0."""
    return torch.ones(1, width, size).bfloat16(), torch.zeros(1, width, size).bfloat16()


def looked_up(
    mixed: Tensor,
    turns: tuple[Tensor, Tensor],
    form: Form,
    past: tuple[Tensor, Tensor] | None,
    visible: Visible,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """What is seen, and keys and values of all tokens."""
    length = len(mixed) + (0 if past is None else past[0].shape[2])
    grown = torch.full((2, 1, form.shared, length, form.size), math.nan, dtype=torch.bfloat16)
    out = torch.full((len(mixed), form.heads * form.size), math.nan, dtype=torch.bfloat16)
    return kernels.attend(mixed, turns, form, past, visible, scale, grown, out), grown


def masks(width: int, length: int, seen: int, seed: int) -> Tensor:
    """A mask under which each token sees so many keys, at least its own."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.full((1, 1, width, length), LEAST, dtype=torch.bfloat16)
    for row in range(width):
        mask[0, 0, row, torch.randperm(length, generator=draw)[:seen]] = 0
        mask[0, 0, row, length - width + row] = 0
    return mask


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(1, 40),
    before=st.integers(200, 500),
    seen=st.integers(1, 15),
    shared=st.integers(1, 3),
    group=st.integers(1, 3),
    size=st.sampled_from([2, 8, 20, 64]),
    normed=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_few_keys_are_looked_up(
    width: int,
    before: int,
    seen: int,
    shared: int,
    group: int,
    size: int,
    normed: bool,
    seed: int,
) -> None:
    heads = shared * group
    mask = masks(width, before + width, seen, seed)
    mixed = drawn(width, (heads + 2 * shared) * size, seed=seed)
    keys, values = drawn(2, 1, shared, before, size, seed=seed + 1)
    angles = torch.rand((1, width, size), generator=torch.Generator().manual_seed(seed)) * 6
    turns = (angles.cos().bfloat16(), angles.sin().bfloat16())
    norms = (drawn(size, seed=3).float(), drawn(size, seed=4).float()) if normed else None
    form = Form(heads, shared, size, norms, 1e-6)
    visible = Visible.of(mask)
    assert visible is not None
    found, grown = looked_up(mixed, turns, form, (keys, values), visible, 0.3)

    queries, new_keys, new_values = kernels.split_heads(mixed, turns, form)
    keys, values = torch.cat([keys, new_keys], dim=2), torch.cat([values, new_values], dim=2)
    assert torch.equal(grown, torch.stack([keys, values]))
    right = functional.scaled_dot_product_attention(
        queries.float(),
        keys.float().repeat_interleave(group, 1),
        values.float().repeat_interleave(group, 1),
        attn_mask=mask.float(),
        scale=0.3,
    )[0]
    found = found.view(width, heads, size).transpose(0, 1)
    # Queries are rounded there, not here.
    torch.testing.assert_close(found.float(), right, rtol=2**-6, atol=2e-2)


def test_a_first_pass_has_no_keys_before_it() -> None:
    form, width = Form(4, 2, 16), 7
    mixed = drawn(width, 8 * 16)
    visible = Visible.before(width)
    assert visible is not None
    found, grown = looked_up(mixed, unturned(width, 16), form, None, visible, 0.25)
    queries, keys, values = (
        one.float() for one in kernels.split_heads(mixed, unturned(width, 16), form)
    )
    right = functional.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, enable_gqa=True
    )
    right = right[0].transpose(0, 1).reshape(width, -1)
    torch.testing.assert_close(found.float(), right, rtol=2**-7, atol=1e-4)
    assert torch.equal(grown.float(), torch.stack([keys, values]))


def test_dense_masks_are_left_to_torch() -> None:
    assert Visible.before(200) is None
    assert Visible.of(masks(20, 200, 100, 0)) is None
    assert Visible.of(masks(3, 400, 2, 0)[:, :, :, :0]) is None


def test_masks_that_say_more_than_what_is_seen_are_left_to_torch() -> None:
    mask = masks(3, 400, 2, 0)
    assert Visible.of(mask) is not None
    assert Visible.of(mask.float()) is None
    assert Visible.of(mask == 0) is None
    assert Visible.of(mask.expand(2, -1, -1, -1)) is None
    farther = mask.clone()
    farther[0, 0, 1, 7] = -0.5
    assert Visible.of(farther) is None
    blind = mask.clone()
    blind[0, 0, 1] = LEAST
    assert Visible.of(blind) is None


def listed(visible: Visible) -> list[int]:
    """The keys of all tokens."""
    return visible.keys[: visible.count].tolist()


def test_a_mask_that_changes_is_looked_at_anew() -> None:
    mask = masks(3, 400, 2, 0)
    before = Visible.of(mask)
    hidden = torch.nonzero(mask[0, 0, 1] != 0).flatten()[0]
    mask[0, 0, 1, hidden] = 0
    after = Visible.of(mask)
    assert before is not None
    assert after is not None
    assert after.count == before.count + 1


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("width", [1, 5])
def test_masks_for_several_rows_or_sequences_are_left_to_torch(rows: int, width: int) -> None:
    mask = masks(width, 400, 2, 0)
    queries = drawn(rows, 4, 5, 8)
    keys, values = drawn(2, rows, 2, 400, 8, seed=1)
    found = attended(queries, keys, values, mask, 0.3)
    right = functional.scaled_dot_product_attention(
        queries.float(),
        keys.float(),
        values.float(),
        attn_mask=mask.float(),
        scale=0.3,
        enable_gqa=True,
    )
    right = right.transpose(1, 2).reshape(rows * 5, 4 * 8)
    torch.testing.assert_close(found.float(), right, rtol=2**-6, atol=1e-2)


def test_a_mask_is_looked_at_once_for_all_layers(monkeypatch: Any) -> None:
    looks: list[int] = []
    look = Visible._looked_up.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        Visible, "_looked_up", classmethod(lambda cls, mask: looks.append(1) or look(cls, mask))
    )
    one, other = masks(3, 400, 2, 0), masks(3, 400, 2, 1)
    first = Visible.of(one)
    assert Visible.of(one) is first
    assert len(looks) == 1
    second = Visible.of(other)
    assert second is not None
    assert first is not None
    assert listed(first) != listed(second)
    del one, other
    gc.collect()
    again = Visible.of(masks(3, 400, 2, 0))
    assert again is not None
    assert listed(again) == listed(first)


def test_one_thread_of_loops_against_many_of_torch(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert kernels.pays(1000)
    assert not kernels.pays(10_000_000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert kernels.pays(10_000_000)
