"""Loops over bfloat16 tensors on a CPU, compiled by numba.

What stands between the matrix products of a small forward pass: torch does it in several steps
each, some of them not vectorised for bfloat16, and at the widths of a search those steps take as
long as the products do. Each loop reads its input once, reckons in float32 and rounds once.

The loops are compiled at their first call and kept on disk. They use one thread; `pays` says when
that is still faster than torch with all of its threads.
"""

from genmm_retriever.models.kernels.attention import attend
from genmm_retriever.models.kernels.heads import Form, split_heads
from genmm_retriever.models.kernels.layers import gate, rms_norm
from genmm_retriever.models.kernels.scratch import Scratch
from genmm_retriever.models.kernels.visible import Visible
from genmm_retriever.models.kernels.vocabulary import log_sum_exp
from genmm_retriever.models.kernels.worth import pays

__all__ = [
    "Form",
    "Scratch",
    "Visible",
    "attend",
    "gate",
    "log_sum_exp",
    "pays",
    "rms_norm",
    "split_heads",
]
