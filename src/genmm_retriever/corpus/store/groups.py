"""Groups of arrays: those whose names are equal up to the last `/` share one immutable file."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from urllib.parse import unquote

from genmm_retriever.corpus.store.files import ARRAYS
from genmm_retriever.errors import InputError

_PLAIN = frozenset(string.ascii_lowercase + string.digits + "_-.")
SUFFIX = ".safetensors"
_LONGEST = 200


def group_of(name: str) -> str:
    """The group of an array.

    Examples:
        >>> group_of("trie/base/edge_token"), group_of("tokens")
        ('trie/base', '')
    """
    return name.rpartition("/")[0]


def group_file(generation: int, group: str) -> str:
    """Path of the file that a generation brings for a group, inside the index.

    Examples:
        >>> group_file(7, "trie/base")
        'arrays/000007-trie%2fbase.safetensors'
    """
    # Capitals are quoted too: some file systems take "A" and "a" for the same name.
    quoted = "".join(c if c in _PLAIN else f"%{ord(c):02x}" for c in group)
    return f"{ARRAYS}/{generation:06d}-{quoted}{SUFFIX}"


def group_of_file(file: str) -> str:
    """The group that a file is of.

    Examples:
        >>> group_of_file("arrays/000007-trie%2fbase.safetensors")
        'trie/base'
    """
    return unquote(file.partition("-")[2].removesuffix(SUFFIX))


def array_files(names: Iterable[str]) -> list[str]:
    """Those of the published files that hold arrays."""
    return [name for name in names if name.startswith(f"{ARRAYS}/")]


def check_name(name: str) -> None:
    """Refuse what cannot be the name of an array.

    Raises:
        InputError: If it has other characters than letters, digits and `._-/`, or is too long.
    """
    plain = re.fullmatch(r"[A-Za-z0-9_./-]{1,100}", name) is not None
    if not plain or len(group_file(0, group_of(name))) > _LONGEST:
        raise InputError(f"{name!r} is no name of an array", "use few letters, digits and ._-/")
