"""What the OpenAI SDK raises, in this package's own errors; no key is in any of them."""

from __future__ import annotations

import re

import openai

from genmm_retriever.errors import (
    GenmmError,
    ModelNotFoundError,
    RemoteBusyError,
    RemoteError,
    RemoteKeyError,
    RemoteRefusedError,
    RemoteTimeoutError,
    RemoteUnreachableError,
)

_MAX_MESSAGE = 300
_KEY_LENGTH = 8
_SLOW_HINT = (
    "set GENMM_WRITER_TIMEOUT to more seconds (patience= and timeout= in Python), or name a "
    "faster model"
)
# By name: which HTTP library lies below the SDK depends on its version.
_BROKEN_OFF = ("RemoteProtocolError", "ReadError")
_KEY_LIKE = re.compile(r"\bsk-[\w*-]+|\bBearer\s+\S+", re.IGNORECASE)


def explained(error: Exception, *, model: str, server: str, key: str) -> GenmmError:
    """An error of the SDK as one of ours.

    Args:
        error: `openai.OpenAIError`, or what its parsing of an answer raised.
        model: The model's name at the server.
        server: The server's address, without credentials.
        key: Never shown, also where the server repeats it.
    """
    if isinstance(error, openai.APITimeoutError):
        return RemoteTimeoutError(f"{server} did not answer in time", _SLOW_HINT)
    if type(error.__cause__).__name__ in _BROKEN_OFF:
        return RemoteUnreachableError(
            f"the connection to {server} broke off before its answer was whole", "try again later"
        )
    if isinstance(error, openai.APIConnectionError):
        return RemoteUnreachableError(
            f"{server} cannot be reached",
            "check OPENAI_BASE_URL (base_url= in Python) and the connection",
        )
    said = harmless(_message(error), key)
    if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
        return RemoteKeyError(
            f"{server} refuses the API key (status {error.status_code})",
            "check OPENAI_API_KEY (api_key= in Python)",
        )
    if isinstance(error, openai.NotFoundError):
        return ModelNotFoundError(
            f"{server} has no model {model!r}: {said}",
            "check the name, and the end of OPENAI_BASE_URL (base_url= in Python), usually /v1",
        )
    if isinstance(error, openai.RateLimitError):
        return RemoteBusyError(
            f"the limit of requests or the quota at {server} is reached: {said}",
            "wait, or in Python give a smaller concurrency= or a larger max_retries=",
        )
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        if status < 500:
            return RemoteRefusedError(
                f"{server} does not take this request (status {status}): {said}",
                "check that the model takes such prompts",
            )
        return RemoteError(f"{server} failed (status {status}): {said}", "try again later")
    return no_completion(server, f": {said}")


def no_completion(server: str, said: str = "") -> RemoteError:
    """The error where a server answers something else, as one of another kind does."""
    return RemoteError(
        f"{server} answered what is no chat completion{said}",
        "check that OPENAI_BASE_URL (base_url= in Python) names an OpenAI-compatible server; it "
        "usually ends in /v1",
    )


def declined(model: str, server: str, said: str, key: str) -> RemoteRefusedError:
    """The error where a model, or a filter in front of it, does not want to answer."""
    why = f": {harmless(said, key)}" if said else ""
    return RemoteRefusedError(
        f"{model} at {server} declines to answer this{why}",
        "word it differently, or name another model",
    )


def too_slow(server: str, patience: float) -> GenmmError:
    """The error where a request took longer than it may, with all of its tries."""
    return RemoteTimeoutError(f"{server} did not answer within {patience:g} seconds", _SLOW_HINT)


def refusal(error: openai.APIStatusError) -> str:
    """What a server objects to: the parameter's name if it tells it, else its message."""
    return str(error.param or "") or _message(error)


def harmless(text: str, key: str) -> str:
    """Words of a server, on one short line and without keys."""
    # Of servers without keys it may be any word, which need not be hidden.
    text = text.replace(key, "***") if len(key) >= _KEY_LENGTH else text
    text = _KEY_LIKE.sub("***", text)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line[:_MAX_MESSAGE]


def _message(error: Exception) -> str:
    body = getattr(error, "body", None)
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return str(error)
