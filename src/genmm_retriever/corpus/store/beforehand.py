"""What stands in the way of a build, told before a model is loaded for it."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from genmm_retriever.corpus.store import files
from genmm_retriever.corpus.store.manifest import Manifest, is_index_folder, work_meta
from genmm_retriever.corpus.store.records import IndexSettings
from genmm_retriever.errors import IndexNotFoundError, InputError


def check_place(folder: Path, *, overwrite: bool, **chosen: object) -> None:
    """Refuse what `IndexWriter.create` would refuse later; nothing is changed.

    Args:
        folder: Where the index is to be.
        overwrite: Whether what is there may be replaced.
        **chosen: Those of the settings that are known already.

    Raises:
        InputError: If the folder holds something else, or an index with other settings.
        IndexDamagedError: If it holds an index that is damaged.
        IndexVersionError: If it holds one of another version.
        StorageError: If the place cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file", "name a folder for the index")
    place = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    with files.storage_errors(folder):
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if place != folder:
        return
    if any(folder.iterdir()) and not is_index_folder(folder):
        raise InputError(
            f"{str(folder)!r} is not empty and is not an index",
            "name a new or empty folder; nothing was changed",
        )
    settings = None if overwrite else _settings(folder)
    if settings is not None:
        check_settings(folder, settings, settings.model_copy(update=chosen))


def check_settings(folder: Path, present: IndexSettings, wanted: IndexSettings) -> None:
    """Refuse to go on with an index that was begun in another way.

    Raises:
        InputError: If it was.
    """
    if difference := present.differences(wanted):
        raise InputError(
            f"the index at {str(folder)!r} was made with other settings: {difference}",
            "use the same settings, another folder, or --overwrite to build it anew",
        )


def _settings(folder: Path) -> IndexSettings | None:
    """The settings of the index, or of the work in progress, that is there."""
    try:
        published = Manifest.read(folder).settings
    except IndexNotFoundError:
        published = None
    if not (folder / files.WORK).exists():
        return published
    with contextlib.suppress(ValueError):
        if value := work_meta(folder).get("settings"):
            return IndexSettings.model_validate_json(value)
    return None
