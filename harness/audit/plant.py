"""The audit proves itself: known defects are put into a copy of the user's own data, and each must be found.

Rows are put in, never changed, so that the data itself is the clean twin. A planted row keeps the form and the fields of a
row of the data (its *donor*); what it says is either the donor's (copies, other answers) or fresh English that stands
nowhere else, so that it has one defect and no other. Nothing planted is anybody's: addresses, numbers and accounts are
published examples or from ranges reserved for them; keys are drawn, with a valid checksum.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from harness.audit import forms, rows
from harness.audit.leakage import References
from harness.audit.text import canonical
from harness.errors import AuditError, nearest
from harness.progress import Progress

__all__ = ["KINDS", "Plan", "Planted", "Recall", "false_alarms", "plant", "recall"]

_TRIES = 2000  # rows looked at before a kind is given up: it does not fit this data


@dataclass(frozen=True, slots=True)
class Planted:
    """One planted row, and the finding that is owed for it: of this check, of one of these kinds (none: of any)."""

    kind: str
    file: int  # index into the plan's files
    line: int  # from 1
    row: int  # physical row of the copy, from 0
    check: str
    kinds: tuple[str, ...]
    partner: int | None = None  # physical row of the copy that it is made of
    item: str | None = None  # the reference item it holds
    num: int | None = None  # of a near duplicate the exact similarity, num / den
    den: int | None = None


@dataclass(frozen=True)
class Plan:
    """What was planted where. ``inserted``: all rows put in, those of ``planted`` and the first halves of near pairs."""

    files: tuple[Path, ...]
    rows: int  # of the copy
    planted: tuple[Planted, ...]  # by row
    inserted: tuple[int, ...]  # ascending
    left_out: Mapping[str, str]  # kinds of which fewer were planted than asked for, and why

    def original(self, row: Any) -> Any:
        """The row of the data for each row of the copy (int array); -1 for what was put in."""
        row, put = np.asarray(row, np.int64), np.array(self.inserted, np.int64)
        before = np.searchsorted(put, row)
        here = (before < len(put)) & (put[np.minimum(before, len(put) - 1)] == row) if len(put) else np.zeros(len(row), bool)
        return np.where(here, -1, row - before)

    def to_json(self) -> dict[str, Any]:
        """As JSON; files by name."""
        return {
            "files": [path.name for path in self.files], "rows": self.rows, "planted": [asdict(one) for one in self.planted],
            "inserted": list(self.inserted), "left_out": dict(self.left_out),
        }  # fmt: skip


# --- fresh text -----------------------------------------------------------------------------------

_LEXICON = """
amber ancient autumn bitter blue brave bright broad calm careful clever coastal copper curious dark deep distant dusty eager early
eastern empty faint famous fertile formal frozen gentle golden grand green hollow humble idle jolly large lively lonely loyal mellow
modern narrow noble northern odd patient plain proud quiet rapid remote rough rural silent simple slender smooth solid southern spare
steady stern strange sturdy tall tender tidy vast velvet warm western wild wooden young

actors anchors arrows baskets beacons bells benches boats bridges brushes cabins candles canvases carpets castles chairs clocks clouds
coins cottages curtains dancers deserts drums engines farmers fences ferries fields flutes forests fountains gardens gates glaciers
hammers harbours hills islands jackets kettles kites ladders lamps lanterns lemons libraries maps markets meadows mills mirrors
mountains museums orchards paintings palaces parcels pebbles pianos pilots plates ponds potters rafters rivers roads sailors shelters
shepherds sparrows stables stations statues tailors teachers temples tents tigers towers trails trains tunnels valleys vases villages
violins wagons waiters walls wheels windows writers

admire answer avoid borrow build carry catch chase choose circle clean count cover describe draw enjoy explore fill find follow gather
greet guard guide help hide hold imitate improve join keep lead leave lift like lose measure meet mend miss move notice observe order
paint pass pick polish pull push reach remember repair replace return save search serve shake share show sketch study support touch
trade visit watch

above against along around before behind below beneath beside between beyond near opposite over past through toward under
"""
_ADJECTIVES, _NOUNS, _VERBS, _BESIDES = (words.split() for words in _LEXICON.split("\n\n"))
_CONTROLS = "\x00\x07\x08\x7f"


def _sentence(rng: random.Random) -> str:
    order = (_ADJECTIVES, _NOUNS, _VERBS, _ADJECTIVES, _NOUNS, _BESIDES, _ADJECTIVES, _NOUNS)
    return " ".join(map(rng.choice, order)).capitalize() + "."


def _sentences(rng: random.Random, n: int) -> str:
    return " ".join(_sentence(rng) for _ in range(n))


# --- rows of any form -----------------------------------------------------------------------------

_ROLES = {"role": ("role", "content", "user", "assistant"), "from": ("from", "value", "human", "gpt")}
_ONE_TEXT = ("text", "request")  # forms with nothing beside it
_BESIDE = ("tools", "functions", "system", "system_prompt")  # would make a fresh row more than it says
Turns = Sequence[tuple[str, str]]  # ("user", text), ("assistant", text), ...


@dataclass(frozen=True, slots=True)
class _Donor:
    """A row of the data, and how to make others of its form."""

    raw: bytes
    value: Mapping[str, Any]
    form: str
    keys: tuple[str, ...]
    row: int = -1  # of the copy

    @property
    def talks(self) -> bool:
        """Does the row hold a list of messages that any number of turns fits into?"""
        return self.form == "chat" or (self.form == "evals" and _is_talk(self.value["input"]))

    def fresh(self, turns: Turns, number: int, *, rejected: str | None = None) -> dict[str, Any]:
        """A row of this form that says the turns; the last is the answer, unless the form is a chat or there is one turn."""
        made = {key: value for key, value in self.value.items() if key not in _BESIDE}
        if "id" in made:
            made["id"] = -number if isinstance(made["id"], int) else f"planted-{number}"
        prompt, answer = turns[0][1], turns[-1][1] if len(turns) > 1 else None
        if self.form == "chat":
            made[self.keys[0]] = _talk(self.value[self.keys[0]], turns)
        elif self.form == "evals":
            before = turns[:-1] if answer is not None else turns
            made["input"] = _talk(self.value["input"], before) if self.talks else prompt
            made["ideal"] = [answer] if isinstance(self.value["ideal"], list) and answer is not None else answer
        elif self.form == "preference":
            self._pair(made, prompt, answer, _sentence_of(answer) if rejected is None else rejected)
        elif self.form in _ONE_TEXT:
            made[self.keys[0]] = f"{prompt}\n\n{answer}" if answer else prompt
        else:
            made |= {"choices": [answer or "this one", "none of these"]} if self.form == "choice" else {}
            made |= {"input": ""} if self.form == "alpaca" and "input" in made else {}
            made |= {self.keys[0]: prompt, self.keys[-1]: answer}
        return made

    def _pair(self, made: dict[str, Any], prompt: str, answer: str | None, rejected: str) -> None:
        sides = {"chosen": answer, "rejected": rejected}
        if made.get("prompt") is not None:
            listed = isinstance(made["prompt"], list)
            made["prompt"] = _talk(made["prompt"], [("user", prompt)]) if listed else prompt
            made |= {
                key: _talk(made[key], [("assistant", said)]) if _is_talk(made[key]) and said is not None else said
                for key, said in sides.items()
            }
        elif _is_talk(made["chosen"]):
            made |= {key: _talk(made[key], [("user", prompt), ("assistant", said)]) for key, said in sides.items() if said is not None}
        else:
            made |= {key: f"\n\nHuman: {prompt}\n\nAssistant: {said}" for key, said in sides.items()}

    def changed(self, change: Callable[[str, str], str]) -> dict[str, Any] | None:
        """The row with every text of the user changed by ``change(text, "user")`` and the last answer by ``change(text, "assistant")``."""
        made = dict(self.value)
        if self.form == "chat":
            talk = made[self.keys[0]]
            if not (_is_talk(talk) and len(talk) > 1 and _speaker(talk[-1]) == "assistant"):
                return None
            made[self.keys[0]] = _changed_talk(talk[:-1], change) + _changed_talk(talk[-1:], change)
            return made
        if self.form == "evals":
            ideal, listed = made["ideal"], isinstance(made["ideal"], list)
            if not (ideal[:1] if listed else [ideal]) or not isinstance(ideal[0] if listed else ideal, str):
                return None
            made["ideal"] = [change(ideal[0], "assistant"), *ideal[1:]] if listed else change(ideal, "assistant")
            if _is_talk(made["input"]):
                made["input"] = _changed_talk(made["input"], change)
            elif isinstance(made["input"], str):
                made["input"] = change(made["input"], "user")
            return made
        asked, answered = ("prompt", "chosen") if self.form == "preference" else (self.keys[0], self.keys[-1])
        if not isinstance(made.get(asked), str) or made.get(answered) is None:
            return None
        made[asked] = change(made[asked], "user")
        return made if answered == asked else made | {answered: self._changed_answer(made[answered], change)}

    def _changed_answer(self, answer: Any, change: Callable[[str, str], str]) -> Any:
        """An answer may be an object, or the place of a choice."""
        if self.form == "choice" and isinstance(answer, int):
            choices = self.value["choices"]
            return answer if change(choices[answer], "assistant") == choices[answer] else (answer + 1) % len(choices)
        said = answer if isinstance(answer, str) else orjson.dumps(answer).decode()
        other = change(said, "assistant")
        return answer if other == said else other


def _sentence_of(answer: str | None) -> str:
    """Another answer than the one given, and shorter."""
    return " ".join(reversed((answer or "none").split()[:4]))


def _is_talk(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and ("role" in one or "from" in one) for one in value)


def _talk(like: Any, turns: Turns) -> list[dict[str, str]]:
    """The turns as messages, in the names that ``like`` uses."""
    named = "from" if isinstance(like, list) and like and isinstance(like[0], dict) and "role" not in like[0] else "role"
    role, content, user, assistant = _ROLES[named]
    names = {"user": user, "assistant": assistant}
    return [{role: names.get(who, who), content: said} for who, said in turns]


def _speaker(message: Mapping[str, Any]) -> str:
    role = message.get("role", message.get("from"))
    return {"human": "user", "gpt": "assistant"}.get(role, role) if isinstance(role, str) else ""


def _changed_talk(talk: Sequence[Mapping[str, Any]], change: Callable[[str, str], str]) -> list[dict[str, Any]]:
    made = []
    for message in talk:
        key = "content" if "content" in message else "value"
        said, who = message.get(key), _speaker(message)
        last = message is talk[-1] and len(talk) == 1 and who == "assistant"
        if isinstance(said, str) and (who == "user" or last):
            message = {**message, key: change(said, who)}
        made.append(dict(message))
    return made


# --- what is planted ------------------------------------------------------------------------------


@dataclass(slots=True)
class _New:
    """A row to be put in."""

    data: bytes
    of: _New | None = None  # the first half of a pair, put in before
    donor: int | None = None  # row of the copy
    item: str | None = None
    near: tuple[int, int] | None = None
    elsewhere: bool = False  # belongs into a later file
    row: int = -1
    line: int = -1
    file: int = -1


@dataclass
class _Maker:
    """Makes planted rows; a method a kind, None where the donor does not fit."""

    rng: random.Random
    shape: forms.Shape
    threshold: Fraction
    shingle: int
    context: int
    phrases: Sequence[str]
    items: deque[tuple[str, str]]  # (label, text): each is planted whole once at most
    passages: Sequence[tuple[str, list[str]]]  # (label, words)
    made: int = 0

    def says(self, donor: _Donor, prompt: str | None = None, answer: str | None = None, **given: Any) -> bytes:
        self.made += 1
        turns = [
            ("user", _sentences(self.rng, 5) if prompt is None else prompt),
            ("assistant", _sentences(self.rng, 2) if answer is None else answer),
        ]
        return bytes(orjson.dumps(donor.fresh(turns, self.made, **given)))

    def within(self, needle: str) -> str:
        return f"{_sentences(self.rng, 3)} {needle} {_sentences(self.rng, 2)}"

    # schema

    def unreadable(self, donor: _Donor) -> _New | None:
        whole = self.says(donor)
        return _New(whole[: self.rng.randrange(len(whole) // 4, 3 * len(whole) // 4)])

    def empty_message(self, donor: _Donor) -> _New | None:
        blank = self.rng.choice(["", " ", "\n\t "])
        if not donor.talks:
            return None if donor.form in _ONE_TEXT else _New(self.says(donor, answer=blank))
        self.made += 1
        said = [_sentences(self.rng, n) for n in (4, 2, 2)]
        turns = [("user", said[0]), ("assistant", said[1]), ("user", blank), ("assistant", said[2])]
        return _New(orjson.dumps(donor.fresh(turns, self.made)))

    def unknown_role(self, donor: _Donor) -> _New | None:
        return self._talking(donor, [("narrator", 2), ("user", 4), ("assistant", 2)])

    def system_not_first(self, donor: _Donor) -> _New | None:
        return self._talking(donor, [("user", 4), ("system", 2), ("assistant", 2)])

    def _talking(self, donor: _Donor, turns: Sequence[tuple[str, int]]) -> _New | None:
        if not donor.talks:
            return None
        self.made += 1
        return _New(orjson.dumps(donor.fresh([(who, _sentences(self.rng, n)) for who, n in turns], self.made)))

    def missing_answer(self, donor: _Donor) -> _New | None:
        if donor.form == "text" or (donor.form == "preference" and donor.value.get("prompt") is None):
            return None
        self.made += 1
        return _New(orjson.dumps(donor.fresh([("user", _sentences(self.rng, 5))], self.made)))

    # characters

    def control_character(self, donor: _Donor) -> _New | None:
        return _New(self.says(donor, self.within(f"quiet{self.rng.choice(_CONTROLS)}fields remain")))

    def mojibake(self, donor: _Donor) -> _New | None:
        words = self.rng.sample(["café", "naïve", "façade", "déjà vu", "jalapeño", "crème brûlée", "Zürich", "Málaga"], 3)
        return _New(self.says(donor, self.within(" and ".join(words).encode().decode("cp1252", "replace") + " were there.")))

    # copies

    def exact_duplicate(self, donor: _Donor) -> _New | None:
        if self.rng.random() < 0.5 or len(donor.value) < 2:
            return _New(donor.raw, donor=donor.row)
        return _New(orjson.dumps(dict(reversed([*donor.value.items()]))), donor=donor.row)  # other bytes, the same messages

    def canonical_duplicate(self, donor: _Donor) -> _New | None:
        made = donor.changed(lambda said, who: _loud(said) if who == "user" else said)
        return None if made is None or made == donor.value else _New(orjson.dumps(made), donor=donor.row)

    def near_duplicate(self, donor: _Donor) -> _New | None:
        words, answer = _sentences(self.rng, 12).split(), _sentences(self.rng, 2)
        first = " ".join(words)
        apart = 2 * self.shingle  # no two changes meet in one shingle
        for changes in range(len(words) // apart, 0, -1):
            other = list(words)
            for i in range(changes):
                other[apart * i + self.shingle] = self.rng.choice([w for w in _ADJECTIVES if w != words[apart * i + self.shingle]])
            near = _similarity([(first, answer), (" ".join(other), answer)], self.shingle)
            if self.threshold <= Fraction(*near) < 1:
                base = _New(self.says(donor, first, answer))
                return _New(self.says(donor, " ".join(other), answer), of=base, near=near)
        return None

    def conflicting_answer(self, donor: _Donor) -> _New | None:
        if donor.form in _ONE_TEXT:
            return None
        heard: list[str] = []

        def change(said: str, who: str) -> str:
            heard.append(said if canonical(said) else "")
            return said if who == "user" else _sentences(self.rng, 2)

        made = donor.changed(change)
        return _New(orjson.dumps(made), donor=donor.row) if made is not None and len(heard) > 1 and all(heard) else None

    # leakage

    def golden_item(self, donor: _Donor) -> _New | None:
        if not self.items:
            return None
        label, said = self.items.popleft()
        alone = donor.form in _ONE_TEXT  # beside other words an item of a few is no leak
        return _New(self.says(donor, said, "" if alone else None), item=label)

    def golden_13_words(self, donor: _Donor) -> _New | None:
        return self._quoted(donor, 13)

    def golden_8_words(self, donor: _Donor) -> _New | None:
        return self._quoted(donor, 8)

    def _quoted(self, donor: _Donor, n: int) -> _New | None:
        fitting: dict[str, list[tuple[str, list[str]]]] = {}
        for label, words in self.passages:
            if len(words) >= n:
                fitting.setdefault(label.partition("/")[0], []).append((label, words))
        if not fitting:
            return None
        label, words = self.rng.choice(fitting[self.rng.choice(sorted(fitting))])  # every set as often, however large
        start = self.rng.randrange(len(words) - n + 1)
        return _New(self.says(donor, self.within(" ".join(words[start : start + n]))), item=label)

    # personal data, secrets, content

    def email(self, donor: _Donor) -> _New | None:
        name = f"{self.rng.choice(_ADJECTIVES)}.{self.rng.choice(_NOUNS)}{self.rng.randrange(100)}"
        return _New(
            self.says(donor, self.within(f"Write to {name}@{self.rng.choice(['example.com', 'example.org', 'example.net'])} today."))
        )

    def phone(self, donor: _Donor) -> _New | None:
        code, last = self.rng.choice(["202", "212", "312", "415", "617"]), self.rng.randrange(100)
        number = self.rng.choice([f"+1 {code}-555-01{last:02}", f"+44 20 7946 0{self.rng.randrange(1000):03}"])  # kept for fiction
        return _New(self.says(donor, self.within(f"Please call {number} today.")))

    def card(self, donor: _Donor) -> _New | None:
        number = self.rng.choice(
            ["4012 8888 8888 1881", "5555 5555 5555 4444", "5105 1051 0510 5100", "3782 822463 10005", "6011 0009 9013 9424"]
        )
        return _New(self.says(donor, self.within(f"The credit card number is {number}, it expires 12/29.")))

    def iban(self, donor: _Donor) -> _New | None:
        written = self.rng.choice(
            ["DE89 3704 0044 0532 0130 00", "GB29 NWBK 6016 1331 9268 19", "FR14 2004 1010 0505 0001 3M02 606", "NL91ABNA0417164300"]
        )
        return _New(self.says(donor, self.within(f"The account is IBAN {written} at the bank.")))

    def secret(self, donor: _Donor) -> _New | None:
        letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
        drawn = "".join(self.rng.choice(letters) for _ in range(30))
        check, end = zlib.crc32(drawn.encode()), ""
        for _ in range(6):
            check, digit = divmod(check, 62)
            end = letters[digit] + end
        return _New(self.says(donor, self.within(f"Then set the token to ghp_{drawn}{end} and go on.")))

    def sensitive_phrase(self, donor: _Donor) -> _New | None:
        return _New(self.says(donor, self.within(self.rng.choice(self.phrases)))) if self.phrases else None

    # the rest

    def over_long(self, donor: _Donor) -> _New | None:
        return _New(self.says(donor, _sentences(self.rng, self.context // 8 + 1))) if self.context else None

    def loop(self, donor: _Donor) -> _New | None:
        return _New(self.says(donor, f"{_sentence(self.rng)} " * 12))

    def group_in_two_splits(self, donor: _Donor) -> _New | None:
        known: Any = donor.value
        for key in self.shape.group.split("."):
            known = known.get(key) if isinstance(known, dict) else None
        return None if known is None or not self.shape.group else _New(self.says(donor), donor=donor.row, elsewhere=True)

    def chosen_is_rejected(self, donor: _Donor) -> _New | None:
        if donor.form != "preference":
            return None
        answer = _sentences(self.rng, 2)
        return _New(self.says(donor, answer=answer, rejected=answer))


def _loud(said: str) -> str:
    """The same text but for form: ASCII letters large, and an exclamation mark."""
    return "".join(char.upper() if char.isascii() else char for char in said) + " !" if any("a" <= char <= "z" for char in said) else said


def _similarity(pair: Sequence[Sequence[str]], k: int) -> tuple[int, int]:
    """The Jaccard index of the k-word shingles of two rows, as shared and united."""
    sets = []
    for texts in pair:
        words = [canonical(said) for said in texts]
        sets.append({(*said[i : i + k],) for said in words for i in range(max(1, len(said) - k + 1))})
    return len(sets[0] & sets[1]), len(sets[0] | sets[1])


KINDS: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...], str]] = {
    # kind: check, its kinds, checks that may rightly find something besides, why it may not fit
    "unreadable": ("schema", ("unreadable",), ("lengths",), ""),  # it has none
    "empty_message": ("schema", ("empty_message",), ("conflicts", "preferences"), "rows hold one text"),
    "unknown_role": ("schema", ("unknown_role",), (), "rows have no roles"),
    "missing_answer": ("schema", ("no_answer",), ("preferences",), "rows have no answer"),
    "system_not_first": ("schema", ("system_not_first",), (), "rows have no roles"),
    "control_character": ("characters", ("control", "ansi_escape"), (), ""),
    "mojibake": ("characters", ("mojibake",), (), ""),
    "exact_duplicate": ("duplicates", ("exact",), (), ""),
    "canonical_duplicate": ("duplicates", ("canonical", "exact"), ("conflicts",), "rows have no prompt in Latin letters"),
    "near_duplicate": ("near", ("near",), (), ""),
    "conflicting_answer": ("conflicts", ("conflict",), ("near",), "rows have no answer, or no prompt"),
    "golden_item": (
        "leakage",
        (),
        ("near", "duplicates", "conflicts"),
        "no reference set was given, or its items are all planted or too short",
    ),
    "golden_13_words": ("leakage", ("13-gram", "equal", "near"), (), "no reference set was given, or no item has 13 telling words"),
    "golden_8_words": ("leakage", ("8-gram", "13-gram", "equal", "near"), (), "no reference set was given, or no item has 8 telling words"),
    "email": ("private", ("email", "possible email"), (), ""),
    "phone": ("private", ("phone", "possible phone"), (), ""),
    "card": ("private", ("card", "possible card"), (), ""),
    "iban": ("private", ("iban", "possible iban"), (), ""),
    "secret": ("private", (), (), ""),
    "sensitive_phrase": ("sensitive", (), (), "no phrases were given"),
    "over_long": ("lengths", ("over_context", "answer_truncated"), (), "no context was given"),
    "loop": ("outliers", ("repetition",), (), ""),
    "group_in_two_splits": ("splits", ("group_in_two_splits",), (), "rows have no group, or there is one file"),
    "chosen_is_rejected": ("preferences", ("equal",), (), "rows are no preference pairs"),
}
"""Every kind of planted defect. Planted text is English, which a check of languages may rightly tell."""

_ANYWHERE = ("language",)

PHRASES = ("pipe bomb", "mass shooting", "commit suicide")
"""Sensitive phrases that are in the built-in list."""


# --- planting -------------------------------------------------------------------------------------


def plant(
    files: Sequence[Path],
    folder: Path,
    *,
    each: int | None = None,
    rate: float = 1e-4,
    seed: int = 0,
    kinds: Sequence[str] = tuple(KINDS),
    shape: forms.Shape | None = None,
    references: Sequence[References] = (),
    phrases: Sequence[str] = PHRASES,
    threshold: str = "4/5",
    shingle: int = 3,
    context: int = 0,
    progress: Progress = lambda task, done, total: None,
) -> Plan:
    """Writes copies of the files, as JSONL, into ``folder``, with ``each`` rows of every kind put in (or ``rate`` of the rows, at least 1).

    Positions and texts follow from ``seed`` and the data. ``references``: evaluation sets of which items are planted; ``phrases``:
    sensitive ones; ``context``: the tokens that a row may have, of which a word takes at least one. Near duplicates are at or above
    ``threshold`` in shingles of ``shingle`` words. A kind that does not fit the data is in the plan's ``left_out``, with the reason.
    Raises AuditError for a kind that is none, files that cannot be read, or a copy that would overwrite its original.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise AuditError(f"planted kind {kind!r}; {nearest(kind, list(KINDS))}")
    copies = _copies(files, folder)
    counts = [sum(len(chunk.raw) for chunk in rows.read([path])) for path in files]
    asked = each if each is not None else max(1, round(rate * sum(counts)))
    maker = _maker(random.Random(f"{seed}"), shape or forms.Shape(), references, phrases, threshold, shingle, context)
    work = _Planting(maker, counts, dict.fromkeys(kinds, asked))
    for number, copy in enumerate(copies):
        with copy.open("wb") as out:
            for raw in _raw(files[number]):
                work.row(number, raw, out.write)
            work.end(number, out.write)
        progress("planting", number + 1, len(files))
    return work.plan(tuple(copies))


def _copies(files: Sequence[Path], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    stems = [path.name.split(".")[0] or "data" for path in files]
    several = Counter(stems)
    copies = [folder / (f"{stem}-{i}.jsonl" if several[stem] > 1 else f"{stem}.jsonl") for i, stem in enumerate(stems)]
    for copy in copies:
        if any(copy.resolve() == path.resolve() for path in files):
            raise AuditError(f"{copy} is the data itself; plant into another folder")
    return copies


def _raw(path: Path) -> Iterator[bytes]:
    for chunk in rows.read([path]):
        for raw in chunk.raw:
            yield (
                raw if b"\n" not in raw else raw.replace(b"\r", b" ").replace(b"\n", b" ")
            )  # between values; in strings it would be broken


def _maker(
    rng: random.Random,
    shape: forms.Shape,
    references: Sequence[References],
    phrases: Sequence[str],
    threshold: str,
    shingle: int,
    context: int,
) -> _Maker:
    """Items are planted by their longest text, and quoted from where it tells something."""
    texts = [(f"{reference.name}/{item.id}", max(item.texts, key=len, default="")) for reference in references for item in reference.items]
    words = [(label, canonical(said)) for label, said in texts]
    telling = [(label, said) for label, said in words if len(said) >= 8 and all(_tells(said[i : i + 8]) for i in range(len(said) - 7))]
    whole = [texts[i] for i, (_, said) in enumerate(words) if _tells(said[:8])]
    rng.shuffle(whole)
    turn: Counter[str] = Counter()
    placed = []
    for label, said in whole:  # one of each set in turn
        name = label.partition("/")[0]
        placed.append((turn[name], name, label, said))
        turn[name] += 1
    whole = [(label, said) for _, _, label, said in sorted(placed)]
    seen: set[str] = set()
    once = [(label, said) for label, said in whole if not (said in seen or seen.add(said))]  # type: ignore[func-returns-value]
    return _Maker(rng, shape, Fraction(threshold), shingle, context, phrases, deque(once), telling)


def _tells(words: Sequence[str]) -> bool:
    """Whether a passage is more than numbers, letters and one word over and over."""
    return len({word for word in words if len(word) > 2 and not word.isdigit()}) >= 6


@dataclass
class _Planting:
    """The stream of rows, and what waits to be put in."""

    maker: _Maker
    counts: list[int]  # rows of each file
    asked: Mapping[str, int]
    at: int = 0  # rows of the data so far
    out: int = 0  # rows of the copy so far
    line: int = 0
    heap: list[tuple[int, int, str, _New]] = field(default_factory=list)  # (before which row of the data, turn, kind, row)
    put: list[tuple[str, _New]] = field(default_factory=list)
    tries: Counter[str] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)
    last: dict[str, _Donor | None] = field(default_factory=dict)  # a donor of this file that fitted

    def __post_init__(self) -> None:
        self.ends = np.cumsum(self.counts).tolist()
        self.jobs: deque[tuple[int, str]] = deque(sorted((self._donor_at(kind), kind) for kind, n in self.asked.items() for _ in range(n)))
        self.waiting: Counter[str] = Counter()

    def _donor_at(self, kind: str) -> int:
        files = len(self.ends) - (kind == "group_in_two_splits" and len(self.ends) > 1)
        return self.maker.rng.randrange(self.ends[files - 1])

    def row(self, file: int, raw: bytes, write: Callable[[bytes], Any]) -> None:
        self._put_in(file, self.at, write)
        write(raw + b"\n")
        here = self.out
        self.out, self.line, self.at = self.out + 1, self.line + 1, self.at + 1
        while self.jobs and self.jobs[0][0] < self.at:
            self.waiting[self.jobs.popleft()[1]] += 1
        if self.waiting:
            donor = self._donor(raw, here)
            for kind in list(self.waiting):
                if self._made(kind, donor, file):
                    self.tries[kind], self.last[kind] = 0, donor
                    continue
                self.tries[kind] += 1
                if self.tries[kind] >= _TRIES:
                    self._made(kind, self.last.get(kind), file)
                    del self.waiting[kind]

    def end(self, file: int, write: Callable[[bytes], Any]) -> None:
        """The file ends: what found no donor behind its place takes the last that there was."""
        for kind in list(self.waiting):
            self._made(kind, self.last.get(kind), file)
        self._put_in(file, self.at, write)
        self.last, self.line = {}, 0

    def _donor(self, raw: bytes, row: int) -> _Donor | None:
        try:
            value = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return None
        found = forms._form_of(value, self.maker.shape.form) if isinstance(value, dict) else None
        return None if found is None else _Donor(raw, value, *found, row)

    def _made(self, kind: str, donor: _Donor | None, file: int) -> bool:
        """Makes the rows of this kind that wait, all of one donor. False: it does not fit."""
        while donor is not None and self.waiting[kind]:
            new = getattr(self.maker, kind)(donor)
            if new is None or (new.elsewhere and file + 1 == len(self.ends)):
                return False
            self.made[kind] += 1
            self.waiting[kind] -= 1
            rng = self.maker.rng
            first, last = (self.ends[file] + 1, self.ends[-1]) if new.elsewhere else (self.at, self.ends[file])
            places = sorted(rng.randint(first, last) for _ in range(2 if new.of else 1))
            for place, one in zip(places, [new.of, new] if new.of else [new], strict=True):
                heapq.heappush(self.heap, (place, 2 * self.made.total() + (one is new), kind, one))
        self.waiting += Counter()  # drops zeros
        return donor is not None

    def _put_in(self, file: int, before: int, write: Callable[[bytes], Any]) -> None:
        while self.heap and self.heap[0][0] <= before:
            _, _, kind, new = heapq.heappop(self.heap)
            write(new.data + b"\n")
            self.line += 1
            new.file, new.row, new.line = file, self.out, self.line
            self.out += 1
            self.put.append((kind, new))

    def plan(self, files: tuple[Path, ...]) -> Plan:
        halves = {id(new.of) for _, new in self.put if new.of is not None}
        planted = []
        for kind, new in self.put:
            if id(new) not in halves:
                check, kinds, _, _ = KINDS[kind]
                num, den = new.near or (None, None)
                partner = new.of.row if new.of else new.donor
                planted.append(Planted(kind, new.file, new.line, new.row, check, kinds, partner, new.item, num, den))
        short = {
            kind: f"{self.made[kind]} of {n} planted: {KINDS[kind][3] or 'no row fits'}"
            for kind, n in self.asked.items()
            if self.made[kind] < n
        }
        return Plan(files, self.out, tuple(planted), tuple(sorted(new.row for _, new in self.put)), short)


# --- what came of it ------------------------------------------------------------------------------


class Recall(NamedTuple):
    """Of the planted rows of one kind those that were found; and the others."""

    found: int
    planted: int
    missed: tuple[Planted, ...]


def recall(plan: Plan, findings: pa.Table) -> dict[str, Recall]:
    """What the findings of an audit of the copy say of the planted rows, by kind, in the order of KINDS."""
    owed = {one.row: one for one in plan.planted}
    concerned = set(owed) | {one.partner for one in plan.planted if one.partner is not None}
    found: set[int] = set()
    for told in _told(findings, concerned):
        for row in (told["row"], told["partner"]):
            if row in owed and _is_owed(owed[row], told):
                found.add(row)
    made = {}
    for kind in KINDS:
        planted = [one for one in plan.planted if one.kind == kind]
        if planted:
            missed = tuple(one for one in planted if one.row not in found)
            made[kind] = Recall(len(planted) - len(missed), len(planted), missed)
    return made


def false_alarms(plan: Plan, findings: pa.Table, clean: pa.Table) -> pa.Table:
    """Findings of the copy that are owed to nothing planted and are not among ``clean``, the findings of the data itself.

    What follows from a planted row is none: its partners, what its donor already had, and what the checks named beside its
    kind say of it. What is said of a row is compared by check, kind, item and message: the copy's rows lie elsewhere.
    """
    owed = {one.row: one for one in plan.planted}
    known = set(zip(*(clean.column(name).to_pylist() for name in ("check", "kind", "row", "item", "message")), strict=True))
    inherited = {(check, kind, row) for check, kind, row, _, _ in known}
    columns = [findings.column(name).to_pylist() for name in ("check", "kind", "item", "message", "row", "partner")]
    original = plan.original(findings.column("row").to_numpy()).tolist()
    donors = {one.row: int(plan.original([one.partner])[0]) for one in plan.planted if one.partner is not None}
    kept = []
    for i, (check, kind, item, message, row, partner) in enumerate(zip(*columns, strict=True)):
        if (check, kind, original[i], item, message) in known or (check, kind, donors.get(row, -1)) in inherited:
            continue
        if not any(at in owed and check in _rightly(owed[at]) for at in (row, partner)):
            kept.append(i)
    return findings.take(pa.array(kept, pa.int64()))


def _rightly(one: Planted) -> tuple[str, ...]:
    return (one.check, *KINDS[one.kind][2], *_ANYWHERE)


def _is_owed(one: Planted, told: Mapping[str, Any]) -> bool:
    pair = told["row"] == one.row or (one.partner is not None and {told["row"], told["partner"]} == {one.row, one.partner})
    return pair and told["check"] == one.check and (not one.kinds or told["kind"] in one.kinds) and one.item in (None, told["item"])


def _told(findings: pa.Table, concerned: set[int]) -> list[dict[str, Any]]:
    """The findings that name one of the rows."""
    asked = pa.array(sorted(concerned), pa.int64())
    row, partner = (pc.is_in(findings.column(name), value_set=asked) for name in ("row", "partner"))
    return list(findings.select(["check", "kind", "row", "partner", "item"]).filter(pc.or_(row, partner)).to_pylist())
