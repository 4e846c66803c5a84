"""What is installed here and what this machine can do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

DISTRIBUTION = "genmm-retriever"
_EXTRAS = ("models", "builtin", "serve", "mcp", "remote", "clip", "parquet", "eval")
_NAME = re.compile(r"^\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


def examine() -> dict[str, Any]:
    """Versions, extras, processor, caches and writable places, as plain data."""
    from genmm_retriever import __version__

    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _packages()},
        "extras": {extra: missing_packages(extra) for extra in _EXTRAS} if _installed() else {},
        "cores": cores(),
        "memory_gib": _memory_gib(),
        "bf16": supports_bf16(),
        "gpu": _gpu(),
        "builtin_model": _builtin_model(),
        "writable": {name: os.access(path, os.W_OK) for name, path in _places().items()},
    }


def render(found: dict[str, Any]) -> str:
    """The examination as text for people."""
    lines = [
        f"genmm-retriever   {found['version']}",
        f"python            {found['python']} on {found['platform']}",
        f"cores, memory     {found['cores']}, {found['memory_gib']} GiB",
        f"fast bf16         {'yes' if found['bf16'] else 'no, float32 is used or slower bf16'}",
        f"gpu               {found['gpu'] or 'none'}",
    ]
    for extra, missing in found["extras"].items():
        state = f"missing {', '.join(missing)}" if missing else "installed"
        lines.append(f"extra {extra:<12}{state}")
    for name, version in found["packages"].items():
        if version is not None:
            lines.append(f"  {name:<34}{version}")
    for name, value in found["builtin_model"].items():
        shown = ", ".join(value) if isinstance(value, list) else value
        lines.append(f"builtin {name:<10}{shown or 'nothing'}")
    for place, writable in found["writable"].items():
        lines.append(f"{place:<18}{'writable' if writable else 'NOT writable'}")
    return "\n".join(lines)


def _installed() -> bool:
    # Not so when it runs from a source tree on PYTHONPATH: then nobody knows its extras.
    return _version(DISTRIBUTION) is not None


def missing_packages(extra: str, _seen: frozenset[str] = frozenset()) -> list[str]:
    """Distributions of an extra that are not installed, by the package's own metadata."""
    if extra in _seen:
        return []
    missing: list[str] = []
    for name, inner in _requirements(extra):
        if name == DISTRIBUTION:
            for other in inner:
                missing += missing_packages(other, _seen | {extra})
        elif _version(name) is None:
            missing.append(name)
    return sorted(set(missing))


def _requirements(extra: str | None) -> list[tuple[str, list[str]]]:
    lines = (importlib.metadata.requires(DISTRIBUTION) or []) if _installed() else []
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        named = _EXTRA.search(line)
        if (named.group(1) if named else None) != extra:
            continue
        match = _NAME.match(line)
        if match:
            inner = [part.strip() for part in (match.group(2) or "").split(",") if part.strip()]
            found.append((match.group(1), inner))
    return found


def _packages() -> list[str]:
    names = {name for extra in (None, *_EXTRAS) for name, _ in _requirements(extra)}
    return sorted(names - {DISTRIBUTION})


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """Processor cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def supports_bf16() -> bool:
    """Whether the processor multiplies bfloat16 matrices itself."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine() == "arm64"
    words = set(flags.split())
    return bool(words & {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"})


def _memory_gib() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return round(size / 2**30, 1)


def _gpu() -> str | None:
    try:
        import torch
    except ImportError:
        return None
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "mps" if torch.backends.mps.is_available() else None


def _cache_folder() -> Path | None:
    try:
        from ..models.builtin.smollm2 import cache_folder
    except ImportError:
        return None
    return cache_folder()


def _builtin_model() -> dict[str, Any]:
    """Where the builtin model's parts are expected, and which of them are there."""
    package = Path(__file__).parent.parent
    cache = _cache_folder()
    kept = sorted(cache.glob("*")) if cache is not None and cache.is_dir() else []
    return {
        "cache": None if cache is None else str(cache),
        "fetched": [path.name for path in kept if path.is_file()],
        "shipped": [str(p.relative_to(package)) for p in sorted(package.rglob("*.safetensors"))],
    }


def _places() -> dict[str, Path]:
    """Folders that are written to; of one that is absent, the nearest that exists."""
    places = {"temporary folder": Path(tempfile.gettempdir()), "current folder": Path.cwd()}
    cache = _cache_folder()
    if cache is not None:
        places["cache folder"] = next(p for p in (cache, *cache.parents) if p.exists())
    return places
