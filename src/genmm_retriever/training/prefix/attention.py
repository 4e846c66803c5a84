"""Gated dual-flow attention: a second flow over prompts beside a block's own (GeMKR)."""

from __future__ import annotations

import torch
from torch import Tensor


def prompt_flow(queries: Tensor, keys: Tensor, values: Tensor, gate: Tensor) -> Tensor:
    """The prompts' share of dual-flow attention, `g * softmax(Q K_P^T / sqrt d) V_P`.

    Args:
        queries: Of the block's own tokens, [n, heads, tokens, d].
        keys: Of the prompts, [n, heads, prompts, d].
        values: Of the prompts, [n, heads, prompts, d].
        gate: g, one number a head, [heads].

    Returns:
        [n, heads, tokens, d], in the queries' dtype.
    """
    scores = (queries @ keys.transpose(-1, -2)).float() * queries.shape[-1] ** -0.5
    weights = scores.softmax(dim=-1) * gate.float().view(-1, 1, 1)
    flow: Tensor = weights.to(values.dtype) @ values
    return flow.to(queries.dtype)


def dual_flow_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    prompt_keys: Tensor,
    prompt_values: Tensor,
    gate: Tensor,
) -> Tensor:
    """`[g * softmax(Q K_P^T / sqrt d) ; softmax(Q K_x^T / sqrt d)] [V_P ; V_x]`.

    The two softmaxes are separate, so the sum splits into the block's own attention and
    `prompt_flow`; with g = 0 nothing but the former is left.

    Args:
        queries: [n, heads, tokens, d].
        keys: K_x, [n, heads, tokens, d].
        values: V_x, [n, heads, tokens, d].
        prompt_keys: K_P, [n, heads, prompts, d].
        prompt_values: V_P, [n, heads, prompts, d].
        gate: g, one number a head, [heads].

    Returns:
        [n, heads, tokens, d].

    References:
        Long et al., "Generative Multi-Modal Knowledge Retrieval with Large Language Models",
        AAAI 2024 (arXiv 2401.08206).
    """
    own: Tensor = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    return own + prompt_flow(queries, prompt_keys, prompt_values, gate)


def split_heads(hidden: Tensor, heads: int) -> Tensor:
    """[n, tokens, width] -> [n, heads, tokens, width / heads]."""
    n, tokens, width = hidden.shape
    return hidden.reshape(n, tokens, heads, width // heads).transpose(1, 2)


def join_heads(hidden: Tensor) -> Tensor:
    """[n, heads, tokens, d] -> [n, tokens, heads * d]."""
    return hidden.transpose(1, 2).flatten(2)
