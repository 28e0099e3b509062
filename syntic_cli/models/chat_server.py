"""A writer on a server that speaks OpenAI's chat protocol: vLLM, Ollama, llama.cpp and others."""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from ..errors import SynticError, shown
from .scenes import Chat, Group, Limits, Scene, converse

KEY_VARIABLE = "SYNTIC_WRITER_KEY"
RETRIES = 5
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
# What a server may say in a while again: busy, overloaded or broken for the moment.
AGAIN = {408, 425, 429, 500, 502, 503, 504, 529}
LONGEST_REPLY = 1 << 20


class _NoReply(SynticError):
    """A request that got no reply however often it was sent."""


@dataclass(frozen=True)
class ChatServer:
    """A model behind a server's /chat/completions.

    timeout: seconds for a reply. concurrency: requests at a time. The key is in no text that is
    shown or stored.
    """

    url: str
    model: str
    limits: Limits
    tries: int
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0
    concurrency: int = 8
    first_wait: float = FIRST_WAIT

    def write(self, groups: Sequence[Group]) -> list[Scene | SynticError]:
        """A scene of each group, or why there is none.

        Raises:
            SynticError: where the server cannot be reached, refuses, or answers nothing at all.
        """
        scenes = converse(groups, self._answer, self.limits, self.tries)
        silent = [scene for scene in scenes if isinstance(scene, _NoReply)]
        # Better to stop and to be run again than to have every group fail.
        if silent and len(silent) == len(scenes):
            raise SynticError(f"{self.url}: {silent[0]}; the same command goes on from here")
        return scenes

    def _answer(self, chats: Sequence[Chat]) -> list[str | SynticError]:
        stop = threading.Event()
        with ThreadPoolExecutor(self.concurrency, "chat") as threads:
            try:
                return list(threads.map(lambda chat: self._ask(chat, stop), chats))
            except BaseException:
                stop.set()
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, chat: Chat, stop: threading.Event) -> str | SynticError:
        """The answer to a chat; a SynticError returned is of this chat, one raised of the run."""
        body = json.dumps(self._body(chat)).encode()
        reason = ""
        for attempt in range(RETRIES + 1):
            wait = self.first_wait * 2**attempt * random.uniform(0.5, 1.0)
            try:
                return _content(self._post(body))
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in AGAIN:
                        return self._refusal(error)
                    reason = f"answers with status {error.code}"
                    wait = max(wait, _retry_after(error.headers.get("Retry-After")))
            except TimeoutError:
                reason = f"has not answered within {self.timeout:g} s"
            except (OSError, http.client.HTTPException) as error:
                if isinstance(getattr(error, "reason", None), TimeoutError):
                    reason = f"has not answered within {self.timeout:g} s"
                else:
                    reason = f"cannot be reached ({self._redacted(str(error))})"
            if attempt < RETRIES and stop.wait(min(wait, LONGEST_WAIT)):
                break
        return _NoReply(f"the server {reason}, asked {RETRIES + 1} times")

    def _post(self, body: bytes) -> bytes:
        # Its own opener: urllib's would send the key on to wherever a redirect points.
        opener = urllib.request.build_opener(_NoRedirect)
        opener.addheaders = [("User-Agent", "syntic"), ("Content-Type", "application/json")]
        if self.key:
            opener.addheaders.append(("Authorization", f"Bearer {self.key}"))
        request = urllib.request.Request(f"{self.url}/chat/completions", body, method="POST")
        until = time.monotonic() + self.timeout
        reply = b""
        with opener.open(request, timeout=self.timeout) as response:
            # The socket's own time-out begins anew with every byte that trickles in.
            while part := response.read1(LONGEST_REPLY):
                reply += part
                if time.monotonic() > until:
                    raise TimeoutError
                if len(reply) > LONGEST_REPLY:
                    break
        return reply

    def _body(self, chat: Chat) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": chat,
            "temperature": 0,
            "max_tokens": self.limits.answer_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "scene", "strict": True, "schema": _schema(self.limits)},
            },
        }

    def _refusal(self, error: urllib.error.HTTPError) -> SynticError:
        """Why the server does not want this chat.

        Raises:
            SynticError: where it would want none.
        """
        if error.code in (401, 403):
            # What a server says of a key may repeat it.
            raise SynticError(
                f"{self.url}: refuses the key (status {error.code}); set {KEY_VARIABLE}"
            )
        if error.code == 404:
            raise SynticError(
                f"{self.url}: knows no such address or no model {self.model!r} (status 404); give "
                "what stands before /chat/completions, such as http://localhost:8000/v1"
            )
        if error.code < 400:
            raise SynticError(f"{self.url}: redirects; give the address that it leads to")
        said = self._redacted(error.read(LONGEST_REPLY).decode(errors="replace"))
        return SynticError(f"the server refuses (status {error.code}): {said}")

    def _redacted(self, text: str) -> str:
        """The beginning of what a server said, in a line, without the key."""
        if self.key:
            text = text.replace(self.key, "***")
        return shown(" ".join(text.split())[:200])


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def connect(
    url: str,
    model: str | None,
    limits: Limits,
    tries: int,
    *,
    timeout: float = 120.0,
    concurrency: int = 8,
) -> ChatServer:
    """The writer at a URL, with the key that the environment holds.

    Args:
        url: what stands before /chat/completions, such as http://localhost:8000/v1.
        model: the name that the server knows it by.
        limits, tries: what is asked for, and how often a group is.
        timeout, concurrency: as `ChatServer` takes them.

    Raises:
        SynticError: where the URL or the key cannot be used, or the model has no name.
    """
    parts = urlsplit(url)
    # Anywhere, for a key with a slash in it ends the part where user names stand.
    if "@" in url:
        raise SynticError(f"--writer: a URL holds no user name; set {KEY_VARIABLE} to the key")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        # Not repeated: a query may hold a key.
        raise SynticError(
            "--writer: not a server's address; give one such as "
            "http://localhost:8000/v1, without a query"
        )
    if not model:
        raise SynticError(f"--writer {url}: give --writer-model, the name the server knows it by")
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise SynticError(f"{KEY_VARIABLE}: holds characters that no key has")
    address = url.rstrip("/").removesuffix("/chat/completions")
    return ChatServer(address, model, limits, tries, key or None, timeout, concurrency)


def _schema(limits: Limits) -> dict[str, Any]:
    """The JSON schema of an answer."""
    numbers = {
        "type": "array",
        "items": {"type": "integer", "minimum": 1},
        "minItems": limits.least,
        "maxItems": limits.most,
    }
    return {
        "type": "object",
        "properties": {"sentences": numbers, "summary": {"type": "string"}},
        "required": ["sentences", "summary"],
        "additionalProperties": False,
    }


def _content(reply: bytes) -> str:
    """What the model said; empty where the reply is not of the protocol."""
    try:
        said = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""
    return said if isinstance(said, str) else ""


def _retry_after(value: str | None) -> float:
    """Seconds that a server asks to wait for, given as a number or as a date."""
    if value is None:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    then = then if then.tzinfo else then.replace(tzinfo=timezone.utc)
    return max(0.0, (then - datetime.now(timezone.utc)).total_seconds())
