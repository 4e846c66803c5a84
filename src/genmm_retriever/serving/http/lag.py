"""Is the event loop ever held? Measured where it runs, beside all other work."""

from __future__ import annotations

import asyncio

from .metrics import Metrics

EVERY = 0.02
"""Seconds between two looks; what holds the loop for longer is never missed."""


async def watch_loop(metrics: Metrics) -> None:
    """Note again and again how much later than asked the event loop wakes this up.

    Args:
        metrics: Where the seconds go; runs until it is cancelled.
    """
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + EVERY
        await asyncio.sleep(EVERY)
        metrics.lagged(max(0.0, loop.time() - due))
