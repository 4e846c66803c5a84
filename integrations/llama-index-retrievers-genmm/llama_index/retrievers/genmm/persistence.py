"""A retriever's settings and a copy of its index in one folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from genmm_retriever.errors import IndexDamagedError, IndexNotFoundError, StorageError

SETTINGS = "retriever.json"
INDEX = "index"
MANIFEST = "manifest.json"
_ATTEMPTS = 5


def save(folder: str | Path, index: str | Path | None, settings: dict[str, Any]) -> None:
    """Write the settings, and a copy of the index unless `folder` is the index itself.

    Args:
        folder: Where to write.
        index: Folder of the index.
        settings: Values for JSON.

    Raises:
        StorageError: If there is no index on disk, or the folder cannot take it.
    """
    if index is None:
        raise StorageError("the core has no index on disk", "build it with from_images(path=...)")
    target, source = Path(folder).absolute(), Path(index).absolute()
    if source.resolve() in target.resolve().parents:
        raise StorageError(f"{target} lies inside the index", "choose a folder beside it")
    same = target.resolve() == source.resolve()
    try:
        target.mkdir(parents=True, exist_ok=True)
        if not same and source.resolve() != (target / INDEX).resolve():
            _copy(source, target / INDEX)
        record = {"version": 1, "index": "." if same else INDEX, "settings": settings}
        partial = target / f".{SETTINGS}.{os.getpid()}"
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        partial.replace(target / SETTINGS)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error}", "choose another folder") from error


def load(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """Read what `save` wrote.

    Args:
        folder: Where `save` wrote.

    Returns:
        The folder of the index, and the settings.

    Raises:
        IndexNotFoundError: If there are no settings.
        IndexDamagedError: If they cannot be read.
    """
    file = Path(folder) / SETTINGS
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        index, settings = record["index"], record["settings"]
        if record["version"] != 1 or index not in (".", INDEX) or not isinstance(settings, dict):
            raise ValueError("not in a form that this version knows")
    except FileNotFoundError as error:
        raise IndexNotFoundError(
            f"there is no {SETTINGS} in {folder}", "write it with GenerativeMMRetriever.persist"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IndexDamagedError(f"{file} cannot be read: {error}", "persist it again") from error
    return Path(folder) / index, settings


def _copy(source: Path, target: Path) -> None:
    """Copy an index that may be written meanwhile.

    Published files never change, but the manifest is replaced, so a copy counts only if
    the manifest is still the same after it.
    """
    if target.exists() and not (target / MANIFEST).is_file() and any(target.iterdir()):
        raise StorageError(f"{target} is not empty and is no index", "choose another folder")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".genmm-") as place:
        fresh = Path(place) / INDEX
        for _ in range(_ATTEMPTS):
            before = (source / MANIFEST).read_bytes()
            shutil.rmtree(fresh, ignore_errors=True)
            try:
                shutil.copytree(source, fresh, ignore=shutil.ignore_patterns("writer.lock"))
            except shutil.Error:
                # A superseded file went away while copying; any other fault comes back below.
                if (source / MANIFEST).read_bytes() == before:
                    raise
                continue
            if (source / MANIFEST).read_bytes() == before:
                break
        else:
            raise StorageError(f"{source} is being written", "persist again when that has ended")
        if target.exists():
            target.rename(Path(place) / "old")
        fresh.rename(target)
