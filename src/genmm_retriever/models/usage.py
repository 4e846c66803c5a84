"""What the answers of a remote engine cost, in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Usage:
    """Tokens that a server says it has read and written.

    Args:
        prompt_tokens: Read; pictures count as the server counts them.
        completion_tokens: Written.
        requests: Requests that were answered.
        uncounted: Those of them for which the server did not tell any tokens.

    Examples:
        >>> Usage(10, 3, 1) + Usage(20, 4, 1)
        Usage(prompt_tokens=30, completion_tokens=7, requests=2, uncounted=0)
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    uncounted: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.requests + other.requests,
            self.uncounted + other.uncounted,
        )


@runtime_checkable
class UsageReporter(Protocol):
    """A generator that knows what its answers cost."""

    @property
    def last_usage(self) -> Usage:
        """Of the calling thread's last call, all of its prompts together."""
        ...
