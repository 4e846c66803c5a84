"""Models behind an OpenAI-compatible server: they answer, and give no log-probabilities."""

from __future__ import annotations

import importlib.util
import math
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from genmm_retriever.errors import (
    CapabilityError,
    GenmmError,
    InputError,
    MissingExtraError,
    RemoteError,
    RemoteKeyError,
)
from genmm_retriever.models.base import Prompt
from genmm_retriever.models.parallel import each
from genmm_retriever.models.remote_requests import Dialect, Request
from genmm_retriever.models.remote_waiting import (
    TOKENS_VARIABLE,
    OutOfPatienceError,
    run_later,
    usual_patience,
    usual_tokens,
    waited,
)
from genmm_retriever.models.usage import Usage

MAX_IMAGE_PIXELS = 1_000_000
_MAX_TEXT = 200_000
_CLOSING = 5.0


class RemoteGenerator:
    """A chat model of an OpenAI-compatible server, as a `Generator` and a `JsonGenerator`.

    Requests of one call, and of several threads, run at the same time, at most `concurrency`
    of them. What the server does not take (a seed, a temperature, the name of the length limit,
    a JSON schema) is found out by its refusals, left out and remembered.

    Args:
        model: The model's name at the server.
        base_url: The server's address, such as `"http://localhost:8000/v1"`; by default that of
            the environment (OPENAI_BASE_URL), else OpenAI's own.
        api_key: By default that of the environment (OPENAI_API_KEY). It is sent to the server
            and shown nowhere.
        timeout: Seconds that the server may stay silent, in each of the tries; None for half of
            `patience`, or all of it if there is but one try.
        max_retries: Further tries where the server is busy, fails or cannot be reached.
        patience: Seconds that a request may take with all of its tries, however the server
            spends them; by default those of the environment (GENMM_WRITER_TIMEOUT), else 120.
        max_image_pixels: Larger pictures are shrunk before they are sent, as JPEG.
        concurrency: Most requests at a time.
        answer_tokens: Tokens that a filled form may take, thoughts included; by default those of
            the environment (GENMM_WRITER_TOKENS), else 2,048. Forms themselves are short.

    Raises:
        MissingExtraError: If the package `openai` is not installed.
        RemoteKeyError: If there is no API key, or it cannot be one.
        InputError: If a number is out of range, or the address is none.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float | None = None,
        max_retries: int = 2,
        patience: float | None = None,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
        concurrency: int = 4,
        answer_tokens: int | None = None,
    ) -> None:
        if not model.strip():
            raise InputError("a remote model needs a name", 'for example "openai:gpt-4.1-mini"')
        patience = usual_patience() if patience is None else patience
        if timeout is None:
            timeout = patience / 2 if max_retries else patience
        tokens = usual_tokens() if answer_tokens is None else answer_tokens
        usable = all(math.isfinite(s) and s > 0 for s in (timeout, patience)) and max_retries >= 0
        if not usable or min(max_image_pixels, concurrency, tokens) < 1:
            raise InputError(
                "a RemoteGenerator needs timeout > 0, patience > 0, max_retries >= 0, "
                "max_image_pixels >= 1, concurrency >= 1 and answer_tokens >= 1",
                f"got {timeout}, {patience}, {max_retries}, {max_image_pixels}, {concurrency} and "
                f"{tokens}",
            )
        self.answer_tokens = tokens
        self.model = model.strip()
        self.max_image_pixels = max_image_pixels
        self.concurrency = concurrency
        self.patience = patience
        self._key = _checked_key(api_key)
        self._client, close = _client(base_url, self._key, timeout, max_retries)
        self._closing = weakref.finalize(self._client, run_later, close)
        self._closing.atexit = False
        self._server = _address(self._client.base_url)
        self._dialect = Dialect()
        self._slots = threading.BoundedSemaphore(concurrency)
        self._mine = threading.local()
        self._counting = threading.Lock()
        self._total = Usage()

    def __repr__(self) -> str:
        return f"RemoteGenerator({self.model!r}, base_url={self._server!r})"

    def close(self) -> None:
        """Let go of the connections; those of a generator that nobody holds go by themselves."""
        closing = self._closing()
        if closing is not None:
            closing.result(_CLOSING)

    @property
    def name(self) -> str:
        """The name that `load_generator` knows it by."""
        return f"openai:{self.model}"

    @property
    def last_usage(self) -> Usage:
        """What the calling thread's last call cost, all of its prompts together."""
        usage = getattr(self._mine, "usage", None)
        return usage if isinstance(usage, Usage) else Usage()

    @property
    def total_usage(self) -> Usage:
        """What all calls of all threads have cost so far."""
        with self._counting:
            return self._total

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        num_return_sequences: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[list[str]]:
        """Answer each prompt freely; see `Generator.generate`.

        How far equal seeds give equal answers is up to the server.

        Raises:
            InputError: If a number is out of range.
            CapabilityError: If several answers are wanted at temperature 0 (no server searches
                by beams), a prompt carries features instead of a picture, or begins the answer.
            RemoteKeyError: If the server refuses the key.
            ModelNotFoundError: If it has no such model.
            RemoteRefusedError: If it does not take the request, or the model declines to answer.
            RemoteBusyError: If its limit of requests is reached, after all tries.
            RemoteUnreachableError: If it cannot be reached, or (`RemoteTimeoutError`) stays
                silent, after all tries.
            RemoteError: If it fails otherwise.
        """
        if max_new_tokens < 1 or num_return_sequences < 1 or not 0 <= temperature <= 2:
            raise InputError(
                "generate needs max_new_tokens >= 1, num_return_sequences >= 1 and a temperature "
                "of 0 to 2",
                f"got {max_new_tokens}, {num_return_sequences}, {temperature}",
            )
        if num_return_sequences > 1 and temperature == 0:
            raise CapabilityError(
                "a remote engine has no beam search, which several answers at temperature 0 need",
                "ask for one answer, or give a temperature above 0",
            )
        return self._all(
            [
                Request(prompt, max_new_tokens, num_return_sequences, temperature, seed)
                for prompt in prompts
            ]
        )

    def generate_json(
        self,
        prompts: Sequence[Prompt],
        json_schema: dict[str, Any],
        *,
        max_new_tokens: int = 200,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """Answer each prompt by JSON of a schema, as far as the server holds the model to it.

        A server that refuses the schema is given its plainest keywords, and one that refuses
        these too gets it described in words; either is remembered.

        Args:
            prompts: Q prompts.
            json_schema: Of an object, see `json_text.closed_schema`.
            max_new_tokens: Length limit of an answer, in tokens.
            temperature: 0 is greedy.
            seed: Of the sampling.

        Returns:
            Q texts, which may still be cut short or no JSON: whoever asks checks them.

        Raises:
            GenmmError: As `generate`.
        """
        if max_new_tokens < 1 or not 0 <= temperature <= 2:
            raise InputError(
                "generate_json needs max_new_tokens >= 1 and a temperature of 0 to 2",
                f"got {max_new_tokens}, {temperature}",
            )
        requests = [
            Request(prompt, max_new_tokens, 1, temperature, seed, json_schema) for prompt in prompts
        ]
        return [texts[0] for texts in self._all(requests)]

    def _all(self, requests: list[Request]) -> list[list[str]]:
        """Answers of all requests; what they cost is known also if one of them fails."""
        spent: list[Usage] = []
        try:
            return each(
                lambda request: self._texts(request, spent),
                requests,
                self.concurrency,
                "genmm-remote",
            )
        finally:
            usage = sum(spent, Usage())
            self._mine.usage = usage
            with self._counting:
                self._total += usage

    def _texts(self, request: Request, spent: list[Usage]) -> list[str]:
        """As many answers as are wanted, also of a server that gives one at a time."""
        texts: list[str] = []
        while (missing := request.number - len(texts)) > 0:
            again = replace(request, number=missing, seed=request.seed + len(texts))
            answer = self._completion(again)
            found, usage, cut = _read(answer, self._server)
            spent.append(usage)
            if not any(found) and (why := _declined(answer)) is not None:
                from genmm_retriever.models.remote_errors import declined

                raise declined(self.model, self._server, why, self._key)
            if cut and not any(_is_answer(text, request) for text in found):
                raise self._no_room(request)
            texts += found[:missing]
        return texts

    def _no_room(self, request: Request) -> RemoteError:
        hint = f"set {TOKENS_VARIABLE} to more (answer_tokens= in Python)"
        return RemoteError(
            f"{self.model} at {self._server} used up the {request.max_new_tokens} tokens of an "
            "answer before it had ended, as models do that think first",
            hint if request.schema is not None else "give a larger max_new_tokens",
        )

    def _completion(self, request: Request) -> Any:
        """What the server answers, in the first dialect that it takes."""
        first = dialect = self._dialect
        while True:
            answer = self._send(dialect, request)
            if not isinstance(answer, _Refusal):
                if dialect != first:
                    self._dialect = dialect
                return answer
            other = dialect.after_refusal(answer.about, request)
            if other is None:
                raise answer.error
            dialect = other

    def _send(self, dialect: Dialect, request: Request) -> Any:
        """One request; errors are raised afresh, so that nothing of the SDK's hangs on them."""
        import openai

        from genmm_retriever.models.remote_errors import explained, refusal, too_slow

        arguments = dialect.arguments(request, self.max_image_pixels)
        create = partial(self._client.chat.completions.create, model=self.model, **arguments)
        refused, about = False, ""
        try:
            with self._slots:
                return waited(create, self.patience, f"{self.model} at {self._server}")
        except OutOfPatienceError:
            problem = too_slow(self._server, self.patience)
        except (openai.OpenAIError, ValueError) as error:
            problem = explained(error, model=self.model, server=self._server, key=self._key)
            refused = isinstance(error, (openai.BadRequestError, openai.UnprocessableEntityError))
            about = refusal(error) if isinstance(error, openai.APIStatusError) else ""
        if refused:
            return _Refusal(about, problem)
        raise problem


def _is_answer(text: str, request: Request) -> bool:
    """Whether anything can be made of an answer that was cut off: of JSON, not without its end."""
    return "}" in text if request.schema is not None else bool(text)


def _declined(completion: Any) -> str | None:
    """Why there are no texts, if a model or a filter refused them; empty if it does not say."""
    for choice in completion.choices:
        said = getattr(getattr(choice, "message", None), "refusal", None)
        if isinstance(said, str) and said:
            return said
        if getattr(choice, "finish_reason", None) == "content_filter":
            return ""
    return None


class _Refusal:
    """A server's objection to a request."""

    def __init__(self, about: str, error: GenmmError) -> None:
        self.about, self.error = about, error


def _read(completion: Any, server: str) -> tuple[list[str], Usage, bool]:
    """The texts and the cost of what a server answered, and whether it ran out of tokens."""
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list) or not choices:
        from genmm_retriever.models.remote_errors import no_completion

        raise no_completion(server)
    texts = []
    for choice in choices:
        content = getattr(getattr(choice, "message", None), "content", None)
        texts.append(content[:_MAX_TEXT].strip() if isinstance(content, str) else "")
    cut = any(getattr(choice, "finish_reason", None) == "length" for choice in choices)
    usage = getattr(completion, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return texts, Usage(requests=1, uncounted=1), cut
    return texts, Usage(counts[0] or 0, counts[1] or 0, requests=1), cut


def _checked_key(given: str | None) -> str:
    key = (os.environ.get("OPENAI_API_KEY", "") if given is None else given).strip()
    if not key:
        raise RemoteKeyError(
            "there is no API key for the remote model",
            "set OPENAI_API_KEY (api_key= in Python); servers without keys take any word",
        )
    if not (key.isascii() and key.isprintable()):
        raise RemoteKeyError(
            "the API key has characters that no key has",
            "copy it again into OPENAI_API_KEY (api_key= in Python)",
        )
    return key


def _client(
    base_url: str | None, key: str, timeout: float, max_retries: int
) -> tuple[Any, Callable[[], Awaitable[None]]]:
    """A client of the SDK, and what closes its connections without holding it."""
    if importlib.util.find_spec("openai") is None:
        raise MissingExtraError("openai", "remote")
    import openai

    problem = InputError(
        "the address of the remote model is none",
        'set OPENAI_BASE_URL (base_url= in Python), such as "http://localhost:8000/v1"',
    )
    try:
        http = openai.DefaultAsyncHttpxClient(timeout=timeout)
        client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=key,
            timeout=timeout,
            max_retries=max_retries,
            http_client=http,
        )
    except Exception as error:
        # Addresses are refused by the HTTP library below the SDK, whichever that is.
        raise problem from error
    if client.base_url.scheme not in ("http", "https") or not client.base_url.host:
        raise problem
    return client, http.aclose


def _address(url: Any) -> str:
    """A server's address without credentials or query."""
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{url.host}{port}{url.path.rstrip('/')}"
