"""A decoder layer of the Llama form over packed matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from genmm_retriever.models.packed.linear import PackedLinear


class PackedLayer(nn.Module):
    """What a decoder layer of the Llama form computes, in fewer and larger steps.

    Queries, keys and values are one product; the gate's activation, its product with what it
    gates and both residual sums are done as the multiplications before them write their output.

    Args:
        layer: Attention with `q_proj`, `k_proj`, `v_proj`, `o_proj` (and `q_norm`, `k_norm`, a
            norm over each head), a gated `mlp` with a SiLU, and a norm before each.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.index = int(attention.layer_idx)
        self.head_size = int(attention.head_dim)
        self.scaling = float(attention.scaling)
        self.heads = attention.q_proj.out_features // self.head_size
        self.shared = attention.k_proj.out_features // self.head_size
        self.before_attention = layer.input_layernorm
        self.before_mlp = layer.post_attention_layernorm
        self.query_norm = getattr(attention, "q_norm", None)
        self.key_norm = getattr(attention, "k_norm", None)
        self.attention_type = getattr(layer, "attention_type", "full_attention")
        self.mixed = PackedLinear([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = PackedLinear([attention.o_proj])
        self.gate, self.up = PackedLinear([mlp.gate_proj]), PackedLinear([mlp.up_proj])
        self.down = PackedLinear([mlp.down_proj])

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        past_key_values: Any = None,
        **_: Any,
    ) -> Tensor:
        """As the layer's own forward.

        Args:
            hidden_states: [n, T, H].
            attention_mask: What may be seen, [n, 1, T, L], added or bool; None for all before.
            position_embeddings: Cosines and sines of the positions, [n, T, size of a head].
            past_key_values: Keys and values to attend to; grown.
        """
        assert position_embeddings is not None
        rows, width, _size = hidden_states.shape
        residual = hidden_states.reshape(rows * width, -1)
        mixed = self.mixed(rms_norm(residual, self.before_attention))
        mixed = mixed.view(rows, width, -1, self.head_size)
        turned = self.heads + self.shared
        asking = rotated(self._normed(mixed[:, :, :turned]), *position_embeddings).transpose(1, 2)
        queries, keys = asking[:, : self.heads], asking[:, self.heads :]
        values = mixed[:, :, turned:].transpose(1, 2)
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, self.index)
        seen = scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=attention_mask,
            is_causal=attention_mask is None and width > 1,
            scale=self.scaling,
            enable_gqa=self.heads != self.shared,
        )
        seen = seen.transpose(1, 2).reshape(rows * width, -1)
        residual = self.out.plus(seen, residual)
        inner = rms_norm(residual, self.before_mlp)
        gated = self.up.times(inner, self.gate(inner, "swish"))
        return self.down.plus(gated, residual).view(rows, width, -1)

    def _normed(self, asking: Tensor) -> Tensor:
        if self.query_norm is None or self.key_norm is None:
            return asking
        queries = rms_norm(asking[:, :, : self.heads], self.query_norm)
        return torch.cat([queries, rms_norm(asking[:, :, self.heads :], self.key_norm)], dim=2)


def rms_norm(states: Tensor, norm: Any) -> Tensor:
    """States over their root mean square, times the norm's weight (arXiv 1910.07467)."""
    weight = norm.weight
    return torch.nn.functional.rms_norm(states, weight.shape, weight, norm.variance_epsilon)


def rotated(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864), halves paired, of [n, T, heads, size]."""
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return torch.addcmul(states * cosine.unsqueeze(2), turned, sine.unsqueeze(2))
