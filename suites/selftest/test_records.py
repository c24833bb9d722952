"""The 64-byte record: what is written is read, what was cut off or changed is refused, every number follows."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ConfigError, EvidenceError
from harness.records import (
    CAUSES,
    ENDS,
    METRICS,
    OUTCOMES,
    Flag,
    Load,
    Objective,
    Record,
    derive,
    objective,
    objectives,
    pack,
    samples,
    unpack,
)

pytestmark = pytest.mark.selftest

u32 = st.integers(0, 2**32 - 1)
maybe = st.none() | u32
tokens = st.none() | st.tuples(u32, u32)


@st.composite
def records(draw):
    outcome = draw(st.sampled_from(OUTCOMES))
    why = draw(st.sampled_from(ENDS[1:] if outcome == "complete" else CAUSES))
    asked, made = draw(tokens) or (None, None)
    kinds = draw(st.sets(st.sampled_from([Flag.GOLDEN, Flag.REUSED, Flag.COALESCED, Flag.WARMUP, Flag.COOLDOWN])))
    return Record(
        draw(st.integers(0, 2**62)), draw(u32), draw(u32), outcome, why, draw(maybe), draw(maybe), draw(maybe), draw(maybe),
        draw(maybe), asked, made, draw(u32), draw(maybe), draw(maybe), draw(st.integers(0, 599)), draw(st.integers(0, 9)),
        draw(st.integers(0, 255)), sum(kinds),
    )  # fmt: skip


@given(st.lists(records(), max_size=5))
@settings(derandomize=True, deadline=None)
def test_what_is_written_is_read(rows):
    load = Load({"seed": 3, "window": [0, 10**9]}, tuple(rows))
    assert all(len(pack(row)) == 64 for row in rows)
    assert Load.from_bytes(load.to_bytes()).records == tuple(rows)


def test_the_layout_is_the_documented_one():
    """Told apart from the writer: offsets as a stranger would read them."""
    row = Record(7_000_000_123, 5, 9, "complete", "length", 11, 2, 300, 900, 950, 40, 17, 16, 60, 0xDEADBEEF, 200, 1, 3, Flag.GOLDEN)
    raw = pack(row)
    assert struct.unpack_from("<q", raw, 0) == (7_000_000_123,)
    assert struct.unpack_from("<12I", raw, 8) == (11, 2, 300, 900, 950, 5, 9, 40, 17, 16, 60, 0xDEADBEEF)
    assert struct.unpack_from("<BBHBBH", raw, 56) == (0, 2, 200, 1, 3, 0x1FF)


def test_what_is_absent_is_none_and_no_zero():
    raw = pack(Record(0, 0, 0, "error", "connect_failed"))
    assert unpack(raw)[0].first is None
    assert unpack(raw)[0].tokens is None
    assert unpack(pack(Record(0, 0, 0, "complete", "stop", first=0, tokens=0, prompt_tokens=0)))[0].first == 0


@pytest.mark.parametrize("cut", [1, 63, 64, 65])
def test_a_file_that_was_cut_off_is_refused(cut):
    whole = Load({}, tuple(Record(i, i, 0, "error", "shed") for i in range(3))).to_bytes()
    with pytest.raises(EvidenceError, match="cut off"):
        Load.from_bytes(whole[:-cut])


@pytest.mark.parametrize("data", [b"", b"{}", b"{}\n", b'{"schema":"requests/2","n":0}\n', b"[1]\n", b"\xff\xfe\n"])
def test_what_is_no_record_is_refused(data):
    with pytest.raises(EvidenceError, match="no records of requests"):
        Load.from_bytes(data)


@pytest.mark.parametrize(("offset", "value"), [(56, 6), (57, 0), (57, 31), (57, 255), (56, 1)])
def test_an_outcome_that_nobody_writes_is_refused(offset, value):
    raw = bytearray(pack(Record(0, 0, 0, "complete", "stop")))
    raw[offset] = value
    with pytest.raises(EvidenceError, match="unknown outcome"):
        unpack(bytes(raw))


def test_a_complete_request_has_no_cause_of_failure():
    with pytest.raises(ValueError, match="shed"):
        pack(Record(0, 0, 0, "complete", "shed"))
    with pytest.raises(ValueError, match="stop"):
        pack(Record(0, 0, 0, "error", "stop"))


# --- numbers ----------------------------------------------------------------------------------------


def _load(*rows):
    return Load({}, rows)


DONE = Record(
    2_000_000_000, 4, 0, "complete", "stop", sent=10, first=250_000, last=1_250_000, end=1_260_000, tokens=11, prompt_tokens=5, gap=180_000
)


def test_latencies_count_from_the_scheduled_arrival():
    assert samples(_load(DONE), "ttft")[0].value == 0.25
    assert samples(_load(DONE), "tpot")[0].value == 0.1
    assert samples(_load(DONE), "e2e")[0].value == 1.26
    assert samples(_load(DONE), "gap")[0].value == 0.18
    assert samples(_load(DONE), "ttft")[0].at == 2.0


def test_a_failed_request_stays_and_says_why():
    (row,) = samples(_load(DONE._replace(outcome="error", why="shed")), "ttft")
    assert (row.value, row.status) == (None, "shed")


def test_a_single_token_has_no_time_per_further_token():
    assert samples(_load(DONE._replace(tokens=1)), "tpot") == ()
    assert len(samples(_load(DONE._replace(tokens=1)), "ttft")) == 1


def test_warmup_and_cooldown_are_in_no_denominator():
    assert samples(_load(DONE._replace(flags=Flag.WARMUP), DONE._replace(flags=Flag.COOLDOWN)), "ttft") == ()


def test_the_worst_multiple_decides_goodput():
    within = (Objective("ttft", 0.99, 0.5), Objective("e2e", 0.95, 1.0))
    assert samples(_load(DONE), "worst", within)[0].value == 1.26
    assert samples(_load(DONE), "worst", within[:1])[0].value == 0.5


@pytest.mark.parametrize("limit", ["0ms", "-3ms", "nan", "nans", "inf s", "300", "300 MB", "", "1e3ms", "0.0s"])
def test_a_limit_that_bounds_nothing_is_refused(limit):
    with pytest.raises(ConfigError, match="bound_invalid"):
        objective("ttft_p99", limit)


@pytest.mark.parametrize("name", ["ttft", "ttft_p100", "ttft_p49", "ttft_p9", "ttft_px", "latency_p99", "ttft_p99.", "TTFT_p99"])
def test_a_name_that_means_nothing_is_refused(name):
    with pytest.raises(ConfigError, match="objective"):
        objective(name, "1s")


@pytest.mark.parametrize(("said", "seconds"), [("300ms", 0.3), ("1.5s", 1.5), (".5 s", 0.5), ("250us", 0.00025), ("2 min", 120.0)])
def test_a_limit_is_read_in_its_unit(said, seconds):
    assert objective("ttft_p99.9", said).limit == pytest.approx(seconds)
    assert objective("ttft_p99.9", said).share == 0.001
    assert objective("ttft_p99.9", said).name == "ttft_p99.9"


def test_rows_are_derived_from_the_bytes_as_the_conditions_say():
    raw = _load(DONE).to_bytes()
    assert derive(raw, {"derived": {"metric": "ttft"}}) == samples(_load(DONE), "ttft")
    within = {"ttft_p99": "500ms", "e2e_p95": "1s"}
    assert derive(raw, {"derived": {"metric": "worst", "within": within}}) == samples(_load(DONE), "worst", objectives(within))
    with pytest.raises(EvidenceError, match="derived"):
        derive(raw, {})
    with pytest.raises(ConfigError, match="no metric"):
        derive(raw, {"derived": {"metric": "speed"}})
    assert set(METRICS) == {"ttft", "tpot", "e2e", "gap"}
