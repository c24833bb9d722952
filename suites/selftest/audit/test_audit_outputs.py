"""Every row is in clean or in blocked, with its reasons; nothing that is written does harm where it is read."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.audit import outputs
from harness.audit import rows as reader
from harness.audit.baseline import Baseline, Settled, Waiver, settle
from harness.audit.keys import dense
from harness.audit.model import FINDINGS, Rows, no_findings
from harness.audit.outputs import policy
from harness.audit.writing import plain, plain_column, shown_names, whole
from harness.errors import AuditError

pytestmark = pytest.mark.selftest

POLICY = {"*": "block", "r": "remark", "b.mild": "remark", "r.possible": "remark"}


def dataset(folder: Path, *files: Sequence[bytes], suffix: str = ".jsonl") -> Rows:
    """Files of these lines, and their Rows; what the outputs do not look at is left empty."""
    paths = [folder / f"data {number}{suffix}" for number in range(len(files))]
    for path, lines in zip(paths, files, strict=True):
        path.write_bytes(b"".join(line + b"\n" for line in lines))
    chunks = list(reader.read(paths))
    unique, firsts = dense(np.concatenate([chunk.digests for chunk in chunks]))
    digests = np.concatenate([chunk.digests for chunk in chunks])[firsts]
    nothing, none = np.zeros(0, np.int8), pa.nulls(len(digests), pa.string())
    columns = [np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in ("line", "offset", "size")]
    file = np.concatenate([np.full(len(chunk.raw), chunk.file, np.int32) for chunk in chunks])
    return Rows(
        tuple(map(str, paths)), file, *columns, unique, digests, np.ones(len(digests), np.int8), np.zeros(len(digests) + 1, np.int64),
        nothing, nothing, nothing, np.zeros((0, 2), np.uint64), none, none, none,
    )  # fmt: skip


def chunks(rows: Rows) -> Iterator[reader.Chunk]:
    return reader.read([Path(name) for name in rows.files])


def findings(*told: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{"check": "b", "kind": "k", **finding} for finding in told], schema=FINDINGS)


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def split(folder: Path, rows: Rows, table: pa.Table, **options: Any) -> outputs.Split:
    return outputs.split(rows, table, chunks(rows), folder / "clean.jsonl", folder / "blocked.jsonl", policy=POLICY, **options)


# --- clean and blocked ----------------------------------------------------------------------------

LINE = st.sampled_from([b'{"a": 1}', b'{"a":2}', b'["\xc3\xa4"]', b"not json", b"broken \xff\xfe", b'{"s": "\\n \\ud800"}'])
FINDING = st.fixed_dictionaries(
    {"check": st.sampled_from(["b", "r", "private"]), "kind": st.sampled_from(["k", "mild"]), "at": st.integers(0, 99)},
    optional={"partner": st.integers(0, 99), "score": st.floats(0, 1), "detail": st.text(max_size=3)},
)


@settings(derandomize=True, deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(st.lists(LINE, min_size=1, max_size=6), min_size=1, max_size=2), told=st.lists(FINDING, max_size=10))
def test_every_row_is_in_exactly_one_file(tmp_path: Path, data: list[list[bytes]], told: list[dict[str, Any]]) -> None:
    rows = dataset(tmp_path, *data)
    placed = []
    for finding in told:
        partner = {"partner": finding["partner"] % rows.n} if "partner" in finding else {}
        detail = {"detail": finding["detail"].encode("utf-8", "replace").decode()} if "detail" in finding else {}
        placed.append({**finding, "row": finding["at"] % rows.n, **partner, **detail})
    said = split(tmp_path, rows, findings(*({k: v for k, v in f.items() if k != "at"} for f in placed)))
    flat = [line for lines in data for line in lines]
    stops = [f for f in placed if f["check"] != "r" and (f["check"], f["kind"]) != ("b", "mild")]
    stopped = {f["row"] for f in stops}
    hidden = {f["row"] for f in placed if f["check"] == "private"}
    assert lines_of(tmp_path / "clean.jsonl") == [line for i, line in enumerate(flat) if i not in stopped]
    blocked = [json.loads(line) for line in lines_of(tmp_path / "blocked.jsonl")]
    assert [b["row"] for b in blocked] == sorted(stopped)
    assert (said.rows, said.clean, said.blocked, said.redacted) == (rows.n, rows.n - len(stopped), len(stopped), len(stopped & hidden))
    assert said.by == {
        name: len({f["row"] for f in stops if f"{f['check']}.{f['kind']}" == name}) for name in {f"{f['check']}.{f['kind']}" for f in stops}
    }
    for b in blocked:
        i = b["row"]
        assert (b["file"], b["line"], b["offset"]) == (f"data {rows.file[i]}.jsonl", rows.line[i], rows.offset[i])
        assert [(r["check"], r["kind"], r.get("score")) for r in b["reasons"]] == [
            (f["check"], f["kind"], f.get("score")) for f in stops if f["row"] == i
        ]
        raw = base64.b64decode(b["raw_base64"]) if "raw_base64" in b else b["raw"].encode() if "raw" in b else None
        assert raw == (None if i in hidden else flat[i])


def test_reasons_name_the_partner_by_line_and_file(tmp_path: Path) -> None:
    rows = dataset(tmp_path, [b'{"a":1}', b'{"b":2}'], [b'{"a":1}'])
    split(tmp_path, rows, findings({"row": 1, "partner": 0, "num": 4, "den": 5, "score": 0.8}, {"row": 2, "partner": 0, "detail": "same"}))
    first, second = (json.loads(line) for line in lines_of(tmp_path / "blocked.jsonl"))
    assert first["reasons"] == [{"check": "b", "kind": "k", "score": 0.8, "num": 4, "den": 5, "partner_line": 1}]
    assert second["reasons"] == [{"check": "b", "kind": "k", "partner_line": 1, "partner_file": "data 0.jsonl", "detail": "same"}]
    assert lines_of(tmp_path / "clean.jsonl") == [b'{"a":1}']  # the partner passes


def test_personal_data_are_in_neither_file_even_when_waived(tmp_path: Path) -> None:
    secret = b'{"text": "jane.doe@example.org"}'
    rows = dataset(tmp_path, [secret, b"{}"])
    table = findings({"row": 0, "check": "private", "kind": "email"}, {"row": 0})
    waiver = Waiver("w", "private", None, None, None, (1, 1), None, "known", date(2027, 1, 1))
    said = split(tmp_path, rows, table, settled=settle(table, rows, None, [waiver]))
    assert said.redacted == 1 and said.by == {"b.k": 1}
    assert b"jane" not in (tmp_path / "blocked.jsonl").read_bytes() + (tmp_path / "clean.jsonl").read_bytes()
    assert json.loads(lines_of(tmp_path / "blocked.jsonl")[0])["digest"] == rows.digests[0].tobytes().hex()


def test_what_is_waived_passes_what_is_only_known_does_not(tmp_path: Path) -> None:
    rows = dataset(tmp_path, [b'{"a":1}', b'{"a":2}'])
    table = findings({"row": 0}, {"row": 1})
    waiver = Waiver("w", "b", None, None, None, (2, 2), None, "fine", date(2027, 1, 1))
    split(tmp_path, rows, table, settled=settle(table, rows, Baseline.of(table, rows), [waiver]))
    assert lines_of(tmp_path / "clean.jsonl") == [b'{"a":2}']


def test_rows_of_an_array_that_span_lines_become_one_line_each(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(b'[{"a":\n 1}, {"b": "x\\ny"}]')
    (chunk,) = reader.read([path])
    unique, firsts = dense(chunk.digests)
    rows = dataset(tmp_path, [b"1", b"2"])
    rows = Rows(**{**{name: getattr(rows, name) for name in Rows.__dataclass_fields__}, "unique": unique, "digests": chunk.digests[firsts]})
    outputs.split(rows, no_findings(), [chunk], tmp_path / "clean.jsonl", tmp_path / "blocked.jsonl")
    assert list(map(json.loads, lines_of(tmp_path / "clean.jsonl"))) == [{"a": 1}, {"b": "x\ny"}]


@pytest.mark.parametrize(
    ("after", "complaint"),
    [
        ([b'{"a":1}', b'{"a":3}'], "data 0.jsonl, line 2: not the row that was audited"),
        ([b'{"a":1}'], "2 rows were audited, now 1 are read"),
        ([b'{"a":1}', b'{"a":2}', b'{"a":3}'], "after row 2: not the row"),
    ],
)
def test_a_file_that_changed_since_is_refused_and_nothing_is_written(tmp_path: Path, after: list[bytes], complaint: str) -> None:
    rows = dataset(tmp_path, [b'{"a":1}', b'{"a":2}'])
    (tmp_path / "clean.jsonl").write_bytes(b"old")
    dataset(tmp_path, after)
    with pytest.raises(AuditError, match=complaint):
        split(tmp_path, rows, findings({"row": 0}))
    assert (tmp_path / "clean.jsonl").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean.jsonl", "data 0.jsonl"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, MemoryError])
def test_a_failure_half_way_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    rows = dataset(tmp_path, [b'{"a":1}', b'{"a":2}'])
    for name in ("clean.jsonl", "blocked.jsonl"):
        (tmp_path / name).write_bytes(b"old")

    def failing() -> Iterator[Any]:
        (chunk,) = chunks(rows)
        yield reader.Chunk(0, chunk.line[:1], chunk.offset[:1], chunk.size[:1], chunk.raw[:1], chunk.digests[:1])
        raise error

    with pytest.raises(AuditError if error is OSError else error):
        outputs.split(rows, no_findings(), failing(), tmp_path / "clean.jsonl", tmp_path / "blocked.jsonl")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*d.jsonl")} == {"blocked.jsonl": b"old"}
    assert (tmp_path / "clean.jsonl").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_clean_file_never_stands_beside_the_blocked_rows_of_another_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = dataset(tmp_path, [b'{"a":1}'])
    for name in ("clean.jsonl", "blocked.jsonl"):
        (tmp_path / name).write_bytes(b"old")
    moved: list[str] = []

    def replace(source: str, target: Path) -> None:
        moved.append(Path(target).name)
        if len(moved) == 2:
            raise OSError("killed between the two")
        Path(source).rename(target)

    monkeypatch.setattr("harness.audit.writing.os.replace", replace)
    with pytest.raises(AuditError, match="killed"):
        split(tmp_path, rows, no_findings())
    assert moved == ["blocked.jsonl", "clean.jsonl"]
    assert not (tmp_path / "clean.jsonl").exists() and (tmp_path / "blocked.jsonl").read_bytes() == b""


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AuditError, match=r"file/x: could not be written"), whole(tmp_path / "file" / "x"):
        pass


# --- policy ---------------------------------------------------------------------------------------


def test_the_nearest_entry_decides_and_what_none_covers_blocks() -> None:
    own = {"a": "remark", "a.k": "block", "a.possible": "block"}
    names = ["a.j", "a.k", "a.possible email", "z.k"]
    assert [policy.action(own, name) for name in names] == ["remark", "block", "block", "block"]
    assert [policy.action({**own, "*": "remark"}, name) for name in names] == ["remark", "block", "block", "remark"]


def test_a_policy_with_an_unknown_check_or_action_is_refused() -> None:
    assert policy.policy_of({"mine.k": "remark"}, ["mine"])["mine.k"] == "remark"
    with pytest.raises(AuditError, match=r"policy 'mien.k': no such check; did you mean 'mine'"):
        policy.policy_of({"mien.k": "remark"}, ["mine"])
    with pytest.raises(AuditError, match=r"'mine' = 'pass': expected one of block, remark"):
        policy.policy_of({"mine": "pass"}, ["mine"])


@pytest.mark.parametrize("name", policy.RULES)
def test_every_rule_says_what_it_does_and_why(name: str) -> None:
    action, text = policy.RULES[name]
    assert action in policy.ACTIONS and text.endswith(".") and len(text) > 30
    assert policy.help_of(name) == text and policy.POLICY[name] == action


def test_what_its_check_calls_a_remark_does_not_block() -> None:
    asked = [
        "schema.two_in_a_row",
        "schema.no_answer",
        "characters.html_tag",
        "characters.control",
        "private.possible email",
        "private.email",
    ]
    assert [policy.action(policy.POLICY, name) for name in asked] == ["remark", "block"] * 3
    assert policy.help_of("schema.no_answer") == policy.RULES["schema"][1]


# --- tables ---------------------------------------------------------------------------------------

HOSTILE = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "  =1",
    "＝1",
    "\t=1",
    "\r=1",
    "a\nb",
    'say "hi", x',
    "\x1b[31m",
    "\u202egnp",
    "\u200b",
    "\ufeffx",
    "\U000e0041",
    "'",
    "é",
    "",
]


def test_cells_do_not_act_in_a_spreadsheet(tmp_path: Path) -> None:
    rows = dataset(tmp_path, [b"{}"] * len(HOSTILE))
    table = findings(*({"row": i, "item": text, "detail": text} for i, text in enumerate(HOSTILE)))
    outputs.write_csv(tmp_path / "f.csv", outputs.located(rows, table))
    with (tmp_path / "f.csv").open(newline="", encoding="utf-8") as stream:
        told = list(csv.DictReader(stream))
    assert len(told) == len(HOSTILE)
    for row, text in zip(told, HOSTILE, strict=True):
        assert row["item"] == row["detail"] == ("'" if re.match(r"\s*[=+@＝-]", plain(text)) else "") + plain(text)
        assert not re.match(r"\s*[=+\-@＝]", row["item"]) and row["item"].isprintable()
        assert row["file"] == "data 0.jsonl" and row["digest"] == rows.digests[0].tobytes().hex()
    assert [row["item"][:1] for row in told[:6]] == ["'"] * 6


@settings(derandomize=True, deadline=None, max_examples=200)
@given(texts=st.lists(st.none() | st.text(max_size=5), max_size=5))
def test_a_column_is_made_plain_as_each_text_is(texts: list[str | None]) -> None:
    texts = [text if text is None else text.encode("utf-8", "replace").decode() for text in texts]
    made = plain_column(pa.chunked_array([pa.array(texts, pa.string())]))
    assert made.to_pylist() == [text if text is None else plain(text) for text in texts]


@pytest.mark.parametrize("text", [chr(c) for c in (0, 10, 27, 0x7F, 0x85, 0x200B, 0x200E, 0x202E, 0x2028, 0x2066, 0xFEFF, 0xE0041)])
def test_characters_that_act_or_hide_are_shown_as_escapes(text: str) -> None:
    assert plain(f"a{text}b") == f"a{text.encode('unicode_escape').decode()}b" and plain(text).isascii()


def test_findings_are_located(tmp_path: Path) -> None:
    rows = dataset(tmp_path, [b'{"a":1}', b'{"b":22}'], [b'{"a":1}'])
    table = findings({"row": 1}, {"row": 2, "partner": 0, "message": 1, "start": 2, "end": 5, "num": 1, "den": 2, "score": 0.5})
    told = outputs.located(rows, table).to_pylist()
    assert [(t["line"], t["offset"], Path(t["file"]).name, t["partner_line"], t["partner"]) for t in told] == [
        (2, 8, "data 0.jsonl", None, None),
        (1, 0, "data 1.jsonl", 1, 0),
    ]
    assert told[1]["partner_file"] == "data 0.jsonl" and told[0]["partner_file"] is None
    known = Baseline.of(table.slice(0, 1), rows)
    waiver = Waiver("w", "b", None, None, "data 1.jsonl", (1, 1), None, "fine", date(2027, 1, 1))
    assert outputs.located(rows, table, settle(table, rows, known, [waiver])).column("status").to_pylist() == ["known", "waived"]
    assert outputs.located(rows, table).column("status").to_pylist() == ["new", "new"]
    assert outputs.located(rows, no_findings()).num_rows == 0


def test_json_lines_hold_what_the_table_holds(tmp_path: Path) -> None:
    rows = dataset(tmp_path, [b"{}"] * 3)
    table = outputs.located(rows, findings({"row": 0}, {"row": 1, "score": 0.25}, {"row": 2, "detail": "\u202e"}))
    outputs.write_jsonl(tmp_path / "f.jsonl", table)
    outputs.write_jsonl(tmp_path / "f.jsonl.gz", table)
    data = (tmp_path / "f.jsonl").read_bytes()
    packed = (tmp_path / "f.jsonl.gz").read_bytes()
    assert gzip.decompress(packed) == data and packed[3:8] == bytes(5)  # neither name nor time in it
    assert [json.loads(line) for line in data.splitlines()] == [{k: v for k, v in t.items() if v is not None} for t in table.to_pylist()]
    assert b"\\\\u202e" in data


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["data/a.jsonl", "b.jsonl"], ["data/a.jsonl", "b.jsonl"]),
        (["/home/me/train/a.jsonl", "/home/me/eval/a.jsonl"], ["train/a.jsonl", "eval/a.jsonl"]),
        (["/home/me/a.jsonl"], ["a.jsonl"]),
        (["../data/a.jsonl"], ["a.jsonl"]),
        ([], []),
    ],
)
def test_no_path_of_a_machine_is_told(files: list[str], names: list[str]) -> None:
    assert shown_names(files) == names


# --- SARIF ----------------------------------------------------------------------------------------


def check_sarif(log: dict[str, Any]) -> list[dict[str, Any]]:
    """What the schema and the text of SARIF 2.1.0 require of the parts that are used here; returns the results."""
    assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-schema-2.1.0.json")
    assert set(log) <= {"version", "$schema", "runs", "properties"}
    (run,) = log["runs"]
    assert set(run) <= {"tool", "invocations", "artifacts", "results", "properties", "columnKind"}
    driver = run["tool"]["driver"]
    assert driver["name"] and isinstance(driver["version"], str)
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids)
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"] and rule["help"]["text"] and rule["defaultConfiguration"]["level"] in ("error", "note")
    for invocation in run["invocations"]:
        assert invocation["executionSuccessful"] is True
        assert all(n["message"]["text"] and n["level"] in ("note", "warning") for n in invocation["toolExecutionNotifications"])
    uris = [artifact["location"]["uri"] for artifact in run["artifacts"]]
    assert all(re.fullmatch(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+", uri) for uri in uris)
    for result in run["results"]:
        assert set(result) <= {
            "ruleId", "ruleIndex", "level", "message", "locations", "relatedLocations", "partialFingerprints", "suppressions", "properties",
        }  # fmt: skip
        assert ids[result["ruleIndex"]] == result["ruleId"] and result["level"] in ("error", "note") and result["message"]["text"]
        related = result.get("relatedLocations", [])
        assert len({place["id"] for place in related}) == len(related)
        for place in [*result["locations"], *related]:
            assert set(place) <= {"id", "physicalLocation", "logicalLocations", "message"}
            assert set(place["physicalLocation"]) <= {"artifactLocation", "region"}
            location = place["physicalLocation"]["artifactLocation"]
            assert uris[location["index"]] == location["uri"]
            region = place["physicalLocation"].get("region")
            assert region is None or (("startLine" in region or "byteOffset" in region) and region.get("startLine", 1) >= 1)
            assert region is None or (("byteOffset" in region) == ("byteLength" in region) and region.get("byteOffset", 0) >= 0)
        for suppression in result["suppressions"]:
            assert suppression["kind"] in ("inSource", "external") and suppression["status"] == "accepted" and suppression["justification"]
        assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
    return run["results"]


def sarif(rows: Rows, table: pa.Table, **options: Any) -> list[dict[str, Any]]:
    return check_sarif(json.loads(outputs.sarif(rows, table, policy=POLICY, **options)))


def test_sarif_names_file_line_and_bytes(tmp_path: Path) -> None:
    rows = dataset(tmp_path, [b'{"a":1}', b'{"b":22}'], [b'{"a":1}'])
    (first, second) = sarif(rows, findings({"row": 1, "score": 0.5, "detail": "d"}, {"row": 2, "partner": 0, "check": "r", "message": 3}))
    place = first["locations"][0]["physicalLocation"]
    assert place["region"] == {"startLine": 2, "byteOffset": 8, "byteLength": 8}
    data = (tmp_path / "data 0.jsonl").read_bytes()
    assert data[8:16] == b'{"b":22}' and place["artifactLocation"]["uri"] == "data%200.jsonl"
    assert first["message"]["text"] == "b.k: score 0.5; d" and first["level"] == "error" and second["level"] == "note"
    assert second["relatedLocations"][0]["physicalLocation"]["region"]["startLine"] == 1 and "relatedLocations" not in first
    assert second["properties"] == {"row": 2, "message": 3}


@pytest.mark.parametrize(("suffix", "keys"), [(".csv", {"startLine"}), (".json", {"byteOffset", "byteLength"})])
def test_a_region_says_only_what_is_known(tmp_path: Path, suffix: str, keys: set[str]) -> None:
    rows = dataset(tmp_path, [b"a,b", b"1,2"] if suffix == ".csv" else [b"{}", b"[]"], suffix=suffix)
    (result,) = sarif(rows, findings({"row": 0}))
    assert set(result["locations"][0]["physicalLocation"]["region"]) == keys


def test_sarif_says_of_how_many_it_shows_and_shows_new_and_blocking_ones_first(tmp_path: Path) -> None:
    rows = dataset(tmp_path, [b"%d" % i for i in range(6)])
    table = findings(*({"row": i, "check": "r" if i % 2 else "b"} for i in range(6)))
    settled = settle(table, rows, Baseline.of(table.slice(0, 2), rows))
    log = json.loads(outputs.sarif(rows, table, settled=settled, policy=POLICY, limit=4))
    assert [result["properties"]["row"] for result in check_sarif(log)] == [2, 4, 3, 5]
    (notice,) = log["runs"][0]["invocations"][0]["toolExecutionNotifications"]
    assert notice["level"] == "warning" and notice["message"]["text"].startswith("4 of 6 findings shown")
    assert log["runs"][0]["properties"] == {"findings": 6, "shown": 4}
    assert len(sarif(rows, table, limit=None)) == 6 and sarif(rows, no_findings()) == []


def test_known_and_waived_findings_are_suppressed_with_the_reason(tmp_path: Path) -> None:
    rows = dataset(tmp_path, [b"1", b"2", b"3"])
    table = findings({"row": 0}, {"row": 1}, {"row": 2})
    waiver = Waiver("w", "b", None, None, None, (2, 2), None, "meant \u202e so", date(2027, 1, 1))
    told = sarif(rows, table, settled=settle(table, rows, Baseline.of(table.slice(0, 1), rows), [waiver]))
    reasons = {result["properties"]["row"]: [s["justification"] for s in result["suppressions"]] for result in told}
    assert reasons == {0: ["known: in the baseline"], 1: ["meant \\u202e so"], 2: []}


def test_a_text_cannot_place_a_link_or_a_placeholder_in_a_message(tmp_path: Path) -> None:
    (result,) = sarif(dataset(tmp_path, [b"1"]), findings({"row": 0, "detail": "[click](http://x) {0} \x1b[31m"}))
    assert result["message"]["text"] == "b.k: \\[click\\](http://x) {{0}} \\x1b\\[31m"


# --- all together ---------------------------------------------------------------------------------


def test_equal_audits_leave_equal_bytes(tmp_path: Path) -> None:
    rows = dataset(tmp_path, [b'{"a":1}', b'{"a":2}', b"broken"])
    table = findings({"row": 1, "partner": 0, "score": 0.9}, {"row": 2, "check": "r"})
    settled: Settled = settle(table, rows, Baseline.of(table.slice(1), rows))
    said = [outputs.write_outputs(tmp_path / run, rows, table, chunks(rows), settled=settled, policy=POLICY) for run in "xy"]
    made = [{path.name: path.read_bytes() for path in (tmp_path / run).iterdir()} for run in "xy"]
    assert made[0] == made[1] and set(made[0]) == {
        "clean.jsonl", "blocked.jsonl", "findings.csv", "findings.jsonl.gz", "findings.sarif"
    }  # fmt: skip
    assert said[0] == said[1] == {"findings": 2, "sarif_shown": 2, "rows": 3, "clean": 2, "blocked": 1, "redacted": 0, "by": {"b.k": 1}}
