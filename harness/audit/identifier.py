"""Structured personal identifiers, each verified: by its check digits, its issuer, the numbering plan, or the words beside it.

Candidates are found in machine code (runs of digits, of hexadecimal groups, of letters with digits); only they reach Python. What is
*confirmed* passed a check that random characters fail; the rest are *possible*: right in form and place, but unproven or harmless
(a documentation address, an area code nobody has been given).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import cache, lru_cache, partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from harness.audit import literals
from harness.audit.model import Texts

__all__ = ["REGIONS", "Hit", "identifiers", "issuer", "luhn"]

REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "BR", "IN", "JP")
"""Whose national telephone formats are known, most likely first."""


class Hit(NamedTuple):
    """One identifier: bytes start to end of a text. ``masked`` tells its shape and never the datum."""

    text: int
    start: int
    end: int
    kind: str
    confirmed: bool
    masked: str


# --- where to look --------------------------------------------------------------------------------

OTHER, COUNTED, GAP, LETTER, DOT = range(5)
BEFORE, AFTER = 64, 40  # bytes of a text seen on either side of a candidate


def _classes(counted: bytes, gap: bytes = b"", letter: bytes = b"", dot: bytes = b"") -> Any:
    table: Any = np.zeros(256, np.uint8)
    for number, group in ((COUNTED, counted), (GAP, gap), (LETTER, letter), (DOT, dot)):
        table[np.frombuffer(group, np.uint8)] = number
    return table


DIGITS = b"0123456789"
LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
NUMBERS = _classes(DIGITS, gap=b" -/()+\xc2\xa0", dot=b".")
HEXES = _classes(b"0123456789abcdefABCDEF", gap=b"-", dot=b":")
TOKENS = _classes(DIGITS, letter=LETTERS)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _runs(data: Any, starts: Any, table: Any, counted: int, letters: int, size: int, dots: int, out: Any) -> int:  # pragma: no cover
    found = 0
    for text in range(len(starts) - 1):
        i, stop = starts[text], starts[text + 1]
        while i < stop:
            kind = table[data[i]]
            if kind == OTHER or kind == GAP or (kind == DOT and dots != 2):  # noqa: SIM109 - machine code
                i += 1
                continue
            first, last, gap, group, longest = i, i, 0, 0, 0
            n, lettered, dotted, gaps = 0, 0, 0, 0
            while i < stop:
                kind = table[data[i]]
                if kind == COUNTED or kind == LETTER:  # noqa: SIM109
                    n += kind == COUNTED
                    lettered += kind == LETTER
                    group = group + 1 if gap == 0 else 1
                    longest = max(longest, group)
                    last, gap = i, 0
                elif kind == DOT and dots == 3 and (i + 1 == stop or table[data[i + 1]] != COUNTED):
                    break  # the end of a sentence
                elif kind != OTHER and gap < 3:
                    dotted += kind == DOT
                    gaps += kind == GAP
                    gap += 1
                    if kind == DOT and dots == 2:
                        last = i
                else:
                    break
                i += 1
            if (n >= counted and lettered >= letters and last + 1 - first >= size) or (dots and dotted >= dots):
                if found < len(out):
                    out[found] = (text, first, last + 1, longest, gaps, dotted)
                found += 1
    return found


def _found(texts: Texts, table: Any, least: tuple[int, int, int, int]) -> Any:
    """The runs: int64[n, 6] of text, first and last byte in the data, longest group, gaps, dots."""
    room = max(1 << 12, len(texts.data) >> 8)
    while True:
        out: Any = np.empty((room, 6), np.int64)
        found = _runs(texts.data, texts.starts, table, *least, out)
        if found <= room:
            return out[:found]
        room = found


def _around(texts: Texts, runs: Any) -> Iterator[tuple[int, bytes, int, int, int]]:
    """(text, the bytes around, run inside them: from, to, place of the bytes in the text)."""
    view, (text, first, last) = memoryview(texts.data), runs[:, :3].T
    begin = texts.starts[text]
    low, high = np.maximum(begin, first - BEFORE), np.minimum(texts.starts[text + 1], last + AFTER)
    columns = (text, low, high, first - low, last - low, low - begin)
    for i, a, b, start, end, place in zip(*(column.tolist() for column in columns), strict=True):
        yield i, bytes(view[a:b]), start, end, place


def _worth(texts: Texts, runs: Any) -> Any:
    """Runs of digits that can be anything: written in groups, with a +, or near a word that says so: few numbers are."""
    first, last, longest, gaps, dots = runs[:, 1:].T
    grouped = (longest > 1) & ((gaps > 0) & (dots == 0) | (dots > 1) & (gaps < 2)) | (dots > 2)
    abroad = texts.data[np.maximum(first - 1, 0)] == ord("+")
    near = (longest > 1) & ~((dots == 1) & (gaps == 0)) & _worded(texts, first - BEFORE, last + AFTER)
    return runs[grouped | abroad | near]


def _worded(texts: Texts, low: Any, high: Any) -> Any:
    """Whether a word of CONTEXT lies between two places: a superset, ``_near`` decides."""
    which, text, ends = literals.find(CONTEXT, texts)
    ends = texts.starts[text] + ends
    begin = ends - np.array([len(word) for word in CONTEXT])[which]
    ends = np.sort(ends[(begin == 0) | (TOKENS[texts.data[begin - 1]] != LETTER)])
    return np.searchsorted(ends, high, side="right") > np.searchsorted(ends, low)


def identifiers(texts: Texts, regions: tuple[str, ...]) -> Iterator[Hit]:
    """Every identifier that is made of digits, or of letters and digits; several may overlap."""
    looks = (
        (partial(_number, regions=regions), _worth(texts, _found(texts, NUMBERS, (7, 0, 7, 3)))),
        (_hexadecimal, _found(texts, HEXES, (12, 0, 17, 2))),
        (_token, _found(texts, TOKENS, (2, 1, 9, 0))),
    )
    for look, runs in looks:
        for text, around, first, last, place in _around(texts, runs):
            for start, end, kind, confirmed, masked in look(around, first, last):
                yield Hit(text, place + start, place + end, kind, confirmed, masked)


Found = Iterator[tuple[int, int, str, bool, str]]  # start, end, kind, confirmed, masked


class Words:
    """Words that say what a number is: each begins a word, and is a whole one where it ends in "!"."""

    def __init__(self, *groups: str) -> None:
        self.words = [word.strip().encode() for group in groups for word in group.split(",")]
        alone = b"|".join(re.escape(word[:-1]) + rb"\b" if word.endswith(b"!") else re.escape(word) for word in self.words)
        self.pattern = re.compile(rb"(?i)(?<![a-z])(?:" + alone + rb")")


def _near(words: Words, around: bytes, start: int, end: int) -> bool:
    """Whether one of the words stands in the 64 bytes before, or in the 24 after."""
    search = words.pattern.search
    return bool(search(around, max(0, start - BEFORE), start) or search(around, end, end + 24))


# --- runs of digits -------------------------------------------------------------------------------

IPV4 = re.compile(rb"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
CARD = re.compile(rb"(?<![\w.,+])(?<!\d[ -])(?:\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5}|\d{12,19})(?!\w|[ ,.-]\d)")
CARD_WORDS = Words(
    "card!, cards!, credit, debit, visa!, mastercard, amex!, american express, discover!, diners, jcb!, maestro, cc!, cvv, creditcard, "
    "payment, paiement, kreditkarte, karte, carte!, tarjeta, carta!, cartao, cartão, カード"
)
SSN = re.compile(rb"(?<![\w.-])\d{3}([ -])\d{2}\1\d{4}(?!\w|[.-]\d)")
IDENTITY = re.compile(rb"(?<![\w.,+-])\d(?:[ .-]?\d){8,17}(?!\w|[.,-]\d)")
CPF = re.compile(rb"\d{3}\.\d{3}\.\d{3}-\d{2}")
VERSION = re.compile(rb"(?i)(?:version|release|build|section|chapter|clause|v)[\s.:]*\Z")
HOST = Words("ip!, ipv4, address, host, server, client, subnet, dns!, gateway, ping!, adresse, direcci, indirizzo")

ANY_IDENTITY = (
    "ssn!, social security, national id, identity, identification, id number, id no!, id card, tax id, taxpayer, tax number, tax no!, "
    "insurance n, sozialversicherung, securite sociale, sécurité sociale, codice fiscale"
)
IDENTITIES = {  # digits -> kind, module of python-stdnum, words of its own
    9: (("us-ssn", "us.ssn", "social"), ("us-itin", "us.itin", "itin!"), ("nl-bsn", "nl.bsn", "bsn!, burgerservice, sofi")),
    10: (("gb-nhs", "gb.nhs", "nhs!, national health"),),
    11: (
        ("de-idnr", "de.idnr", "idnr, identifikationsnummer, steuer, tin!"),
        ("pl-pesel", "pl.pesel", "pesel"),
        ("br-cpf", "br.cpf", "cpf!, cadastro"),
    ),
    12: (("in-aadhaar", "in_.aadhaar", "aadhar, aadhaar, adhaar, uidai, uid!"),),
    15: (("fr-nir", "fr.nir", "nir!, insee"),),
    18: (("cn-ric", "cn.ric", "身份, resident, citizen id"),),
}
IDENTITY_WORDS = {kind: Words(ANY_IDENTITY, words) for kinds in IDENTITIES.values() for kind, _, words in kinds}


def _number(around: bytes, first: int, last: int, regions: tuple[str, ...]) -> Found:
    phone = True
    for look in (_iban_groups, _ipv4, _cards, _ssn, _identity):
        for found in look(around, first, last):
            phone = False
            yield found
    if phone:
        yield from _phones(around, first, last, regions)


def _inside(pattern: re.Pattern[bytes], around: bytes, first: int, last: int) -> Iterator[re.Match[bytes]]:
    """Matches that begin in the run; what stands behind it is seen."""
    for match in pattern.finditer(around, first):
        if match.start() >= last:
            return
        yield match


IBAN_GROUPS = re.compile(rb"(?<![\w-])[A-Z]{2}\d\d(?: [A-Z\d]{4}){2,7}(?: [A-Z\d]{1,3})?(?!\w)")


def _iban_groups(around: bytes, first: int, last: int) -> Found:
    if not around[:first].rstrip(b" ")[-1:].isupper():
        return
    for match in IBAN_GROUPS.finditer(around, max(0, first - 16)):
        end = match.end()
        while end > match.start():  # the words behind it may be written in capitals too
            if _module("iban").is_valid(around[match.start() : end].decode()):
                characters = end - match.start() - around.count(b" ", match.start(), end)
                yield match.start(), end, "iban", True, f"IBAN ({match[0][:2].decode()}, {characters} characters)"
                break
            end = around.rfind(b" ", match.start(), end)


def _ipv4(around: bytes, first: int, last: int) -> Found:
    if around.count(b".", first, last) < 3:
        return
    for match in _inside(IPV4, around, first, last):
        parts = match[0].split(b".")
        if any(int(part) > 255 or (len(part) > 1 and part[:1] == b"0") for part in parts):
            continue
        if VERSION.search(around, max(0, match.start() - 16), match.start()):
            continue
        listed = all(len(part) == 1 for part in parts) and not _near(HOST, around, *match.span())  # 1.2.3.4: rather a heading
        public = ipaddress.IPv4Address(match[0].decode()).is_global
        yield *match.span(), "ip", public and not listed, f"IPv4 address ({'public' if public else 'not public'})"


def luhn(digits: bytes) -> bool:
    """Whether the last digit is the check digit (ISO/IEC 7812-1, annex B)."""
    total = sum(digits[-1::-2]) - 48 * len(digits[-1::-2])
    return (total + sum(d * 2 - 9 * (d > 4) for d in (c - 48 for c in digits[-2::-2]))) % 10 == 0


ISSUERS = (  # ISO/IEC 7812 ranges: prefix from, to, lengths
    ("visa", ((4, 4),), (13, 16, 19)),
    ("mastercard", ((51, 55), (2221, 2720)), (16,)),
    ("american express", ((34, 34), (37, 37)), (15,)),
    ("discover", ((6011, 6011), (644, 649), (65, 65)), (16, 17, 18, 19)),
    ("diners", ((300, 305), (3095, 3095), (36, 36), (38, 39)), (14, 15, 16, 17, 18, 19)),
    ("jcb", ((3528, 3589),), (16, 17, 18, 19)),
    ("unionpay", ((62, 62), (81, 81)), (16, 17, 18, 19)),
    ("maestro", ((5018, 5018), (5020, 5020), (5038, 5038), (5893, 5893), (6304, 6304), (6759, 6759), (6761, 6763)), tuple(range(12, 20))),
)


def issuer(digits: bytes) -> str | None:
    """The card network that issues numbers of this prefix and length."""
    for name, prefixes, lengths in ISSUERS:
        if len(digits) in lengths and any(low <= int(digits[: len(str(low))]) <= high for low, high in prefixes):
            return name
    return None


def _cards(around: bytes, first: int, last: int) -> Found:
    if last - first < 12:
        return
    for match in _inside(CARD, around, first, last):
        digits = re.sub(rb"\D", b"", match[0])
        if not luhn(digits) or not digits.strip(b"0"):
            continue
        network, worded = issuer(digits), _near(CARD_WORDS, around, *match.span())
        grouped = not match[0].isdigit()
        if worded or (grouped and network):
            yield *match.span(), "card", network is not None, f"payment card ({network or 'unknown issuer'}, {len(digits)} digits)"


@cache
def _module(name: str) -> Any:
    return import_module(f"stdnum.{name}")


def _ssn(around: bytes, first: int, last: int) -> Found:
    for match in _inside(SSN, around, first, last):
        written = match[0].decode().replace(" ", "-")
        worded = _near(IDENTITY_WORDS["us-ssn"], around, *match.span())
        for kind in ("us-ssn", "us-itin"):
            if (match[1] == b"-" or worded) and _module(kind.replace("-", ".")).is_valid(written):
                yield *match.span(), kind, True, f"{kind} (9 digits)"
                break
        else:
            if worded:
                yield *match.span(), "us-ssn", False, "us-ssn (9 digits, never issued)"


def _identity(around: bytes, first: int, last: int) -> Found:
    for match in _inside(IDENTITY, around, first, last):
        digits = re.sub(rb"\D", b"", match[0]).decode()
        for kind, module, _ in IDENTITIES.get(len(digits), ()):
            formatted = kind == "br-cpf" and CPF.fullmatch(match[0])
            if len(digits) == 9 and not match[0].isdigit():
                continue  # nine digits in groups are written in one way: SSN
            if (formatted or _near(IDENTITY_WORDS[kind], around, *match.span())) and _module(module).is_valid(digits):
                yield *match.span(), kind, True, f"{kind} ({len(digits)} digits)"
                break


# --- telephone numbers ----------------------------------------------------------------------------

PHONE_WORDS = Words(
    "phone, telephone, smartphone, fone!, telefon, téléphone, teléfono, tel!, call, ring!, dial, fax, mobile, cell, whatsapp, sms!, "
    "text me, text us, contact, reach, desk!, office!, handy!, mobil, portable, movil, móvil, hotline, 電話, 携帯, number is"
)
CONTEXT = sorted({word.rstrip(b"!") for words in (CARD_WORDS, PHONE_WORDS, *IDENTITY_WORDS.values()) for word in words.words})
PIECE = re.compile(rb"(?:[(+] ?){0,3}\d(?:[ .()/-]|\xc2\xa0|\d)*\d")
NORTH_AMERICAN = re.compile(r"(?:\(?\+?1\)?[ .-]?)?\(?[2-9]\d\d\)?[ .-]?[2-9]\d\d[ .-]?\d{4}")
NORTH_AMERICAN_DASHED = re.compile(rb"(?<!\d)(?:\+?1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d([.-]))[2-9]\d\d[.-]\d{4}(?!\d)")
APART = re.compile(rb" {2,}| ?/ | - ")
EXTENSION = re.compile(rb"[ ,]{0,2}(?:x|ext\.?|extension) ?\d{1,6}\b")
ZIP_PLUS_4 = re.compile(rb"\d{5}-\d{4}")
DATE = re.compile(rb"(?:\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4})(?!\d)")


def _phones(around: bytes, first: int, last: int, regions: tuple[str, ...]) -> Found:
    opening = re.search(rb"(?:\+ ?|\( ?){1,3}\Z", around[:first])
    first = opening.start() if opening else first
    if around[first - 1 : first] in (b".", b",", b"-") and around[first - 2 : first - 1].isdigit():
        return  # the tail of a decimal, or of something longer
    place = first
    many = sum(48 <= c <= 57 for c in around[first:last]) > 16
    for part in [*(APART.finditer(around, first, last) if many else ()), None]:
        yield from _phone(around, place, part.start() if part else last, regions)
        place = part.end() if part else last


def _phone(around: bytes, start: int, end: int, regions: tuple[str, ...]) -> Found:
    whole = PIECE.search(around, start, end)
    if not whole:
        return
    digits = sum(48 <= c <= 57 for c in whole[0])
    pieces = [whole] if digits <= 16 else list(NORTH_AMERICAN_DASHED.finditer(around, start, end))  # several in a line
    for piece in pieces:
        a, b = piece.span()
        tail = EXTENSION.match(around, b)
        if re.match(rb"[A-Za-z_%\d]|[.,:]\d", around[b : b + 2]) and not tail:
            continue
        if re.search(rb"(?:[\w$#=*]|\xc2\xa3|\xe2\x82\xac)\Z", around[max(0, a - 3) : a]) or DATE.match(piece[0]):
            continue
        if ZIP_PLUS_4.fullmatch(piece[0]):  # "mobile al 36608-9705" is a place
            continue
        number = piece[0].replace(b"\xc2\xa0", b" ").decode()
        context = _near(PHONE_WORDS, around, a, b)
        international = number.lstrip("( ").startswith("+")
        if not (international or context or _customary_shape(number)):
            continue
        said = _numbered(number, regions, context)
        if said:
            yield a, tail.end() if tail else b, "phone", said[0], f"phone ({said[1]})"


def _customary_shape(number: str) -> bool:
    """Written in groups as people write telephone numbers: not a sum, not a decimal, not a list of small numbers."""
    groups = re.findall(r"\d+", number)
    if not 8 <= sum(map(len, groups)) <= 15 or max(map(len, groups)) > 8 or re.search(r" [-+/*.]|//|--|^[01]{4}", number):
        return False
    if len(groups) < 3 and not (len(groups) == 2 and number.startswith(("(", "0"))):
        return False
    separators = set(re.sub(r"[\d()]", "", number))
    return len(separators) <= 2 and ("." not in separators or len(separators) == 1)


@lru_cache(1 << 14)
def _numbered(number: str, regions: tuple[str, ...], context: bool) -> tuple[bool, str] | None:
    """(confirmed, country code) of what the numbering plans allow; None for what is no telephone number."""
    import phonenumbers as plan

    written = re.sub(r"^(?:\( ?)?(?:\+|00) ?", "+", number)
    groups = re.findall(r"\d+", number)
    digits = sum(map(len, groups))
    american = len(groups) >= 3 and NORTH_AMERICAN.fullmatch(number) is not None
    possible = None
    for region in (None,) if written.startswith("+") else ("US",) if american and "US" in regions else regions:
        try:
            parsed = plan.parse(written, region)
        except plan.NumberParseException:
            continue
        code = f"+{parsed.country_code}"
        if plan.is_valid_number(parsed):
            customary = american or groups == re.findall(r"\d+", plan.format_number(parsed, plan.PhoneNumberFormat.NATIONAL))
            if region is None or (digits >= 9 and (customary or (context and len(groups) <= 5))):  # shorter ones are postcodes too
                return True, code
        elif plan.is_possible_number(parsed) and possible is None and ((context and digits >= 9) or american):
            possible = False, f"{code}, not in use"
    return possible


# --- hexadecimal groups, letters with digits ------------------------------------------------------

MAC = re.compile(rb"(?<![\w:-])[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:-])")


def _hexadecimal(around: bytes, first: int, last: int) -> Found:
    for match in _inside(MAC, around, first, last):
        yield *match.span(), "mac", len(set(re.sub(rb"[:-]", b"", match[0]))) > 1, "MAC address"
    while around[last - 1 : last] == b":" and around[last - 2 : last] != b"::":
        last -= 1
    span = around[first:last]
    if last - first > 39 or not (b"::" in span or span.count(b":") == 7) or sum(c != 58 for c in span) < 6:
        return
    if re.search(rb"[\w.:]\Z", around[:first]) or re.match(rb"[\w:]", around[last:]):
        return
    try:
        address = ipaddress.IPv6Address(span.decode())
    except ValueError:
        return
    yield first, last, "ip", address.is_global, f"IPv6 address ({'public' if address.is_global else 'not public'})"


IBAN = re.compile(rb"[A-Z]{2}\d\d[A-Z\d]{11,30}")
LETTERED = (  # kind, pattern of the token, module of python-stdnum, words it needs (None: its check is enough)
    ("it-codicefiscale", re.compile(rb"[A-Z]{6}[\dLMNP-V]{2}[A-EHLMPRST][\dLMNP-V]{2}[A-Z][\dLMNP-V]{3}[A-Z]"), "it.codicefiscale", None),
    ("es-dni", re.compile(rb"\d{8}[A-Z]"), "es.dni", Words(ANY_IDENTITY, "dni!, nif!, documento, identidad")),
    ("es-nie", re.compile(rb"[XYZ]\d{7}[A-Z]"), "es.nie", Words(ANY_IDENTITY, "nie!, nif!, extranjero, identidad")),
    ("in-pan", re.compile(rb"[A-Z]{3}[ABCFGHLJPTK][A-Z]\d{4}[A-Z]"), "in_.pan", Words(ANY_IDENTITY, "pan!, income tax, permanent account")),
    ("fr-nir", re.compile(rb"\d{5}2[AB]\d{8}"), "fr.nir", IDENTITY_WORDS["fr-nir"]),  # born in Corsica
    ("cn-ric", re.compile(rb"\d{17}X"), "cn.ric", IDENTITY_WORDS["cn-ric"]),
    ("wallet", re.compile(rb"[13][1-9A-HJ-NP-Za-km-z]{25,34}|bc1[02-9ac-hj-np-z]{11,71}"), "bitcoin", None),
)  # fmt: skip
ETHEREUM = re.compile(rb"0x[0-9a-fA-F]{40}")
CHAIN_WORDS = Words("eth!, ethereum, wallet, crypto, usdt, erc")


def _token(around: bytes, first: int, last: int) -> Found:
    token = around[first:last]
    if len(token) > 74 or around[first - 1 : first] == b"_" or around[last : last + 1] == b"_":
        return
    if IBAN.fullmatch(token) and _module("iban").is_valid(token.decode()):
        yield first, last, "iban", True, f"IBAN ({token[:2].decode()}, {len(token)} characters)"
        return
    for kind, pattern, module, words in LETTERED:
        if pattern.fullmatch(token) and (words is None or _near(words, around, first, last)) and _module(module).is_valid(token.decode()):
            yield first, last, kind, True, f"{kind} ({len(token)} characters)"
            return
    if ETHEREUM.fullmatch(token) and _near(CHAIN_WORDS, around, first, last):
        yield first, last, "wallet", False, "wallet (0x, 42 characters)"
