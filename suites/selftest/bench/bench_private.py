"""Recall, precision and speed of the search for personal data, beside presidio and scrubadub on the same sentences.

    pytest suites/selftest/bench/bench_private.py -s --benchmark-columns=mean
    RIVAL_PYTHON=rivals/bin/python pytest ...     an environment that has presidio-analyzer, spacy, scrubadub

Sentences: the 210 templates of presidio-evaluator (MIT, found where the package is installed) filled by Faker with a fixed seed, so
that every span is known. Templates whose SHA-256 is even were seen while the patterns were written; the odd half was kept aside, and
both are told. Scored are the kinds that have a structure: e-mail, telephone, card, IBAN, national number, IP address. A finding is
right when its kind is that of a planted span and it covers at least half of what both cover together; every other finding is wrong.

Not collected by default: times are for people to read, no test asserts one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import re
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.selftest
Faker = pytest.importorskip("faker").Faker

LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "pt_BR", "en_IN", "ja_JP")
HALVES = {"seen": 0, "aside": 1}
SCORED = {"email": "email", "phone_number": "phone", "credit_card_number": "card", "iban": "iban", "ssn": "national", "ip_address": "ip"}


def templates() -> list[str]:
    spec = importlib.util.find_spec("presidio_evaluator")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("presidio-evaluator is not installed: pip install --no-deps presidio-evaluator")
    raw = Path(spec.submodule_search_locations[0], "data_generator/raw_data/templates.txt").read_text(encoding="utf-8")
    return [line.replace("\\n", "\n") for line in raw.splitlines() if line.strip()]


def half(template: str) -> int:
    return hashlib.sha256(template.replace("\n", "\\n").encode()).digest()[-1] % 2


def fill(fake, name: str) -> str:
    email = fake.random_element(["ascii_free_email", "ascii_company_email"])
    given = {
        "person": "name", "organization": "company", "nationality": "country", "zipcode": "postcode", "ip_address": "ipv4",
        "date_of_birth": "date", "date_time": "date", "name_male": "name", "name_female": "name", "first_name_male": "first_name",
        "prefix_male": "prefix", "email": email,
    }.get(name, name)  # fmt: skip
    if name == "age":
        return str(fake.random_int(18, 90))
    if name == "us_driver_license":
        return fake.bothify("?########").upper()
    return str(getattr(fake, given)()) if hasattr(fake, given) else fake.last_name()


def labelled(locale: str, which: str, n: int = 3000):
    """n sentences: (text, planted spans as bytes: start, end, kind)."""
    kept = [t for t in templates() if half(t) == HALVES[which]]
    fake, rng = Faker(locale), random.Random(f"{locale} {which}")
    fake.seed_instance(f"{locale} {which}")
    made = []
    for _ in range(n):
        text, spans = b"", []
        for part in re.split(r"(\{\{\s*\w+\s*\}\})", rng.choice(kept)):
            name = part.strip("{} ") if part.startswith("{{") else None
            filled = (fill(fake, name) if name else part).encode()
            if name in SCORED:
                spans.append((len(text), len(text) + len(filled), SCORED[name]))
            text += filled
        made.append((text.decode(), spans))
    return made


def score(labels, findings):
    """Counts of (kind, "hit" | "missed" | "wrong")."""
    said = Counter()
    for (_, spans), found in zip(labels, findings, strict=True):
        left = list(found)
        for start, end, kind in spans:
            right = next(
                (f for f in left if f[2] == kind and 2 * (min(f[1], end) - max(f[0], start)) >= max(f[1], end) - min(f[0], start)), None
            )
            said[kind, "hit" if right else "missed"] += 1
            if right:
                left.remove(right)
        for f in left:
            said[f[2], "wrong"] += 1
    return said


def told(name: str, said: Counter, rate: float) -> dict:
    kinds = sorted({kind for kind, _ in said})
    hit, missed, wrong = (sum(said[k, what] for k in kinds) for what in ("hit", "missed", "wrong"))
    by_kind = {k: [said[k, "hit"], said[k, "missed"], said[k, "wrong"]] for k in kinds}
    recall, precision = hit / max(1, hit + missed), hit / max(1, hit + wrong)
    print(f"\n{name:28} recall {recall:.4f}  precision {precision:.4f}  {rate:9,.0f} rows/s  hit/missed/wrong {by_kind}")
    return {"recall": recall, "precision": precision, "by_kind": by_kind}


def ours(labels, confirmed_only: bool = False):
    from harness.audit.private import Private
    from suites.selftest.audit.making import batch

    made = batch([[("user", "prompt", text)] for text in dict.fromkeys(text for text, _ in labels)])
    start = time.perf_counter()
    facts = Private().partial(made)
    seconds = time.perf_counter() - start
    places = {digest: i for i, digest in enumerate(made.text_digests.tobytes()[k : k + 16] for k in range(0, 16 * len(made.texts), 16))}
    found = {}
    for row in facts.to_pylist():
        hits = [h for h in row["hits"] if h["confirmed"] or not confirmed_only]
        found[made.texts.str(places[row["text"]])] = [(h["start"], h["end"], kind_of(h["kind"])) for h in hits]
    return [found.get(text, []) for text, _ in labels], len(labels) / seconds


def kind_of(kind: str) -> str:
    return "national" if re.match(r"[a-z]{2}-", kind) else kind


RIVAL = r"""
import json, sys, time
name, texts = sys.argv[1], json.load(sys.stdin)
KINDS = {"EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "CREDIT_CARD": "card", "IBAN_CODE": "iban", "IP_ADDRESS": "ip",
         "email": "email", "phone": "phone", "credit_card": "card"}
NATIONAL = ("US_SSN US_ITIN UK_NHS UK_NINO ES_NIF ES_NIE IT_FISCAL_CODE IN_AADHAAR IN_PAN PL_PESEL "
            "social_security_number national_insurance_number")
KINDS.update(dict.fromkeys(NATIONAL.split(), "national"))
if name == "presidio":
    import spacy
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    class Blank(SpacyNlpEngine):
        def __init__(self):
            super().__init__()
            self.nlp = {"en": spacy.blank("en")}
    engine = AnalyzerEngine(nlp_engine=Blank(), supported_languages=["en"])
    look = lambda t: [(r.start, r.end, KINDS[r.entity_type]) for r in engine.analyze(t, language="en") if r.entity_type in KINDS]
else:
    import scrubadub
    scrubber = scrubadub.Scrubber()
    look = lambda t: [(f.beg, f.end, KINDS[f.type]) for f in scrubber.iter_filth(t) if f.type in KINDS]
look(texts[0])
start = time.perf_counter()
found = [look(t) for t in texts]
seconds = time.perf_counter() - start
inside = lambda t, i: len(t[:i].encode())
json.dump([[[(inside(t, a), inside(t, b), k) for a, b, k in f] for t, f in zip(texts, found)], len(texts) / seconds], sys.stdout)
"""


def rival(name: str, labels):
    python = os.environ.get("RIVAL_PYTHON")
    if not python:
        pytest.skip("RIVAL_PYTHON names no environment with the rivals")
    texts = json.dumps([text for text, _ in labels])
    ended = subprocess.run([python, "-W", "ignore", "-c", RIVAL, name], input=texts, capture_output=True, text=True)
    if ended.returncode:
        pytest.skip(f"{name} does not run there: {ended.stderr.strip().splitlines()[-1]}")
    found, rate = json.loads(ended.stdout)
    return [[tuple(f) for f in row] for row in found], rate


@pytest.mark.parametrize("which", HALVES)
@pytest.mark.parametrize("locale", LOCALES)
def test_ours(benchmark, locale, which):
    benchmark.group = f"{locale}, templates {which}"
    labels = labelled(locale, which)
    ours(labels[:50])
    found, rate = benchmark.pedantic(lambda: ours(labels), rounds=1)
    benchmark.extra_info |= told(f"ours, {locale}, {which}", score(labels, found), rate)
    sure, _ = ours(labels, confirmed_only=True)
    benchmark.extra_info["confirmed"] = told(f"  confirmed, {locale}, {which}", score(labels, sure), rate)
    assert sum(len(spans) for _, spans in labels) > 300


@pytest.mark.parametrize("which", HALVES)
@pytest.mark.parametrize("name", ["presidio", "scrubadub"])
def test_rival(benchmark, name, which):
    benchmark.group = f"en_US, templates {which}"
    labels = labelled("en_US", which)
    found, rate = benchmark.pedantic(lambda: rival(name, labels), rounds=1)
    benchmark.extra_info |= told(f"{name}, en_US, {which}", score(labels, found), rate)
    assert len(found) == len(labels)
