"""A trained adapter in an index: an immutable PEFT folder, named by its weights.

It lies in `adapter/<first 16 digits of the weights' SHA-256>/`. A document of the index says which
one a generation has, and the manifest has the checksums of its files.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from genmm_retriever.corpus.store import files
from genmm_retriever.corpus.store.checksums import file_entry
from genmm_retriever.errors import InputError

DOCUMENT = "adapter"
WEIGHTS = "adapter_model.safetensors"
PARTS = ("adapter_config.json", WEIGHTS)
_DIGITS = 16


@dataclass(frozen=True)
class StoredAdapter:
    """A trained adapter of an index.

    Args:
        folder: The PEFT folder.
        digest: First 16 hexadecimal digits of the SHA-256 of its weights.
    """

    folder: Path
    digest: str


def keep_adapter(index: Path, source: Path) -> str:
    """Copy a PEFT folder into an index, durably; a crash leaves all of it or nothing.

    Returns:
        Its digest.

    Raises:
        InputError: If the folder lacks a file.
    """
    for name in PARTS:
        if not (source / name).is_file():
            raise InputError(f"{source} has no {name}", "name a folder that PEFT has saved")
    digest = file_entry(source / WEIGHTS).sha256[:_DIGITS]
    target = index / files.ADAPTER / digest
    if all(
        (target / name).is_file() and file_entry(target / name) == file_entry(source / name)
        for name in PARTS
    ):
        return digest
    temporary = target.with_name("new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in PARTS:
        shutil.copyfile(source / name, temporary / name)
        files.sync_file(temporary / name)
    files.sync_folder(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
    files.sync_folder(target.parent)
    return digest


def adapter_files(digest: str) -> list[str]:
    """Paths of an adapter's files inside the index.

    Examples:
        >>> adapter_files("0a")
        ['adapter/0a/adapter_config.json', 'adapter/0a/adapter_model.safetensors']
    """
    return [f"{files.ADAPTER}/{digest}/{name}" for name in PARTS]


def adapter_among(names: Iterable[str]) -> str | None:
    """The digest of the adapter that published files belong to, or None.

    Examples:
        >>> adapter_among(["items.sqlite", "adapter/0a/adapter_config.json"])
        '0a'
    """
    kept = (name.split("/") for name in names if name.startswith(f"{files.ADAPTER}/"))
    return next((parts[1] for parts in kept), None)
