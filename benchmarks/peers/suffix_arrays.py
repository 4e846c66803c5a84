"""Next-token counts by other suffix arrays: tokengrams and infini-gram, on disk."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Skipped

SEPARATOR = 2**16 - 1
"""Between passages, where both expect the largest 16-bit id."""
_INFINI_OVERLAP = 100_000
_INFINI_END = 2**16 - 2
"""What infini-gram reports in place of a separator; no token of the text."""


def with_separators(tokens: NDArray[np.uint32], offsets: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Passages end to end, each behind a separator, and one more at the very end.

    Without the last, infini-gram takes the text's final token to be followed by nothing else.

    Raises:
        Skipped: If the token ids do not fit into 16 bits.
    """
    if len(tokens) and int(tokens.max()) >= _INFINI_END:
        raise Skipped("a token id does not fit into 16 bits beside two marks")
    return np.insert(tokens.astype(np.uint16), offsets, SEPARATOR)


class Tokengrams:
    """`tokengrams.MemmapIndex` (EleutherAI), the build of its README.

    Raises:
        ImportError: If it is not installed.
    """

    def __init__(self, stream: NDArray[np.uint16], folder: Path) -> None:
        from tokengrams import MemmapIndex  # type: ignore[import-untyped,unused-ignore]

        folder.mkdir(parents=True, exist_ok=True)
        text, table = folder / "tokens.bin", folder / "tokens.idx"
        stream.tofile(text)
        table.unlink(missing_ok=True)
        self._index = MemmapIndex.build(str(text), str(table), vocab=2**16)
        self.nbytes = text.stat().st_size + table.stat().st_size

    def ask(self, query: list[int]) -> Any:
        """The call that is timed: counts of all 65,536 next tokens."""
        return self._index.count_next(query)

    def counts(self, query: list[int]) -> dict[int, int]:
        """Next tokens with their counts, separators left out."""
        given = self.ask(query)
        return {token: count for token, count in enumerate(given) if count and token != SEPARATOR}


class InfiniGram:
    """`infini_gram.engine.InfiniGramEngine`, index format 4, built by the package's own program.

    The package's indexer begins from JSON and a tokenizer that it fetches; its second half, the
    suffix array, is a program beside it that is run here on token ids directly.

    Args:
        stream: Passages behind separators.
        folder: Where the index is put.
        support: Rows that are looked at for a next-token distribution; wider ranges are
            sampled by the library (its default is 1,000), and then the answer is approximate.

    Raises:
        ImportError: If it is not installed.
        Skipped: If its indexer fails.
    """

    def __init__(self, stream: NDArray[np.uint16], folder: Path, *, support: int = 1000) -> None:
        from infini_gram.engine import InfiniGramEngine

        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        text = folder / "tokenized.0"
        stream.tofile(text)
        starts = np.flatnonzero(stream == SEPARATOR).astype(np.uint64) * 2
        starts.tofile(folder / "offset.0")
        self._build(folder)
        self.nbytes = sum(path.stat().st_size for path in folder.iterdir())
        self._support = support
        self._engine = InfiniGramEngine(
            index_dir=str(folder),
            eos_token_id=_INFINI_END,
            vocab_size=2**16 - 1,
            token_dtype="u16",
        )

    @staticmethod
    def _build(folder: Path) -> None:
        import infini_gram.engine

        program = Path(infini_gram.engine.__file__).parent / "rust_indexing"
        text = folder / "tokenized.0"
        size = text.stat().st_size
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
        ratio = ["--ratio", str(math.ceil(math.log2(size) / 8)), "--token-width", "2"]
        parts, merged = folder / "parts", folder / "merged"
        data = ["--data-file", str(text)]
        # Parts overlap, which a text smaller than the overlap cannot.
        step = size if size < 10 * _INFINI_OVERLAP else -(-size // threads) // 2 * 2 + 2
        parts.mkdir()
        merged.mkdir()
        for start in range(0, size, step):
            end = min(start + step + _INFINI_OVERLAP, size)
            reach = ["--start-byte", str(start), "--end-byte", str(end)]
            _run([program, "make-part", *data, "--parts-dir", parts, *reach, *ratio])
        limit = ["--num-threads", str(threads)]
        hack = ["--hacksize", str(_INFINI_OVERLAP)]
        where = ["--parts-dir", parts, "--merged-dir", merged]
        _run([program, "merge", *data, *where, *limit, *hack, *ratio])
        shutil.rmtree(parts)
        target = ["--merged-dir", merged, "--merged-file", folder / "table.0"]
        _run([program, "concat", *data, *target, *limit, *ratio])
        shutil.rmtree(merged)

    def ask(self, query: list[int]) -> Any:
        """The call that is timed: the next-token distribution, approximate for wide ranges."""
        return self._engine.ntd(prompt_ids=query, max_support=self._support)

    def counts(self, query: list[int]) -> dict[int, int] | None:
        """Next tokens with their counts, separators left out; None if they were sampled."""
        given = self.ask(query)
        if given.get("approx", True):
            return None
        pairs = given["result_by_token_id"].items()
        return {token: found["cont_cnt"] for token, found in pairs if token != _INFINI_END}


def _run(command: list[Any]) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()
        raise Skipped(f"infini-gram's indexer failed: {reason[-1] if reason else done.returncode}")
