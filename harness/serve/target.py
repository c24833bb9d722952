"""Where requests go: an OpenAI-compatible server, by address, model and key."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from harness.errors import ConfigError

__all__ = ["Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """``base_url`` without the path (``http://127.0.0.1:8000``); ``key`` is sent as a bearer token and shown nowhere.

    ConfigError for an address that cannot be asked, and for a key that no header can carry.
    """

    base_url: str
    model: str
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        _check_key(self.key, "the key")
        object.__setattr__(self, "base_url", f"http://{_address(self.base_url)}")

    @classmethod
    def parse(cls, url: str, *, model: str = "", key_env: str = "OPENAI_API_KEY") -> Target:
        """``http://host:port/v1#model``; the model may be left to be asked for. The key comes out of the environment."""
        address, _, named = url.partition("#")
        key = os.environ.get(key_env, "")
        _check_key(key, f"the key in ${key_env}")
        return cls(address, model or named, key)

    @property
    def host(self) -> str:
        """The name or number that is connected to."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def port(self) -> int:
        """80 where the address names none."""
        return urlsplit(self.base_url).port or 80


def _check_key(key: str, where: str) -> None:
    """Only what a header can carry: a line's end in it would begin another header. The value is in no message."""
    if not all("!" <= ch <= "~" for ch in key):
        raise ConfigError(
            f"{where} holds a blank, a control character or one that is not ASCII: read it from its file without the line's end"
        )


_LIKE = "expected an address like http://127.0.0.1:8000"


def _address(url: str) -> str:
    """Host and port of a URL. What stands before an @ or behind a ? may be secret: it is not shown."""
    shown = repr(url.rpartition("@")[2].partition("?")[0][:200])
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError(f"{shown}: holds a blank, a control character or one that is not ASCII; {_LIKE}")
    if "://" not in url:
        raise ConfigError(f"{shown}: no http:// in front; {_LIKE}")
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as error:  # of urllib: it may quote what stands before the @
        said = "" if "@" in url else f" ({error})"
        raise ConfigError(f"{shown}: host or port cannot be read{said}; {_LIKE}") from None
    named = f"{parts.scheme}://{parts.hostname or ''}"
    if parts.scheme == "https":
        raise ConfigError(f"{named}: {_LIKE}. Behind https, load the server itself: a proxy's time is not the server's")
    if "@" in url or parts.query or parts.fragment:
        raise ConfigError(f"{named}: {_LIKE}, with nothing before an @ or behind a ?; put the key into an environment variable")
    if parts.scheme != "http" or not parts.hostname or port == 0:
        raise ConfigError(f"{named}{'' if port is None else f':{port}'}: {_LIKE}")
    if parts.path not in ("", "/", "/v1", "/v1/"):
        raise ConfigError(
            f"{shown}: the path {parts.path!r} would not be asked; {_LIKE}, or with /v1: the rest of it is the protocol's own"
        )
    return parts.netloc
