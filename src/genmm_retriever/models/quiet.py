"""Less noise from libraries over work that takes a moment."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars over small local files, and from announcing changes."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # partly untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
