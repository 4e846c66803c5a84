"""A large text that every machine has: the source and documentation of installed packages."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".md", ".rst", ".txt", ".py", ".pyi", ".h", ".hpp")
_LARGEST = 2**21
"""Bytes of the largest file that is read; larger ones are tables of data."""
_AT_ONCE = 256
_STANDARD = f"Python {sys.version.split()[0]} standard library"

Encode = Callable[[Sequence[str]], list[list[int]]]


@dataclass(frozen=True, eq=False)
class TextCorpus:
    """Documents end to end as token ids.

    Attributes:
        tokens: [T], uint32, usually memory-mapped.
        offsets: Document i is `tokens[offsets[i]:offsets[i + 1]]`, [documents + 1], int64.
        about: What it was made of: packages with versions, files, bytes, SHA-256.
    """

    tokens: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    about: dict[str, Any]

    def passages(
        self, limit: int, *, length: int = 128
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
        """The first tokens, cut into passages that never cross a document.

        Args:
            limit: Tokens wanted.
            length: Tokens of a passage at most.

        Returns:
            Tokens [limit], offsets [passages + 1] and items [passages] (one a passage).
        """
        tokens = np.array(self.tokens[:limit])
        ends = np.append(self.offsets[self.offsets < len(tokens)], len(tokens))
        counts = -(-np.diff(ends) // length)
        first = np.repeat(ends[:-1], counts)
        inner = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        offsets = np.append(first + inner * length, len(tokens)).astype(np.int64)
        return tokens, offsets, np.arange(len(offsets) - 1, dtype=np.int64)


def package_text(cache: Path, name: str, encode: Encode, wanted: int) -> TextCorpus:
    """At least `wanted` tokens of installed packages, made once and then read from the cache.

    Files are taken in the order of a hash of their path, so that any beginning of the corpus
    is a fair sample of it; a file whose content came before is left out.

    Args:
        cache: Folder to keep it in, outside the source tree.
        name: Of the tokenizer, part of the file's name.
        encode: Token ids of texts.
        wanted: Tokens; fewer if the installation has fewer.

    Raises:
        ValueError: If the installed packages hold fewer than `wanted` tokens.
    """
    folder = cache / f"package-text-{name}"
    about = _read_about(folder)
    if about is None or (about["tokens"] < wanted and about["wanted"] < wanted):
        folder.mkdir(parents=True, exist_ok=True)
        about = _write(folder, encode, wanted)
    if about["tokens"] < wanted:
        raise ValueError(
            f"the installed packages hold {about['tokens']:,} tokens, fewer than {wanted:,};"
            " install more of them or ask for less"
        )
    tokens = np.memmap(folder / "tokens.u32", dtype=np.uint32, mode="r")
    return TextCorpus(tokens, np.load(folder / "offsets.npy"), about)


def _read_about(folder: Path) -> dict[str, Any] | None:
    path = folder / "about.json"
    if not path.is_file():
        return None
    about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return about


def _write(folder: Path, encode: Encode, wanted: int) -> dict[str, Any]:
    digest, offsets, files, size = hashlib.sha256(), [0], 0, 0
    used: dict[str, int] = {}
    owners = _owners()
    with (folder / "tokens.part").open("wb") as out:
        for batch in _batches(_texts(_files())):
            for (path, text), ids in zip(batch, encode([t for _, t in batch]), strict=True):
                block = np.asarray(ids, dtype=np.uint32).tobytes()
                out.write(block)
                digest.update(block)
                offsets.append(offsets[-1] + len(ids))
                files += 1
                size += len(text)
                owner = owners.get(path.parts[0].removesuffix(".py"), path.parts[0])
                used[owner] = used.get(owner, 0) + len(ids)
            print(f"package text: {offsets[-1]:,} tokens", file=sys.stderr)
            if offsets[-1] >= wanted:
                break
    (folder / "tokens.part").replace(folder / "tokens.u32")
    np.save(folder / "offsets.npy", np.asarray(offsets, dtype=np.int64))
    most = dict(sorted(used.items(), key=lambda pair: -pair[1])[:40])
    about = {
        "wanted": wanted,
        "tokens": offsets[-1],
        "files": files,
        "characters": size,
        "suffixes": list(SUFFIXES),
        "sha256": digest.hexdigest(),
        "python": sys.version.split()[0],
        "largest_sources": most,
    }
    (folder / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return about


def _owners() -> dict[str, str]:
    """Top-level folder -> "distribution version"."""
    found = {}
    for module, names in importlib.metadata.packages_distributions().items():
        found[module] = f"{names[0]} {importlib.metadata.version(names[0])}"
    return found


def _files() -> list[tuple[Path, Path]]:
    """Files and their paths below the folder of packages, in the order of a hash."""
    found: dict[Path, Path] = {}
    for key in ("purelib", "platlib", "stdlib"):
        root = Path(sysconfig.get_path(key)).resolve()
        for path in root.rglob("*"):
            below = path.relative_to(root)
            # Another interpreter's packages may lie below the standard library.
            if path.suffix in SUFFIXES and not below.parts[0].endswith("-packages"):
                found.setdefault(path, Path(_STANDARD) / below if key == "stdlib" else below)
    keyed = [
        (hashlib.sha256(str(below).encode(errors="replace")).digest(), path, below)
        for path, below in found.items()
    ]
    return [(path, below) for _, path, below in sorted(keyed)]


def _texts(files: Sequence[tuple[Path, Path]]) -> Iterator[tuple[Path, str]]:
    seen: set[bytes] = set()
    for path, below in files:
        try:
            if not 0 < path.stat().st_size <= _LARGEST:
                continue
            content = path.read_bytes()
            text = content.decode("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        key = hashlib.sha256(content).digest()
        if key not in seen:
            seen.add(key)
            yield below, text


def _batches(texts: Iterator[tuple[Path, str]]) -> Iterator[list[tuple[Path, str]]]:
    batch: list[tuple[Path, str]] = []
    for one in texts:
        batch.append(one)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
