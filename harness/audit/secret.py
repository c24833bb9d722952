"""Keys, tokens and passwords: a rule names the words without which it cannot match, a pattern, and how a match is verified.

What is *confirmed* carries its own proof (a checksum, a decodable header) or has a form that nothing else has; a placeholder
("your_api_key", "EXAMPLE"), a test key or a failed checksum leaves a *possible* one. The form of rules is that of gitleaks, whose
own file can be read beside these.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.audit import literals
from harness.audit.identifier import Hit
from harness.audit.model import Texts
from harness.errors import AuditError

__all__ = ["SECRETS", "Rule", "entropy", "read_rules", "search"]

Check = Callable[[re.Match[bytes]], bool | None]


def entropy(value: bytes) -> float:
    """Shannon entropy in bits a byte."""
    n = len(value)
    return -sum(k / n * math.log2(k / n) for k in Counter(value).values()) if n else 0.0


PLACEHOLDER = re.compile(
    rb"(?i)example|sample|your|changeme|change_me|placeholder|dummy|redacted|insert|replace|secret_?key$|test|"
    rb"foobar|password|passw0rd|xxx|\*\*\*|\.\.\.|123456|abcdef|<|>|\$\{|\{\{|\$\(|%\(|none|null|(.)\1{5}"
)


def real(value: bytes) -> bool:
    """Whether a value looks drawn at random rather than written as a placeholder."""
    return not PLACEHOLDER.search(value)


@dataclass(frozen=True)
class Rule:
    """One kind of secret. ``keywords``: in lower case; every match's text holds one (none: every text is searched).

    ``check`` says of a match: True confirmed, False possible, None nothing. ``group`` is the group that is the secret.
    """

    kind: str
    pattern: re.Pattern[bytes]
    keywords: tuple[str, ...] = ()
    check: Check = field(default=lambda match: real(match[0]))
    group: int = 0
    shown: int = 0  # how many of the first bytes say only who issued it


def search(rules: Sequence[Rule], texts: Texts) -> Iterator[Hit]:
    """Every match of every rule, in order of rule; matches of two rules may overlap."""
    words = sorted({word.encode() for rule in rules for word in rule.keywords})
    which, text, _ = literals.find(words, texts)
    held = {word: np.unique(text[which == i]) for i, word in enumerate(words)}
    everywhere: Any = np.arange(len(texts)) if any(not rule.keywords for rule in rules) else None
    for rule in rules:
        holding: Any = np.unique(np.concatenate([held[word.encode()] for word in rule.keywords])) if rule.keywords else everywhere
        for i in holding.tolist():
            for match in rule.pattern.finditer(texts.bytes(i)):
                confirmed = rule.check(match)
                if confirmed is not None and match.end(rule.group) > match.start(rule.group):
                    yield Hit(i, *match.span(rule.group), rule.kind, confirmed, _masked(rule, match[rule.group]))


def _masked(rule: Rule, value: bytes) -> str:
    issued = f"{value[: rule.shown].decode('ascii', 'replace')}..., " if rule.shown else ""
    return f"{rule.kind} ({issued}{len(value)} characters)"


# --- proofs ---------------------------------------------------------------------------------------

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _crc(match: re.Match[bytes]) -> bool:
    """The last six characters are the CRC-32 of the thirty before, in base 62 (GitHub, npm)."""
    token = match[0].split(b"_", 1)[1]
    number, written = binascii.crc32(token[:-6]), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        written = BASE62[digit] + written
    return written.encode() == token[-6:]


def _jwt(match: re.Match[bytes]) -> bool | None:
    header = match[0].split(b".")[0]
    try:
        said = json.loads(base64.urlsafe_b64decode(header + b"=" * (-len(header) % 4)))
    except ValueError:
        return None
    return (said["alg"] != "none" and len(match[0].split(b".")[2]) >= 16) if isinstance(said, dict) and "alg" in said else None


def _pem(match: re.Match[bytes]) -> bool:
    """There is a body, not only the first line."""
    return len(re.sub(rb"\\[nr]|\s", b"", match[1])) >= 64 and real(match[1][:64])


def _live(match: re.Match[bytes]) -> bool:
    return b"_test_" not in match[0] and real(match[0])


def _drawn(match: re.Match[bytes]) -> bool:
    """Random enough for what stands behind ``password=``: letters and digits, at least 3 bits a byte."""
    value = match[1]
    mixed = re.search(rb"\d", value) is not None and re.search(rb"[A-Za-z]", value) is not None
    return mixed and entropy(value) >= 3.0 and real(value)


def _assigned(match: re.Match[bytes]) -> bool | None:
    """Words are no password: a placeholder is worth a remark, prose is not."""
    if _drawn(match):
        return True
    quoted = match[0][-len(match[1]) - 1 : -len(match[1])] in (b"'", b'"')
    return False if quoted or re.search(rb"\d", match[1]) else None


def _rule(kind: str, pattern: bytes, *keywords: str, check: Check = lambda match: real(match[0]), group: int = 0, shown: int = 0) -> Rule:
    return Rule(kind, re.compile(pattern), keywords, check, group, shown)


SECRETS = (
    _rule(
        "aws-access-key", rb"(?<![A-Za-z0-9])(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}(?![A-Za-z0-9])", "akia", "asia", "abia", "acca", shown=4
    ),
    _rule("github-token", rb"\bgh[pousr]_[A-Za-z0-9]{36}(?![A-Za-z0-9])", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", check=_crc, shown=4),
    _rule("github-token", rb"\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}(?!\w)", "github_pat_", shown=11),
    _rule("gitlab-token", rb"\bglpat-[\w-]{20}(?![\w-])", "glpat-", shown=6),
    _rule("slack-token", rb"\bxox[abeoprs]-(?:\d+-){1,3}[A-Za-z0-9-]{10,200}", *(f"xox{c}-" for c in "abeoprs"), shown=5),
    _rule("slack-webhook", rb"https://hooks\.slack\.com/(?:services|workflows)/[\w/+-]{40,80}", "hooks.slack.com"),
    _rule("stripe-key", rb"\b[sr]k_(?:live|test|prod)_[A-Za-z0-9]{10,99}(?!\w)", "k_live_", "k_test_", "k_prod_", check=_live, shown=8),
    _rule("google-api-key", rb"(?<![\w-])AIza[\w-]{35}(?![\w-])", "aiza", shown=4),
    _rule("openai-key", rb"\bsk-(?:[a-z]+-)?[\w-]{20,74}T3BlbkFJ[\w-]{20,74}(?![\w-])", "t3blbkfj", shown=3),
    _rule("anthropic-key", rb"\bsk-ant-[a-z]+\d\d-[\w-]{93}AA(?![\w-])", "sk-ant-", shown=7),
    _rule("huggingface-token", rb"\b(?:hf|api_org)_[A-Za-z]{34}(?!\w)", "hf_", "api_org_", shown=3),
    _rule("npm-token", rb"\bnpm_[A-Za-z0-9]{36}(?!\w)", "npm_", check=_crc, shown=4),
    _rule("pypi-token", rb"\bpypi-AgE[\w-]{50,1000}", "pypi-age", shown=5),
    _rule("jwt", rb"\beyJ[\w-]{10,2000}\.eyJ[\w-]{4,8000}\.[\w-]{0,2000}", "eyj", check=_jwt),
    _rule(
        "private-key",
        rb"-----BEGIN (?:[A-Z]{2,12} ){0,2}PRIVATE KEY(?: BLOCK)?-----([A-Za-z0-9+/=\s\\:,.]{0,20000})",
        "private key",
        check=_pem,
    ),
    _rule(
        "password-in-url",
        rb"[a-z][a-z0-9+.-]{1,20}://[^\s:/@\"'<>]{0,64}:([^\s/@\"'<>]{3,128})@[\w.\[\]:-]{1,255}",
        "://",
        check=lambda match: real(match[1]),
    ),
    _rule(
        "assigned-secret",
        rb"(?i)(?:password|passwd|pwd|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|auth[_-]?key)[\"'`]?\s{0,3}(?::=|=>|==?|:)"
        rb"\s{0,3}(?:[\"'`](?=[^\n]{8,130}))?([^\s\"'`,;<>(){}\[\]]{8,128})",
        *("password", "passwd", "pwd", "passphrase", "secret", "token", "api_key", "api-key", "apikey"),
        *("access_key", "access-key", "accesskey", "private_key", "private-key", "privatekey", "auth_key", "auth-key", "authkey"),
        check=_assigned,
        group=1,
    ),
)


# --- gitleaks.toml --------------------------------------------------------------------------------


def read_rules(path: Path) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """The rules of a gitleaks.toml, and by name what in it cannot be followed: (rules, one sentence for each thing left out).

    Raises AuditError for a file that is none.
    """
    try:
        read = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise AuditError(f"{path}: not a readable gitleaks.toml ({e}); give the rule file of gitleaks, or leave the option out") from e
    if not isinstance(read.get("rules"), list):
        raise AuditError(f"{path}: holds no [[rules]]; found {sorted(read) or 'nothing'}; give the rule file of gitleaks")
    left = [f"{key}: not followed" for key in sorted(set(read) - {"rules", "allowlist", "allowlists", "title", "minVersion"})]
    general = _allowed(read, "the file", left)
    rules = []
    for i, rule in enumerate(read["rules"]):
        name = str(rule.get("id", f"rule {i + 1}"))
        left += [f"{name}: {key} not followed" for key in sorted(set(rule) - KNOWN)]
        if "regex" not in rule:
            left.append(f"{name}: left out, it has no regex (it looks at file names)")
            continue
        try:
            pattern = re.compile(_python(rule["regex"]))
        except (re.error, ValueError) as e:
            left.append(f"{name}: left out, its regex is not understood here ({e})")
            continue
        group = int(rule.get("secretGroup", 0)) or min(1, pattern.groups)
        check = _Gitleaks(float(rule.get("entropy", 0)), group, general + _allowed(rule, name, left))
        rules.append(Rule(name, pattern, tuple(str(word).lower() for word in rule.get("keywords", ())), check, group))
    return tuple(rules), tuple(left)


KNOWN = {"id", "description", "regex", "keywords", "entropy", "secretGroup", "allowlist", "allowlists", "tags"}


@dataclass(frozen=True)
class _Gitleaks:
    """Entropy above the rule's, and on no allow list."""

    entropy: float
    group: int
    allowed: tuple[Any, ...]

    def __call__(self, match: re.Match[bytes]) -> bool | None:
        secret = match[self.group] or b""
        if not secret or (self.entropy and entropy(secret) <= self.entropy):
            return None
        return None if any(allow(match, secret) for allow in self.allowed) else True


@dataclass(frozen=True)
class _Allow:
    patterns: tuple[re.Pattern[bytes], ...]
    words: tuple[bytes, ...]
    target: str
    every: bool

    def __call__(self, match: re.Match[bytes], secret: bytes) -> bool:
        looked = {"match": match[0], "line": _line(match)}.get(self.target, secret)
        said = []
        if self.patterns:
            said.append(any(pattern.search(looked) for pattern in self.patterns))
        if self.words:
            said.append(any(word in secret.lower() for word in self.words))
        return bool(said) and (all(said) if self.every else any(said))


def _line(match: re.Match[bytes]) -> bytes:
    text = match.string
    end = text.find(b"\n", match.end())
    return text[text.rfind(b"\n", 0, match.start()) + 1 : end if end >= 0 else len(text)]


def _allowed(table: dict[str, Any], name: str, left: list[str]) -> tuple[_Allow, ...]:
    single = table.get("allowlist", [])
    made = []
    for allow in [*(single if isinstance(single, list) else [single]), *table.get("allowlists", [])]:
        left += [f"{name}: allowlist {key} not followed" for key in sorted(set(allow) & {"paths", "commits", "targetRules"})]
        if allow.get("targetRules") or (allow.get("condition") == "AND" and set(allow) & {"paths", "commits"}):
            continue  # it speaks of a file or of one rule; without that it would allow too much
        try:
            patterns = tuple(re.compile(_python(regex)) for regex in allow.get("regexes", ()))
        except (re.error, ValueError) as e:
            left.append(f"{name}: an allowlist left out, its regex is not understood here ({e})")
            continue
        words = tuple(str(word).lower().encode() for word in allow.get("stopwords", ()))
        made.append(_Allow(patterns, words, str(allow.get("regexTarget", "secret")), allow.get("condition") == "AND"))
    return tuple(made)


CLASSES = {"alnum": "0-9A-Za-z", "alpha": "A-Za-z", "digit": "0-9", "lower": "a-z", "upper": "A-Z", "space": r"\s", "word": r"\w",
           "xdigit": "0-9A-Fa-f", "punct": r"!-/:-@\[-`{-~"}  # fmt: skip


def _python(regex: str) -> bytes:
    """A regular expression of Go (RE2) in Python's dialect. ValueError names what has no counterpart."""
    odd = re.search(r"\\[pPQEC]|\(\?[imsU-]*U", regex)
    if odd:
        raise ValueError(f"{odd[0]} has no counterpart")
    regex = re.sub(r"\[:(\w+):\]", lambda m: CLASSES[m[1]] if m[1] in CLASSES else m[0], regex)
    regex = re.sub(r"\\x\{([0-9A-Fa-f]{1,2})\}", lambda m: f"\\x{int(m[1], 16):02x}", regex).replace(r"\z", r"\Z")
    return _scoped(regex).encode()


def _scoped(regex: str) -> str:
    """Go lets ``(?i)`` stand anywhere, for the rest of its group; Python wants ``(?i:...)``."""
    out: list[str] = []
    groups: list[list[str]] = [[]]  # of each open group the flags that hold to its end
    ends = "$" if re.search(r"\(\?[is]*m", regex) else r"\Z"  # Go's $ is the end of the text, not also the last line feed
    for part in re.findall(r"\\.|\[\^?\]?(?:\[:\w+:\]|\\.|[^\]\\])*\]|\(\?[ims]*(?:-[ims]+)?\)|.", regex, re.DOTALL):
        if re.fullmatch(r"\(\?[ims]*(?:-[ims]+)?\)", part):
            groups[-1].append(f"{part[:-1]}:")
            part = groups[-1][-1]
        elif part == "(":
            groups.append([])
        elif part == ")":
            part = ")" * len(groups.pop()) + ")" if len(groups) > 1 else ")"
        elif part == "|":
            part = ")" * len(groups[-1]) + "|" + "".join(groups[-1])
        elif part == "$":
            part = ends
        out.append(part)
    return "".join(out) + ")" * len(groups[0])
