"""Where requests go: an OpenAI-compatible server, by address, model and key."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from harness.errors import ConfigError

__all__ = ["Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """``base_url`` without the path (``http://127.0.0.1:8000``); ``key`` is sent as a bearer token and shown nowhere."""

    base_url: str
    model: str
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme != "http" or not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(
                f"{parts.scheme}://{parts.hostname or ''}: expected an address like http://127.0.0.1:8000, without credentials; "
                "put the key into an environment variable. Behind https, load the server itself: a proxy's time is not the server's"
            )
        object.__setattr__(self, "base_url", f"http://{parts.netloc}")

    @classmethod
    def parse(cls, url: str, *, model: str = "", key_env: str = "OPENAI_API_KEY") -> Target:
        """``http://host:port/v1#model``; the model may be left to be asked for. The key comes out of the environment."""
        address, _, named = url.partition("#")
        return cls(address, model or named, os.environ.get(key_env, ""))

    @property
    def host(self) -> str:
        """The name or number that is connected to."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def port(self) -> int:
        """80 where the address names none."""
        return urlsplit(self.base_url).port or 80
