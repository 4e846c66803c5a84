"""Writes of a training in progress: what keeps them from the disk is told as the package's own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from genmm_retriever.corpus.store.files import lacks_space, write_atomically
from genmm_retriever.errors import StorageError


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn errors of a write into this package's own.

    Args:
        path: What is written, for the message.

    Raises:
        StorageError: If the disk is full or the place cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors keeps no number of what went wrong, and the folder has taken other files.
        space = not isinstance(error, OSError) or lacks_space(error)
        raise StorageError(
            f"{path} cannot be written: {getattr(error, 'strerror', None) or error}",
            "free some space; the same command goes on from the last state that was kept"
            if space
            else "choose another folder, or make it writable",
        ) from error


def store_json(path: Path, value: Any) -> None:
    """Replace a JSON file, which has its old or its whole new content whatever happens.

    Raises:
        StorageError: If it cannot be written.
    """
    with storing(path):
        write_atomically(path, lambda file: file.write(json.dumps(value).encode()))
