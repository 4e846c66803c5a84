"""Who writes for a service: loaded by name, and heard when it fails."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from ..errors import GenmmError, ModelNotFoundError, RemoteError

if TYPE_CHECKING:
    from ..models.base import Generator


class WriterFailure(Exception):
    """A remote writer's error on its way past adapters and answerers.

    These take a `GenmmError` for words that they did not get, and go on without; whoever asks a
    service is told instead.

    Args:
        error: What the writer raised.
    """

    def __init__(self, error: GenmmError) -> None:
        super().__init__(str(error))
        self.error = error


def writer_loader(
    name: str | None, device: str | None, *, patience: float | None = None
) -> Callable[[], Generator] | None:
    """Loads who writes; None if nobody is named.

    A remote writer is made at once, so that a missing key is told at once.

    Args:
        name: As for `models.loading.load_generator`, and so are the next.
        device: Where a local one runs.
        patience: Seconds that a remote one may stay silent.

    Raises:
        ModelError: If a remote writer cannot be asked.
        InputError: If it has no name.
    """
    if name is None:
        return None
    from ..models.loading import REMOTE, load_generator

    load = partial(load_generator, name, device, patience=patience)
    if not name.startswith(REMOTE):
        return load
    remote = load()
    return lambda: remote


def surfacing(writer: Generator) -> Generator:
    """A writer whose remote failures are raised as `WriterFailure`."""
    heard: Any = copy.copy(writer)
    for name in ("generate", "generate_json"):
        call = getattr(writer, name, None)
        if call is not None:
            setattr(heard, name, _raising(call))
    found: Generator = heard
    return found


def _raising(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def asked(*arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except (RemoteError, ModelNotFoundError) as error:
            raise WriterFailure(error) from error

    return asked
