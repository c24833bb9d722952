"""A realistic file of mixed rows: every form, copies, near copies, leaks, private data, broken rows. What tests of whole audits read."""

from __future__ import annotations

import json
import random
from pathlib import Path

_LEXICON = """
amber autumn bitter bright careful clever copper distant dusty eager fertile formal gentle golden hollow humble lively modern
narrow noble patient quiet rapid remote rural silent simple slender steady tender velvet warm anchors arrows baskets beacons
bridges brushes cabins candles castles clouds cottages dancers deserts engines farmers ferries fields flutes forests gardens
glaciers harbours islands jackets kettles ladders lanterns libraries markets meadows mirrors museums orchards paintings
"""
WORDS = _LEXICON.split()
BROKEN = (
    b'{"messages": [',
    b"null",
    b'{"messages": "no list"}',
    b'{"text": "\\ud800"}',
    b"\xff\xfe not UTF-8",
    b'{"nothing": 1}',
    b'{"prompt": 3}',
)


def said(rng: random.Random, n: int) -> str:
    """n words and a full stop."""
    return " ".join(rng.choices(WORDS, k=n)).capitalize() + "."


def items(n: int = 20) -> list[dict[str, str]]:
    """An evaluation set: passages that stand nowhere else."""
    rng = random.Random(7)
    return [{"id": f"item-{i}", "input": said(rng, 24), "target": said(rng, 3)} for i in range(n)]


def row(rng: random.Random, i: int) -> bytes:
    """Row i: its form is drawn."""
    question, answer = said(rng, 12), said(rng, rng.randint(4, 40))
    forms = (
        {"id": f"r{i}", "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        },
        {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]},
        {"instruction": question, "input": "", "output": answer},
        {"prompt": question, "completion": answer},
        {"prompt": question, "chosen": answer, "rejected": said(rng, 9)},
        {"text": f"{question} {answer}", "doc": f"d{i // 3}"},
        {"question": question, "choices": [said(rng, 2), said(rng, 2)], "answer": 1},
        {"input": question, "ideal": answer},
    )
    return json.dumps(rng.choice(forms)).encode()


def odd(rng: random.Random) -> list[dict[str, str]]:
    """Rows that can be read and call for a look."""
    question, answer = said(rng, 12), said(rng, 9)
    return [
        {"prompt": question, "chosen": answer, "rejected": answer},
        {"prompt": f"How is a pipe bomb found? {question}", "completion": answer},
        {"text": "very " * 300},
        {"text": f"Je ne sais pas pourquoi il est parti hier soir sans rien dire à personne, mais {rng.random()} fois déjà c'était ainsi."},
    ]


def rows(n: int, seed: int = 0) -> list[bytes]:
    """n rows, about one in five with a defect."""
    rng = random.Random(seed)
    leaked = [item["input"] for item in items()]
    made: list[bytes] = []
    for i in range(n):
        kind = rng.random()
        if kind < 0.06 and made:
            made.append(rng.choice(made))
        elif kind < 0.10 and made:
            made.append(rng.choice(made).replace(b".", b"!"))
        elif kind < 0.12 and made:
            question = said(rng, 12)
            made += [json.dumps({"prompt": question, "completion": said(rng, 6)}).encode() for _ in range(2)]  # two answers
        elif kind < 0.13 and made:
            text = said(rng, 60)
            made += [json.dumps({"text": text + end}).encode() for end in ("", " It is late.")]
        elif kind < 0.14:
            made.append(json.dumps({"prompt": said(rng, 5), "completion": rng.choice(leaked)}).encode())
        elif kind < 0.16:
            made.append(
                json.dumps(
                    {"prompt": said(rng, 5), "completion": f"Write to ann.{rng.choice(WORDS)}@mail.com or call 030 901820."}
                ).encode()
            )
        elif kind < 0.18:
            made.append(rng.choice(BROKEN))
        elif kind < 0.20:
            made.append(json.dumps({"text": said(rng, 8) + rng.choice(("\x07", "\u202e", " caf\u00c3\u00a9", " \U0001f600"))}).encode())
        elif kind < 0.22:
            made.append(json.dumps(rng.choice(odd(rng))).encode())
        else:
            made.append(row(rng, i))
    return made


def write(path: Path, lines: list[bytes]) -> Path:
    """A JSONL file of these rows."""
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path
