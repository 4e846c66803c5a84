"""A decoder layer of the Llama form over packed matrices."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from genmm_retriever.models import kernels
from genmm_retriever.models.packed.linear import PackedLinear
from genmm_retriever.models.packed.steps import Attention, RMSNorm, gated


class PackedLayer(nn.Module):
    """What a decoder layer of the Llama form computes, in fewer and larger steps.

    Queries, keys and values are one product, and so are the gate and what it gates; both residual
    sums are done as the multiplications before them write their output.

    Args:
        layer: Attention with `q_proj`, `k_proj`, `v_proj`, `o_proj` (and `q_norm`, `k_norm`, a
            norm over each head), a gated `mlp` with a SiLU, and a norm before each.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.attention_type = getattr(layer, "attention_type", "full_attention")
        self.before_attention = RMSNorm(layer.input_layernorm)
        self.before_mlp = RMSNorm(layer.post_attention_layernorm)
        self.attention = Attention(attention)
        self.widest = 2 * mlp.gate_proj.out_features
        self.mixed = PackedLinear([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = PackedLinear([attention.o_proj])
        self.both = PackedLinear([mlp.gate_proj, mlp.up_proj])
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
        rows, width, size = hidden_states.shape
        residual = hidden_states.reshape(rows * width, size)
        if not residual.is_contiguous():
            residual = residual.contiguous()
        loops = kernels.pays(rows * width * self.widest)
        mixed = self.mixed(self.before_attention(residual, loops))
        seen = self.attention(
            mixed, rows, position_embeddings, attention_mask, past_key_values, loops
        )
        residual = self.out.plus(seen, residual)
        both = self.both(self.before_mlp(residual, loops))
        return self.down.plus(gated(both, loops), residual).view(rows, width, size)
