"""What one service allows and how far it goes."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass

from ...errors import InputError

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]", "::1")
LEAST_TOKEN = 16


@dataclass(frozen=True)
class ServiceSettings:
    """Limits and rights of a service.

    Attributes:
        token: What adding and deleting ask for; None forbids both.
        allowed_hosts: Values of the Host header that are answered; `"*"` allows all.
        max_body: Most bytes of a request.
        max_pixels: Most pixels of an uploaded picture, and of one shown as a thumbnail.
        max_queue: Most queries that wait or are being answered; more are told to come again.
        max_uploads: Most uploads at the same time.
        max_requests: Most requests of any kind at the same time.
        timeout: Seconds that a request may take, its body included.
        max_batch: Most queries that are answered in one decode.
        max_wait_ms: Milliseconds that a query waits for others.
        thumbnail_bytes: Memory for thumbnails that were made already.
    """

    token: str | None = None
    allowed_hosts: tuple[str, ...] = LOOPBACK_HOSTS
    max_body: int = 20 * 2**20
    max_pixels: int = 40_000_000
    max_queue: int = 64
    max_uploads: int = 4
    max_requests: int = 256
    timeout: float = 30.0
    max_batch: int = 16
    max_wait_ms: float = 5.0
    thumbnail_bytes: int = 64 * 2**20

    def is_authorised(self, header: str | None) -> bool:
        """Whether an Authorization header carries the token; compared in constant time."""
        if self.token is None or header is None:
            return False
        scheme, _, given = header.partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self.token.encode())
        return scheme.lower() == "bearer" and same


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone.

    Examples:
        >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def checked_token(token: str | None) -> str | None:
    """A token without blanks around it, None if there is none.

    Raises:
        InputError: If it is too short to be a secret, or no header can carry it.
    """
    token = (token or "").strip()
    if not token:
        return None
    if len(token) < LEAST_TOKEN or not (token.isascii() and token.isprintable()):
        raise InputError(
            f"the token has fewer than {LEAST_TOKEN} characters, or others than printable ASCII",
            'make one with: python -c "import secrets; print(secrets.token_urlsafe())"',
        )
    return token
