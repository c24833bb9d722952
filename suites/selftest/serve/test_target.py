"""An address and a key: what cannot be asked is refused in words, and no message ever holds a key."""

from __future__ import annotations

import traceback

import pytest

from harness.errors import ConfigError
from harness.serve.target import Target

pytestmark = pytest.mark.selftest


@pytest.mark.parametrize(
    "key", ["secret\r\nX-Other: 1", "secret\n", " secret", "se cret", "secret\x7f", "secr\u20act", "secr\u00e9t", "\u0661secret"]
)
def test_a_key_that_no_header_can_carry(key: str, monkeypatch) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    for made in (lambda: Target("http://h", "m", key), lambda: Target.parse("http://h", key_env="SOME_KEY")):
        with pytest.raises(ConfigError, match="holds a blank, a control character") as found:
            made()
        said = "".join(traceback.format_exception(found.value))
        assert not any(part in said.splitlines()[-1] for part in ("secret", "secr", "se cret"))
    assert "$SOME_KEY" in str(found.value)


def test_a_key_is_sent_and_never_shown(monkeypatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-abc_DEF.0/+=~")
    target = Target.parse("http://h:1/v1#m", key_env="SOME_KEY")
    assert (target.key, "sk-abc" in repr(target)) == ("sk-abc_DEF.0/+=~", False)


@pytest.mark.parametrize(("url", "words"), [
    ("http://127.0.0.1:99999", "cannot be read"),
    ("http://127.0.0.1:abc", "cannot be read"),
    ("http://127.0.0.1:-1", "cannot be read"),
    ("http://[::1", "cannot be read"),
    ("http://[x]:1", "cannot be read"),
    ("http://a..b:1", "cannot be read"),
    ("http://127.0.0.1:0", "expected an address"),
    ("http://127.0.0.1:9 ", "holds a blank"),
    ("http://127.0.0.1:9\n", "holds a blank"),
    ("http://127.0.0.1\t:9", "holds a blank"),
    ("http://h\u00f6st", "not ASCII"),
    ("127.0.0.1:9", "no http:// in front"),
    ("localhost:9", "no http:// in front"),
    ("", "no http:// in front"),
    ("http://", "expected an address"),
    ("https://h", "Behind https"),
    ("http://h/openai/v1", "the path '/openai/v1'"),
    ("http://h/v1/chat/completions", "the path"),
    ("http://h?x=1", "with nothing before an @"),
    ("ftp://h:7", "ftp://h:7: expected an address"),
])  # fmt: skip
def test_an_address_that_cannot_be_asked(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as found:
        Target(url, "m")
    assert "http://127.0.0.1:8000" in str(found.value)


@pytest.mark.parametrize(
    "url", ["http://user:hush@h:1", "http://user:hush@h:abc", "http://user:hush@[::1", "http://user:hu sh@h", "user:hush@h"]
)
def test_credentials_in_an_address_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError) as found:
        Target(url, "m")
    assert "hu" not in str(found.value)


@pytest.mark.parametrize(("url", "host", "port"), [
    ("http://127.0.0.1:9", "127.0.0.1", 9), ("http://h/", "h", 80), ("http://h:8/v1", "h", 8),
    ("http://h:8/v1/", "h", 8), ("http://[::1]:7", "::1", 7),
])  # fmt: skip
def test_an_address(url: str, host: str, port: int) -> None:
    target = Target(url, "m")
    assert (target.host, target.port) == (host, port)
    assert target.base_url.count("/") == 2
