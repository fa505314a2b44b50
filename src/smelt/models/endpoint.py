"""JSON over HTTP to a server of models: many requests at once, repeated where that can help."""

import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

from smelt.core.errors import UserError

# Worth asking again: the server is busy or being restarted.
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
LONGEST_WAIT = 60.0
LOCAL = ("localhost", "127.0.0.1", "::1")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Endpoint:
    """A server at a base address. The key is sent and never shown."""

    def __init__(self, url: str, *, key: str, timeout: float, retries: int, wait: float) -> None:
        """wait: seconds before the first repetition, doubled each time. Raises UserError."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError("url", f"found '{url}'", "http://... or https://...")
        self.url, self.timeout, self.retries, self.wait = url.rstrip("/"), timeout, retries, wait
        self._key = key
        self._stopped = threading.Event()
        # Loopback never goes through a proxy, whatever the environment says.
        direct = [urllib.request.ProxyHandler({})] if parts.hostname in LOCAL else []
        self._opener = urllib.request.build_opener(_NoRedirect, *direct)

    def post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that the server answers. Raises UserError when it refuses, or when it
        stays busy or silent through all repetitions."""
        wait, told = self.wait, ""
        for attempt in range(self.retries + 1):
            pause = 0.0
            try:
                return self._once(route, body)
            except urllib.error.HTTPError as error:
                told = self._told(error)
                if error.code not in PASSING:
                    raise self._refused(error.code, told, route) from error
                pause = _seconds(error.headers.get("Retry-After"))
                told = f"status {error.code} {told}"
            except (OSError, HTTPException) as error:
                told = str(error) or type(error).__name__
            if attempt < self.retries and self._stopped.wait(min(max(pause, wait), LONGEST_WAIT)):
                break
            wait = 2 * wait
        found = f"no answer from {route} after {self.retries + 1} attempts ({told})"
        raise UserError(self.url, found, "a server that answers", "the same command continues")

    def _once(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + route, data=data, headers=headers)
        with self._opener.open(request, timeout=self.timeout) as reply:
            text = reply.read().decode("utf-8", errors="replace")
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UserError(self.url + route, f"no JSON object: {text[:80]!r}", "an OpenAI server")
        return found

    def _told(self, error: urllib.error.HTTPError) -> str:
        """What the server says about it, on one line and without the key."""
        try:
            text = error.read().decode("utf-8", errors="replace")
        except (OSError, HTTPException):
            return ""
        try:
            inner = json.loads(text)
            inner = inner.get("error", inner)
            text = str(inner.get("message", inner) if isinstance(inner, dict) else inner)
        except (ValueError, AttributeError):
            pass
        text = " ".join(text.split())[:300]
        return text.replace(self._key, "***") if self._key else text

    def _refused(self, code: int, told: str, route: str) -> UserError:
        if code in (401, 403):
            return UserError(self.url, f"refuses the key ({told})", "a key in OPENAI_API_KEY")
        if code == 404:
            found = f"no such model or address {route} ({told})"
            return UserError(self.url, found, "a model and an address that it serves")
        return UserError(self.url, f"status {code} from {route} ({told})", "a request it accepts")

    def each(
        self, calls: list[tuple[str, dict[str, Any]]], concurrency: int
    ) -> Iterator[dict[str, Any]]:
        """Answers in the order of the calls (route, body), of which so many are under way."""
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="endpoint")
        waiting: deque[Future[dict[str, Any]]] = deque()
        try:
            for call in calls:
                waiting.append(pool.submit(self.post, *call))
                # Some run ahead, so that one slow answer does not stop the others.
                if len(waiting) >= 4 * concurrency:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            if waiting:  # broken off: nobody wants the rest
                self._stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _seconds(text: str | None) -> float:
    """A Retry-After header in seconds; dates, which few servers send, count as nothing."""
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0
