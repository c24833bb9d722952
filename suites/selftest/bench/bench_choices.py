"""Multiple choice and generation beside lm-eval's own Hugging Face backend: items/s, tokens/s, and whether both choose alike.

    CHOICES_MODEL=/where/the/model/is pytest -s suites/selftest/bench/bench_choices.py

Same model folder, same bfloat16, same threads, one process: the golden set ``commonsense`` (1,183 questions of five
choices) as `Question: ...\\nAnswer:` and ` choice`, the tokens checked to be the same; blocks of it in turn, first
the one, then the other (ABBA), after each has taken the best of a few batch sizes on some of them. lm-eval normalizes in
float32 (softmax_dtype), as we do: on the grid of bfloat16 its sums tie. Items where the two choose differently are scored once
more in float32 by both. Then 48 golden addresses are answered by both in batches of 16, with the same stop and limit.

CHOICES_ITEMS takes fewer questions. Not collected by default: times are for people to read, no test asserts one.
"""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from harness import golden
from harness.engines import open_engine
from harness.evals import SAMPLING, choices, prompts
from harness.evals.bridge import lmeval
from harness.types import Prompt

pytestmark = [pytest.mark.selftest, pytest.mark.filterwarnings("ignore")]

GOLDEN = Path(__file__).resolve().parents[3] / "golden"
BLOCKS, SIZES, TUNING, ANSWERED = 8, (16, 32, 64), 80, 48


@pytest.fixture(scope="module")
def folder():
    if "CHOICES_MODEL" not in os.environ:
        pytest.skip("no model: name its folder in CHOICES_MODEL")
    return Path(os.environ["CHOICES_MODEL"])


@pytest.fixture(scope="module")
def questions():
    return golden.load("commonsense", GOLDEN)


@pytest.fixture(scope="module")
def texts(questions):
    found = choices(questions)
    return found[: int(os.environ.get("CHOICES_ITEMS", len(found)))]


def reference(folder, size, dtype="bfloat16"):
    from lm_eval.models.huggingface import HFLM

    return HFLM(str(folder), device="cpu", dtype=dtype, softmax_dtype="float32", batch_size=size)


def requests(texts):
    from lm_eval.api.instance import Instance

    return [
        Instance("loglikelihood", {}, (text.context, c), n, metadata=("commonsense", place, 1))
        for place, text in enumerate(texts)
        for n, c in enumerate(text.continuations)
    ]


def theirs(model, texts):
    return [total for total, _ in model.loglikelihood(requests(texts), disable_tqdm=True)]


def ours(engine, texts):
    return [sum(lp) for score in engine.logprobs(texts) for lp in score.logprobs]


def bridged(engine, texts):
    return [total for total, _ in lmeval.adapter(engine, greedy=set()).loglikelihood(requests(texts))]


def timed(work, *given):
    began, spent = time.perf_counter(), time.process_time()
    made = work(*given)
    return time.perf_counter() - began, time.process_time() - spent, made


def best(make, work, texts):
    """The batch size of the shortest time on some items, and the engine opened with it."""
    seconds = {}
    for size in SIZES:
        opened = make(size)
        work(opened, texts[:8])
        seconds[size] = timed(work, opened, texts)[0]
    size = min(seconds, key=seconds.get)
    return size, make(size), {size: f"{len(texts) / s:.0f}" for size, s in seconds.items()}


def picked(totals, texts):
    """(choice by sum, choice by sum per character) of each item, by lm-eval's own arithmetic."""
    found, at = [], 0
    for text in texts:
        sums = np.array(totals[at : at + len(text.continuations)])
        lengths = np.array([len(c) - 1 for c in text.continuations], float)  # without the space before it
        found.append((int(np.argmax(sums)), int(np.argmax(sums / lengths))))
        at += len(sums)
    return found


def same_tokens(engine, model, texts):
    for text in texts:
        for c, tokens in zip(text.continuations, engine.logprobs([text])[0].tokens, strict=True):
            context, continuation = model._encode_pair(text.context, c)
            assert tuple(continuation) == tokens and context == engine.tokenize(text.context)


def gaps(totals, texts, item, by):
    """What the two best choices of an item are apart, in nats, or nats per character."""
    at = sum(len(text.continuations) for text in texts[:item])
    here = texts[item].continuations
    values = sorted(t / (len(c) - 1 if by else 1) for t, c in zip(totals[at : at + len(here)], here, strict=True))
    return values[-1] - values[-2]


def test_multiple_choice(folder, questions, texts, capsys):
    import torch

    def show(line):
        with capsys.disabled():
            print(line, flush=True)

    threads = torch.get_num_threads()
    show(f"\n{len(texts)} questions of five choices, {folder.name[:8]}, bfloat16, {threads} threads, {BLOCKS} blocks in ABBA order")
    size, engine, tried = best(lambda n: open_engine("hf", folder, device="cpu", batch_items=n), ours, texts[:TUNING])
    show(f"ours    batch {size:3} (items/s on some of them by batch size: {tried})")
    other, model, tried = best(lambda n: reference(folder, n), theirs, texts[:TUNING])
    show(f"lm-eval batch {other:3} (items/s on some of them by batch size: {tried}; its own 'auto' comes to 64)")
    same_tokens(engine, model, texts[:: max(1, len(texts) // 200)])
    rivals = {"ours": (ours, engine), "ours through lm-eval's interface": (bridged, engine), "lm-eval 0.4.13, hf": (theirs, model)}
    seconds, cpu, totals = dict.fromkeys(rivals, 0.0), dict.fromkeys(rivals, 0.0), {name: [] for name in rivals}
    edges = np.linspace(0, len(texts), BLOCKS + 1).astype(int)
    for n, (a, b) in enumerate(pairwise(edges)):
        for name in list(rivals) if n % 2 == 0 else list(rivals)[::-1]:
            work, opened = rivals[name]
            took, spent, found = timed(work, opened, texts[a:b])
            seconds[name] += took
            cpu[name] += spent
            totals[name] += found
    last = seconds["lm-eval 0.4.13, hf"]
    show(f"\n{'':34}{'seconds':>9}{'cpu':>8}{'items/s':>9}{'ratio':>8}{'acc':>9}{'acc_norm':>10}")
    answers = [item["answer"] for item in questions.items[: len(texts)]]
    for name in rivals:
        chosen = picked(totals[name], texts)
        accuracy = [np.mean([pick[by] == answer for pick, answer in zip(chosen, answers, strict=True)]) for by in (0, 1)]
        rate = len(texts) / seconds[name]
        show(f"{name:34}{seconds[name]:9.1f}{cpu[name]:8.1f}{rate:9.1f}{last / seconds[name]:7.2f}x{accuracy[0]:9.4f}{accuracy[1]:10.4f}")
    assert np.allclose(totals["ours"], totals["ours through lm-eval's interface"], atol=0.5)
    differences(folder, texts, totals["ours"], totals["lm-eval 0.4.13, hf"], show)


def differences(folder, texts, mine, other, show):
    """Every item that the two decide differently, and what float32 says, by both."""
    apart = np.abs(np.array(mine) - np.array(other))
    show(
        f"\n|difference of a log-probability|: mean {apart.mean():.4f}, 99% {np.quantile(apart, 0.99):.4f}, largest {apart.max():.4f} nats"
    )
    a, b = picked(mine, texts), picked(other, texts)
    differing = [n for n in range(len(texts)) if a[n] != b[n]]
    show(f"the same choice: acc {sum(x[0] == y[0] for x, y in zip(a, b, strict=True))} of {len(texts)}, acc_norm "
         f"{sum(x[1] == y[1] for x, y in zip(a, b, strict=True))} of {len(texts)}")  # fmt: skip
    if not differing:
        return
    some = [texts[n] for n in differing]
    exact = open_engine("hf", folder, device="cpu", dtype="float32")
    float_ours, float_theirs = ours(exact, some), theirs(reference(folder, 16, "float32"), some)
    exact.close()
    left = np.abs(np.array(float_ours) - np.array(float_theirs)).max()
    show(f"float32, on the {len(some)} items: largest difference of the two {left:.2g} nats")
    true, check = picked(float_ours, some), picked(float_theirs, some)
    assert true == check
    right = {"ours": 0, "lm-eval": 0, "neither": 0}
    show(f"\n{'item':>6}{'by':>10}{'ours':>6}{'lm-eval':>9}{'float32':>9}{'gap: ours':>11}{'lm-eval':>9}{'float32':>9}")
    widest = 0.0
    for place, n in enumerate(differing):
        for by, name in enumerate(("acc", "acc_norm")):
            if a[n][by] == b[n][by]:
                continue
            who = "ours" if a[n][by] == true[place][by] else "lm-eval" if b[n][by] == true[place][by] else "neither"
            right[who] += 1
            wide = [gaps(mine, texts, n, by), gaps(other, texts, n, by), gaps(float_ours, some, place, by)]
            widest = max(widest, *wide[:2])
            show(f"{n:6}{name:>10}{a[n][by]:6}{b[n][by]:9}{true[place][by]:9}{wide[0]:11.4f}{wide[1]:9.4f}{wide[2]:9.4f}")
    show(f"chosen as in float32: {right}; the widest gap that turned: {widest:.4f}")


def test_generation(folder, capsys):
    from lm_eval.api.instance import Instance

    engine, model = open_engine("hf", folder, device="cpu", batch_items=16), reference(folder, 16)
    asked = [Prompt(p.id, text=engine.render(p.messages)) for p in prompts(golden.load("addresses", GOLDEN))[:ANSWERED]]
    asked.sort(key=lambda p: -len(engine.tokenize(p.text)))  # both batch longest first
    settings = {"until": ["<|im_end|>"], "max_gen_toks": SAMPLING.max_tokens, "do_sample": False}

    def by_us(some):
        answers = engine.generate(some, sampling=SAMPLING)
        return [answer.text for answer in answers]

    def by_them(some):
        instances = [Instance("generate_until", {}, (p.text, dict(settings)), 0, metadata=("addresses", n, 1)) for n, p in enumerate(some)]
        return model.generate_until(instances, disable_tqdm=True)

    by_us(asked[:2]), by_them(asked[:2])
    rivals, seconds, texts = {"ours": by_us, "lm-eval 0.4.13, hf": by_them}, {}, {}
    for n in range(0, len(asked), 16):
        for name in list(rivals) if n // 16 % 2 == 0 else list(rivals)[::-1]:
            took, _, made = timed(rivals[name], asked[n : n + 16])
            seconds[name] = seconds.get(name, 0.0) + took
            texts[name] = [*texts.get(name, []), *made]
    with capsys.disabled():
        print(f"\n{len(asked)} addresses, batches of 16, at most {SAMPLING.max_tokens} tokens")
        print(f"{'':34}{'seconds':>9}{'tokens':>8}{'tokens/s':>10}")
        for name, said in texts.items():
            tokens = sum(len(engine.tokenize(text, add_special=False)) for text in said)
            print(f"{name:34}{seconds[name]:9.1f}{tokens:8}{tokens / seconds[name]:10.1f}")
        equal = sum(x == y for x, y in zip(*texts.values(), strict=True))
        print(f"equal answers: {equal} of {len(asked)}")
