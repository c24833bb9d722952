"""Personal data and secrets: what is planted is found, what only looks like it is not, and nothing is shown."""

from __future__ import annotations

import base64
import binascii
import doctest
import json
import re
import string
from importlib import import_module
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import identifier, literals, secret
from harness.audit.model import Texts, merge
from harness.audit.private import Private, spans
from harness.errors import AuditError
from suites.selftest.audit.making import batch, found, report

pytestmark = pytest.mark.selftest
quick = settings(derandomize=True, deadline=None, max_examples=60)


def hits(text: str, check: Private | None = None) -> list[SimpleNamespace]:
    facts = (check or Private()).partial(batch([[("user", "prompt", text)]])).to_pylist()
    return [
        SimpleNamespace(**hit, datum=text.encode("utf-8", "surrogatepass")[hit["start"] : hit["end"]].decode())
        for row in facts
        for hit in row["hits"]
    ]


def kinds(text: str, check: Private | None = None) -> list[tuple[str, bool]]:
    return [(hit.kind, hit.confirmed) for hit in hits(text, check)]


def texts_of(*texts: bytes) -> Texts:
    return Texts(np.frombuffer(b"".join(texts), np.uint8), np.cumsum([0, *map(len, texts)]))


# --- identifiers ----------------------------------------------------------------------------------

IDENTIFIERS = {  # published examples, none of them anybody's
    "email": "mail to jane.doe+list@mail.acme-corp.co.uk please",
    "phone": "call me on (212) 736-5000 tonight",
    "card": "my card 4111 1111 1111 1111 is lost",
    "iban": "transfer to GB82WEST12345698765432 today",
    "us-ssn": "His SSN is 536-90-4399.",
    "us-itin": "taxpayer 912-90-3456",
    "gb-nhs": "NHS number 943-476-5870",
    "gb-nino": "national insurance: AB 12 34 56 C",
    "de-idnr": "Steuer-Identifikationsnummer 36574261809",
    "fr-nir": "numéro INSEE 295109912611193",
    "es-dni": "mi DNI es 54362315K",
    "es-nie": "NIE: X2482300W",
    "it-codicefiscale": "RCCMNL83S18D969H",
    "nl-bsn": "BSN 111222333",
    "pl-pesel": "PESEL 44051401359",
    "br-cpf": "390.533.447-05",
    "in-aadhaar": "Aadhaar 2341 2341 2346",
    "in-pan": "PAN ACUPA7085R",
    "cn-ric": "身份证 360426199101010071",
    "ip": "host 8.8.4.4 is up",
    "mac": "MAC 60-45-BD-D3-BA-42",
    "wallet": "send to 1NEDqZPvTWRaoho48qXuLLsrYomMXPABfD",
}


@pytest.mark.parametrize("kind", IDENTIFIERS)
def test_each_identifier_is_found_and_confirmed(kind):
    assert kinds(IDENTIFIERS[kind]) == [(kind, True)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("my card 4111 1111 1111 1112 is lost", []),  # Luhn
        ("my card 4111 1111 1111 11 is lost", []),  # no such length
        ("the product of 4111111111111111 and 7", []),  # nothing says card
        ("4111 1111 1111 1111 5555 5555", []),  # a list of fours
        ("transfer to GB82WEST12345698765431 today", []),  # mod 97
        ("His SSN is 000-12-3456.", [("us-ssn", False)]),  # never issued
        ("part 000-12-3456 of the list", []),
        ("NHS number 9434765871", []),
        ("9434765870", []),  # a number without letters needs its word
        ("RCCMNL83S18D969A", []),
        ("version 8.8.4.4 is out", []),
        ("host 8.8.4.400 is up", []),
        ("listen on 127.0.0.1 or 192.0.2.7", [("ip", False), ("ip", False)]),
        ("dial 2001:4860:4860::8888 now", [("ip", True)]),
        ("at 12:30:45 std::vector", []),
        ("icon@2x.png, a@b", []),
        ("write to jane@example.org", [("email", False)]),
        ("I paid $212 736 5000 for it", []),
        ("call (555) 212-2580", [("phone", False)]),  # no such area code
        ("+1 212-736-5000", [("phone", True)]),
        ("Fax: 0049 30 901820", [("phone", True)]),
        ("call on 2020-10-12 or 12.10.2020", []),
        ("lat 40.7127837, lon -74.0059413", []),
        ("phone 212.736.5000x123 office", [("phone", True)]),
        ("passport no. 123456789", [("passport", False)]),
        ("my passport 2019", []),
        ("eth wallet 0xde0B295669a9FD93d5F28D9Ec85E40f4cb697BAe", [("wallet", False)]),
        ("commit 0xde0B295669a9FD93d5F28D9Ec85E40f4cb697BAe", []),
        ("send to 1NEDqZPvTWRaoho48qXuLLsrYomMXPABfA", []),
        ("GB82 WEST 1234 5698 7654 32 THEN", [("iban", True)]),
        ("IBAN DE89 3704 0044 0532 0130 00", [("iban", True)]),
        ("\u0661\u0662\u0663 \ud800 ", []),
        ("", []),
    ],
)
def test_what_only_looks_like_it(text, said):
    assert kinds(text) == said


PUBLISHED = {
    "iban": ("iban", "iban"), "us-ssn": ("us.ssn", "ssn"), "gb-nhs": ("gb.nhs", "NHS"), "de-idnr": ("de.idnr", "IdNr"),
    "fr-nir": ("fr.nir", "NIR"), "es-dni": ("es.dni", "DNI"), "es-nie": ("es.nie", "NIE"), "nl-bsn": ("nl.bsn", "BSN"),
    "it-codicefiscale": ("it.codicefiscale", ""), "pl-pesel": ("pl.pesel", "PESEL"), "br-cpf": ("br.cpf", "CPF"),
    "in-aadhaar": ("in_.aadhaar", "Aadhaar"), "in-pan": ("in_.pan", "PAN"), "cn-ric": ("cn.ric", "resident"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_examples_of_stdnum(kind):
    """What its documentation validates is found, what it refuses is not confirmed."""
    module, word = PUBLISHED[kind]
    examples = doctest.DocTestParser().get_examples(import_module(f"stdnum.{module}").__doc__)
    asked = [(re.match(r"validate\('([A-Za-z\d .-]+)'\)", e.source), e.exc_msg is not None) for e in examples]
    asked = [(match[1].upper(), refused) for match, refused in asked if match and match[1] != "00743110157"]  # a company's
    assert any(not refused for _, refused in asked)
    for number, refused in asked:
        compact = re.sub(r"[ .-]", "", number) if kind != "us-ssn" else number
        assert ((kind, True) in kinds(f"{word} {compact} .")) is not refused, number


BEFORE = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="0123456789"), max_size=40).map(lambda t: t + " ")
AROUND = st.tuples(BEFORE, BEFORE)


@quick
@given(AROUND, st.sampled_from(["card", "iban", "us-ssn", "br-cpf", "it-codicefiscale", "mac", "wallet", "phone"]))
def test_a_planted_identifier_is_found_between_any_words(around, kind):
    text = f"{around[0]}\n{IDENTIFIERS[kind]}\n {around[1]}"
    assert (kind, True) in kinds(text)


@quick
@given(st.lists(st.tuples(st.integers(0, 10**19), st.sampled_from([" + ", " * ", ", ", "\n", " and ", "; "])), min_size=1, max_size=12))
def test_numbers_never_become_cards_or_national_numbers(numbers):
    text = "".join(f"{number}{sign}" for number, sign in numbers)
    assert not [kind for kind, _ in kinds(text) if kind not in ("phone", "ip")]


@quick
@given(st.integers(0, 10**18 - 1), st.sampled_from(["4", "51", "37", "6011"]))
def test_a_card_is_what_luhn_and_the_issuer_say(number, prefix):
    from stdnum import luhn

    digits = f"{prefix}{number:018d}"[: 15 if prefix == "37" else 16]
    valid = digits[:-1] + luhn.calc_check_digit(digits[:-1])
    wrong = valid[:-1] + str((int(valid[-1]) + 1) % 10)
    assert kinds(f"credit card {valid} please") == [("card", True)]
    assert ("card", True) not in kinds(f"credit card {wrong} please")


# --- the kernel and the two searches --------------------------------------------------------------


def slow_numbers(text: bytes) -> list[tuple[int, int]]:
    """The runs of digits, by a regular expression."""
    runs = re.finditer(rb"\d(?:(?:[ /()+\xc2\xa0-]|\.(?=\d)){0,3}\d)*", text)
    return [run.span() for run in runs if len(re.findall(rb"\d", run[0])) >= 7 or run[0].count(b".") >= 3]


def slow_tokens(text: bytes) -> list[tuple[int, int]]:
    runs = re.finditer(rb"[A-Za-z0-9]+", text)
    return [r.span() for r in runs if len(r[0]) >= 9 and len(re.findall(rb"\d", r[0])) >= 2 and re.search(rb"[A-Za-z]", r[0])]


@quick
@given(st.lists(st.text("0123456789 .-()/+aZ\u00a0\n", max_size=60), min_size=1, max_size=5))
def test_runs_are_those_of_the_slow_search(parts):
    raw = [part.encode() for part in parts]
    for slow, table, least in ((slow_numbers, identifier.NUMBERS, (7, 0, 7, 3)), (slow_tokens, identifier.TOKENS, (2, 1, 9, 0))):
        texts = texts_of(*raw)
        fast = [(int(t), int(a - texts.starts[t]), int(b - texts.starts[t])) for t, a, b in identifier._found(texts, table, least)[:, :3]]
        assert fast == [(t, *span) for t, part in enumerate(raw) for span in slow(part)]


PIECES = [
    *IDENTIFIERS.values(),
    "password = hunter2hunter2",
    "x" * 30,
    "1 2 3 4",
    "AKIAEXAMPLE",
    "@",
    "://u:p4ssw0rd9@h",
    "ignore",
    "é",
    "\n",
]


@pytest.fixture
def without_hyperscan(monkeypatch):
    def absent(words):
        raise ImportError("hyperscan")

    monkeypatch.setattr(literals, "_database", absent)


ROWS = st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join), min_size=1, max_size=5, unique=True)


def facts_of(texts):
    return merge([Private().partial(batch([[("user", "prompt", text)] for text in texts]))], "text")


def test_without_hyperscan_the_same_facts(without_hyperscan, monkeypatch):
    texts = [a + b for a in PIECES for b in PIECES]
    plain = facts_of(texts)
    monkeypatch.undo()
    assert plain.num_rows > 300
    assert plain.equals(facts_of(texts))


@quick
@given(
    st.lists(st.binary(min_size=1, max_size=3).map(bytes.lower), min_size=1, max_size=5, unique=True),
    st.lists(st.binary(max_size=20), min_size=1),
)
def test_literals_are_found_where_find_finds_them(words, parts):
    which, text, end = literals.find(words, texts_of(*parts))
    slow = [
        (w, t, i + len(word))
        for w, word in enumerate(words) for t, part in enumerate(parts) for i in range(len(part)) if part.lower().startswith(word, i)
    ]  # fmt: skip
    assert list(zip(which.tolist(), text.tolist(), end.tolist(), strict=True)) == slow


@quick
@given(ROWS)
def test_facts_depend_on_the_text_alone(texts):
    alone = merge([facts_of([text]) for text in texts], "text")
    assert alone.equals(facts_of(texts))


@quick
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(1, 12), st.sampled_from("ab"), st.booleans()), max_size=12))
def test_spans_do_not_overlap_and_leave_nothing_uncovered(made):
    given = [identifier.Hit(t, a, a + n, kind, sure, "") for t, a, n, kind, sure in made]
    kept = spans(given)
    assert kept == sorted(kept, key=lambda h: (h.text, h.start)) == spans(given[::-1])
    for one, two in pairwise(kept):
        assert one.text < two.text or one.end <= two.start
    for hit in given:
        assert any(k.text == hit.text and k.start < hit.end and hit.start < k.end for k in kept)


# --- secrets --------------------------------------------------------------------------------------

DRAWN = "q7Zt2LmX9vKc4RbW8nPy3HdG6sJf5TgA1eUoBiNwQxVzMkCrDhSlEjYpFu0Ia"


def checksummed(prefix: str, body: str = DRAWN[:30]) -> str:
    number, written = binascii.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        written = secret.BASE62[digit] + written
    return f"{prefix}_{body}{written}"


def jwt(header: dict) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, {"sub": "me"})]
    return ".".join([*parts, DRAWN[:43]])


# put together here, so that no scanner of this repository takes them for real
SECRETS = {
    "aws-access-key": ("AKIA" + "Q3ZK7LM2XVB5RWNP", "AKIA" + "Q3ZK7LM2XVB5RWN"),
    "github-token": (checksummed("ghp"), "ghp_" + DRAWN[:35]),
    "gitlab-token": ("glpat-" + DRAWN[:20], "glpat-" + DRAWN[:19]),
    "slack-token": ("xoxb-" + "2848173920-" + "3948271049-" + DRAWN[:24], "xoxb-" + DRAWN[:8]),
    "slack-webhook": ("https://hooks.slack.com/services/T0AB1CD2E/B0FG3HI4J/" + DRAWN[:24], "https://hooks.slack.com/services/T0"),
    "stripe-key": ("sk_live_" + DRAWN[:24], "sk_live_" + DRAWN[:5]),
    "google-api-key": ("AIza" + DRAWN[:35], "AIza" + DRAWN[:34]),
    "openai-key": ("sk-proj-" + DRAWN[:30] + "T3BlbkFJ" + DRAWN[5:35], "sk-proj-" + DRAWN[:60]),
    "anthropic-key": ("sk-ant-api03-" + (DRAWN * 2)[:93] + "AA", "sk-ant-api03-" + (DRAWN * 2)[:93] + "BB"),
    "huggingface-token": ("hf_" + re.sub(r"\d", "", DRAWN)[:34], "hf_" + re.sub(r"\d", "", DRAWN)[:33]),
    "npm-token": (checksummed("npm"), "npm_" + DRAWN[:35]),
    "pypi-token": ("pypi-AgEIcHlwaS5vcmc" + DRAWN[:60], "pypi-AgEIcHlwaS5vcmc" + DRAWN[:9]),
    "jwt": (jwt({"alg": "HS256", "typ": "JWT"}), "eyJ" + DRAWN[:20] + ".eyJ" + DRAWN[:20] + "." + DRAWN[:43]),
    "private-key": ("-----BEGIN RSA " + "PRIVATE KEY-----\n" + DRAWN * 3 + "\n-----END", "-----BEGIN PUBLIC KEY-----\n" + DRAWN),
    "password-in-url": ("postgres://bob:" + DRAWN[:14] + "@db.acme.com:5432/x", "https://acme.com/a:b@c"),
    "assigned-secret": ("api_key = '" + DRAWN[:24] + "'", "the secret: it is kept, as always"),
}  # fmt: skip


def test_every_rule_has_an_example():
    assert {rule.kind for rule in secret.SECRETS} == set(SECRETS)


@pytest.mark.parametrize("kind", SECRETS)
def test_each_secret_is_confirmed_and_its_look_alike_is_not_found(kind):
    real, alike = SECRETS[kind]
    assert kinds(f"see {real} .") == [(kind, True)]
    assert kind not in [k for k, _ in kinds(f"see {alike} .")]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ghp_" + DRAWN[:36], "github-token"),  # the checksum fails
        ("AKIA" + "IOSFODNN7EXAMPLE", "aws-access-key"),
        ("sk_test_" + DRAWN[:24], "stripe-key"),
        (jwt({"alg": "none"}), "jwt"),
        ("-----BEGIN " + "PRIVATE KEY-----\n...", "private-key"),
        ("redis://user:password@cache.acme.com", "password-in-url"),
        ("api_key = 'your_api_key_here'", "assigned-secret"),
        ("password: 'changeme'", "assigned-secret"),
        ("token=xxxxxxxxxxxx1", "assigned-secret"),
    ],
)
def test_a_placeholder_is_a_remark(text, kind):
    assert kinds(text) == [(kind, False)]


def test_the_keyword_of_a_rule_is_part_of_every_example():
    """A rule whose keyword does not occur in what it matches would never be asked."""
    for rule in secret.SECRETS:
        real = SECRETS[rule.kind][0]
        if rule.pattern.search(real.encode()):
            assert any(word in real.lower() for word in rule.keywords), rule.kind


@quick
@given(st.binary(max_size=200))
def test_entropy_lies_between_none_and_all(value):
    assert 0 <= secret.entropy(value) <= 8
    assert secret.entropy(value[:1] * 9) == 0
    assert secret.entropy(bytes(range(256))) == 8


# --- redaction ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*IDENTIFIERS.values(), *(f"see {real} ." for real, _ in SECRETS.values())])
def test_no_finding_shows_the_datum(text):
    shown = found(report(Private(), batch([[("user", "prompt", text)]])))
    assert shown
    for finding, hit in zip(shown, hits(text), strict=True):
        said = re.sub(r"\W", "", finding["detail"])
        issued = max((rule.shown for rule in secret.SECRETS if rule.kind == hit.kind), default=0)  # "ghp_": whose it is
        datum = re.sub(r"\W", "", hit.datum[issued:])
        n = min(6, len(datum))
        assert n >= 4 and not any(datum[i : i + n] in said for i in range(len(datum) - n + 1))
        assert finding["end"] - finding["start"] == len(hit.datum.encode())


@quick
@given(st.text(string.ascii_letters + string.digits, min_size=12, max_size=40))
def test_a_drawn_password_is_never_shown(value):
    for finding in found(report(Private(), batch([[("user", "prompt", f'password = "{value}"')]]))):
        assert value[:5] not in finding["detail"] and value[-5:] not in finding["detail"]


# --- the report -----------------------------------------------------------------------------------


def test_each_physical_row_and_message_has_its_findings():
    ssn, mail = IDENTIFIERS["us-ssn"], "write to jane@acme.com or to joe@example.com"
    made = batch([[("user", "prompt", "hi"), ("assistant", "answer", mail)], [("user", "prompt", mail), ("assistant", "answer", ssn)]])
    said = report(Private(), made, physical=[0, 1, 0])
    assert [(f["row"], f["message"], f["kind"], f["start"], f["end"]) for f in found(said)] == [
        (0, 1, "email", 9, 22), (0, 1, "possible email", 29, 44),
        (1, 0, "email", 9, 22), (1, 0, "possible email", 29, 44), (1, 1, "us-ssn", 11, 22),
        (2, 1, "email", 9, 22), (2, 1, "possible email", 29, 44),
    ]  # fmt: skip
    assert said.summary["confirmed"] == {"email": {"findings": 3, "rows": 3}, "us-ssn": {"findings": 1, "rows": 1}}
    assert said.summary["possible"] == {"email": {"findings": 3, "rows": 3}}
    assert (said.summary["confirmed_rows"], said.summary["possible_rows"], said.summary["texts"]) == (3, 3, 2)


def test_a_clean_dataset_has_no_findings():
    said = report(Private(), batch([[("user", "prompt", "What is 2 + 2?"), ("assistant", "answer", "4")]]))
    assert said.findings.num_rows == 0 and said.summary["confirmed"] == {} and said.summary["confirmed_rows"] == 0


def test_regions_say_whose_national_formats_count():
    text = "téléphone 01 42 68 53 00"
    assert kinds(text, Private(regions=("FR",))) == [("phone", True)]
    assert kinds(text, Private(regions=("US",))) == [("phone", False)]
    assert kinds("01 42 68 53 00", Private(regions=("FR",))) == [("phone", True)]  # as the French write it
    assert kinds("01 42 68 53 00", Private(regions=("US",))) == []
    with pytest.raises(AuditError, match="XX unknown"):
        kinds(text, Private(regions=("US", "XX")))


# --- gitleaks.toml --------------------------------------------------------------------------------

RULES = r"""
title = "ours"
[extend]
useDefault = true
[allowlist]
paths = ['''go\.mod''']
stopwords = ["sample"]
[[rules]]
id = "acme-key"
regex = '''(?i)acme(?:.{0,5})['"\x60]?=\s?\b(k[[:alnum:]]{11})(?:[\x60'"\s;]|\\[nr]|$)'''
keywords = ["ACME"]
entropy = 2.5
[[rules.allowlists]]
regexTarget = "line"
regexes = ['''#\s*fine''']
[[rules]]
id = "late-flag"
regex = '''zed_(?i)[a-f]{4}|ypsilon\z'''
[[rules]]
id = "odd"
regex = '''\pL{4}'''
[[rules]]
id = "by-path"
path = '''\.p12$'''
"""


def ruled(tmp_path, text=RULES):
    path = tmp_path / "gitleaks.toml"
    path.write_text(text)
    return Private(rules=path)


def test_rules_of_gitleaks_are_followed(tmp_path):
    check = ruled(tmp_path)
    assert [(h.kind, h.datum) for h in hits("ACME_id=k3x9Qz7Lm2Wp; x", check)] == [("acme-key", "k3x9Qz7Lm2Wp")]
    assert kinds("acme=k3x9Qz7Lm2Wp", check) == [("acme-key", True)]  # at the end of the text
    assert kinds("acme=kaaaaaaaaaaa", check) == []  # entropy
    assert kinds("acme=k3x9Qz7Lm2Wp # fine", check) == []  # allowed by line
    assert kinds("acme=k3xSampleWp2", check) == []  # a stop word
    assert kinds("zed_ABcd and YPSILON", check) == [("late-flag", True), ("late-flag", True)]
    assert kinds("ZED_abcd and Ypsilonia", check) == []


def test_what_cannot_be_followed_is_named(tmp_path):
    said = report(ruled(tmp_path), batch([[("user", "prompt", "x")]])).summary["rules_left_out"]
    assert [line.split(":")[0] for line in said] == ["extend", "the file", "odd", "by-path", "by-path"]
    assert "paths" in said[1] and r"\p" in said[2]


def test_a_changed_rule_file_changes_the_options(tmp_path):
    before = ruled(tmp_path).options
    after = ruled(tmp_path, RULES.replace("2.5", "2.6")).options
    assert before != after and json.dumps(before)


@pytest.mark.parametrize(("text", "said"), [("not = [toml", "gitleaks.toml"), ("title = 'x'", r"no \[\[rules\]\]")])
def test_a_file_that_is_no_rule_file(tmp_path, text, said):
    with pytest.raises(AuditError, match=said):
        kinds("x", ruled(tmp_path, text))
    with pytest.raises(AuditError, match="cannot be read"):
        kinds("x", Private(rules=tmp_path / "none.toml"))


def test_a_postcode_behind_the_city_of_mobile_is_no_telephone():
    assert kinds("899 snow rd n # b mobile al 36608-9705") == []
    assert kinds("my mobile is (212) 736-5000") == [("phone", True)]
