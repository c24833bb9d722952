"""A server that runs already, by its address."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import EngineError
from harness.serve.process.probe import PROBE_S, escaped, get, model_names
from harness.serve.target import Target

__all__ = ["Attached", "attach"]


@dataclass(frozen=True, slots=True)
class Attached:
    """Somebody's server: measured, never signalled, never stopped."""

    target: Target

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return self.get("/v1/models") is not None

    def get(self, path: str, limit_s: float = PROBE_S) -> tuple[int, bytes] | None:
        """Status and body of a GET, with the key; None without an answer within ``limit_s``."""
        return get(self.target, path, limit_s)

    def pids(self) -> tuple[int, ...]:
        """None of ours to know."""
        return ()

    def describe(self) -> dict[str, str]:
        """All that is known of it."""
        return {"engine": "url", "url": self.target.base_url}

    def stop(self) -> None:
        """Nothing: it goes on."""

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing either."""


def attach(url: str, model: str = "", key_env: str = "OPENAI_API_KEY") -> Attached:
    """A server by its address. Without ``model`` it is asked for, and must serve exactly one.

    Raises EngineError if it does not answer, or serves another model.
    """
    target = Target.parse(url, model=model, key_env=key_env)
    answer = get(target, "/v1/models", 5.0)
    if answer is None or answer[0] != 200:
        raise EngineError(f"{target.base_url}/v1/models: {'no answer' if answer is None else f'status {answer[0]}'}; is the server up?")
    names = model_names(answer[1])
    shown = ", ".join(map(escaped, names)) or "no model"
    if target.model and target.model not in names:
        raise EngineError(f"wrong_server: {target.base_url} serves {shown}; expected {target.model}")
    if not target.model and len(names) != 1:
        raise EngineError(f"{target.base_url} serves {shown}; say which: {url}#MODEL")
    return Attached(Target(target.base_url, target.model or names[0], target.key))
