"""A decoder's layers with their matrices laid out for the processor, for inference on a CPU.

What a forward pass of a small batch spends on a CPU is, for the greater part, not arithmetic: the
bfloat16 kernels bring every matrix into their own layout anew in each call, and many small steps
between them read and write memory. Here the matrices are brought into that layout once, those
that read the same input are one, sums are done by the multiplication that they follow, and what
else stands between is done by compiled loops, see `models.kernels`.
"""

from genmm_retriever.models.packed.body import PackedBody
from genmm_retriever.models.packed.linear import PackedHead

__all__ = ["PackedBody", "PackedHead"]
