"""Compiled loops: where they are kept, and what is said where numba is missing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from genmm_retriever import jit
from genmm_retriever.constraints.clues import making

WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
from genmm_retriever.constraints.clues import ClueIndex
from genmm_retriever.errors import MissingExtraError
try:
    ClueIndex.build([1], [0, 1], [0], vocab_size=2)
except MissingExtraError as error:
    print(error)
"""


NORMALISED = """
import sys
sys.modules["numba"] = None
import torch
from genmm_retriever.models.base import log_normaliser
logits = torch.randn(5, 90).bfloat16()
print(torch.allclose(log_normaliser(logits), logits.float().logsumexp(-1), atol=1e-4))
"""


def test_without_numba_logits_are_normalised_all_the_same():
    done = subprocess.run(
        [sys.executable, "-c", NORMALISED], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


def test_a_full_disk_keeps_no_loop_and_stops_none(monkeypatch):
    tries = []

    def save_overload(*given):
        tries.append(given)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jit.numba.core.caching.FunctionCache, "save_overload", save_overload)
    triple = jit.kernel(lambda value: value * 3)
    assert triple(14) == 42
    assert tries


def test_numba_is_asked_for_only_when_it_is_needed():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True, check=True
    )
    assert "'numba'" in done.stdout
    assert "genmm-retriever[models]" in done.stdout


def test_where_nothing_can_be_kept_loops_are_compiled_all_the_same(monkeypatch):
    compile_now = jit.numba.njit

    def njit(*functions, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return compile_now(*functions, **options)

    monkeypatch.setattr(jit.numba, "njit", njit)
    double = jit.kernel(lambda value: value * 2)
    assert double(21) == 42


def test_kept_loops_are_named_by_all_their_sources():
    name = making.popcount.py_func.__qualname__
    assert name.startswith("popcount_")
    assert making.alive_rows.py_func.__qualname__.endswith(name.removeprefix("popcount"))


@pytest.mark.parametrize("value", [0, 1, 2**64 - 1, 0x8000000000000001, 0x5555555555555555])
def test_bits_are_counted(value):
    with np.errstate(over="ignore"):  # numpy's scalars complain of what a word does
        assert making.popcount.py_func(np.uint64(value)) == value.bit_count()
