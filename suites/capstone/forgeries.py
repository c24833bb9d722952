"""What somebody may do to a finished run and seal anew; and by which line ``recheck`` names it.

Each forgery takes a run that rechecks, changes one thing in it and seals it again, so that no digest tells. Those of KNOWING are made
by somebody who also judges, renders and seals all else after the change: nothing in such a run contradicts itself, and only the seal
that was quoted when the run ended can tell.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import evidence, records, report
from harness.recheck import recheck
from suites.capstone import clip

Record = dict[str, Any]


@dataclass(frozen=True)
class Forgery:
    """``named``: what the line that names it must say; empty where only the quoted seal can tell."""

    name: str
    act: Callable[[Path], None]
    named: str = ""


def forged(run: Path, out: Path, forgery: Forgery) -> list[str]:
    """The forgery of ``run``, made in ``out`` and sealed anew: what is found wrong with it without the quoted seal."""
    shutil.copytree(run, out)
    forgery.act(out)
    evidence.seal_bundle(out)
    return problems(out)


def problems(run: Path) -> list[str]:
    """All that ``python -m harness recheck`` finds, with paths relative to the run."""
    found = [*recheck(run).problems, *report.differing(run)]
    return [problem.replace(f"{run}/", "").replace(str(run), "run") for problem in found]


# --- which evidence ---------------------------------------------------------------------------------


def _chosen(run: Path, wanted: Callable[[Record], object]) -> Path:
    """The evidence file of the first claim that is ``wanted``. LookupError if the run has none of the kind."""
    for record in clip.records(run):
        if wanted(record):
            return evidence.evidence_path(run, record["claim"]["id"])
    raise LookupError("the run has no claim of the kind that this forgery needs")


def _gated(record: Record) -> bool:
    """A gate that holds, with a score for each row and with controls that lie in other rows."""
    own = record["measurement"] and record["measurement"]["samples"]["file"]
    apart = any(control["measurement"]["samples"]["file"] != own for control in record["controls"])
    return record["verdict"]["outcome"] == "holds" and apart and record["claim"]["estimand"] not in ("exact", "exact_share")


def _red(record: Record) -> bool:
    return record["verdict"]["outcome"] in ("fails", "inconclusive") and record["measurement"] is not None


def _loaded(record: Record) -> bool:
    return bool(record["measurement"]) and "raw" in record["measurement"]


def _unmeasured(record: Record) -> bool:
    return record["measurement"] is None


def _void(record: Record) -> bool:
    return bool(record["measurement"]) and bool(record["measurement"]["invalid"])


# --- how ----------------------------------------------------------------------------------------------


def _json(path: Path, change: Callable[[Any], object]) -> None:
    data = evidence.read_json(path)
    change(data)
    path.write_bytes(evidence.canonical(data))


def _in(wanted: Callable[[Record], object], change: Callable[[Record], object]) -> Callable[[Path], None]:
    """Changes the evidence file of one claim."""
    return lambda run: _json(_chosen(run, wanted), change)


def _claimed(**new: Any) -> Callable[[Path], None]:
    return _in(_gated, lambda record: record["claim"].update(new))


def _judged(**new: Any) -> Callable[[Path], None]:
    return _in(_gated, lambda record: record["verdict"].update(new))


def _plan(change: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda run: _json(run / evidence.PLAN, change)


def _rows(
    wanted: Callable[[Record], object], change: Callable[[list[Record]], list[Record]], *, of: str = "measurement", honest: bool = True
) -> Callable[[Path], None]:
    """Changes the rows of a claim, or of its first control; ``honest``: digest, count and name of the sidecar follow."""

    def act(run: Path) -> None:
        path = _chosen(run, wanted)
        record = evidence.read_json(path)
        held = record["measurement"] if of == "measurement" else record["controls"][0]["measurement"]
        entry = held["samples"]
        rows = change([json.loads(line) for line in clip.unpacked(run, entry).decode("utf-8", "surrogatepass").split("\n") if line])
        lines = (json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
        _kept(run, record, entry, "".join(lines).encode("utf-8", "surrogatepass"), honest)
        entry["rows"] = len(rows) if honest else entry["rows"]
        path.write_bytes(evidence.canonical(record))

    return act


def _kept(run: Path, record: Record, entry: Record, text: bytes, honest: bool) -> None:
    """Puts the text into the sidecar that ``entry`` names; ``honest``: under its own digest, and the old one goes."""
    if not honest:
        (run / entry["file"]).write_bytes(gzip.compress(text, mtime=0))
        return
    old = entry["file"]
    folder, _, name = old.partition("/")
    sha = evidence.digest(text)
    entry.update(file=f"{folder}/{sha}.{name.partition('.')[2]}", sha256=sha)
    (run / entry["file"]).write_bytes(gzip.compress(text, mtime=0))
    others = [other for other in clip.records(run) if other["claim"]["id"] != record["claim"]["id"]]
    if old not in {name for each in (*others, record) for name in clip.files(each)}:
        (run / old).unlink()


def _requests(run: Path) -> None:
    """The record of a load: first tokens that came at other times."""
    path = _chosen(run, _loaded)
    record = evidence.read_json(path)
    entry = record["measurement"]["raw"]
    load = records.Load.from_bytes(clip.unpacked(run, entry))
    faster = tuple(each._replace(first=each.first // 2) if each.first else each for each in load.records)
    _kept(run, record, entry, records.Load(load.header, faster).to_bytes(), honest=True)
    path.write_bytes(evidence.canonical(record))


def _without_requests(run: Path) -> None:
    path = _chosen(run, _loaded)
    record = evidence.read_json(path)
    (run / record["measurement"].pop("raw")["file"]).unlink()
    path.write_bytes(evidence.canonical(record))


def _flip(rows: list[Record]) -> list[Record]:
    """One score more to the good, or to the bad where all are good."""
    row = next((row for row in rows if row.get("value") == 0.0), rows[0])
    row["value"] = 1.0 - row["value"] if row["value"] in (0.0, 1.0) else row["value"] * 2 + 1
    return rows


def _first(change: Callable[[Record], object]) -> Callable[[list[Record]], list[Record]]:
    def changed(rows: list[Record]) -> list[Record]:
        change(rows[0])
        return rows

    return changed


def _page(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def act(run: Path) -> None:
        text = (run / name).read_bytes()
        if old not in text:
            raise LookupError(f"{name} does not say {old!r}")
        (run / name).write_bytes(text.replace(old, new, 1))

    return act


def _dropped(run: Path) -> None:
    """A claim that failed, out of plan, evidence and rows."""
    path = _chosen(run, _red)
    gone = evidence.read_json(path)
    path.unlink()
    left = {name for record in clip.records(run) for name in clip.files(record)}
    for name in clip.files(gone) - left:
        (run / name).unlink()

    def without(plan: Record) -> None:
        plan["claims"] = [entry for entry in plan["claims"] if entry["claim"]["id"] != gone["claim"]["id"]]
        families = {
            build: [{**f, "claims": [c for c in f["claims"] if c != gone["claim"]["id"]]} for f in fs]
            for build, fs in plan["releases"].items()
        }
        plan["releases"] = {build: [f for f in fs if f["claims"]] for build, fs in families.items()}

    _json(run / evidence.PLAN, without)


def _uncontrolled(run: Path) -> None:
    """A gate without its controls, and without their rows."""
    path = _chosen(run, _gated)
    record = evidence.read_json(path)
    gone = clip.files(record)
    record["controls"] = []
    path.write_bytes(evidence.canonical(record))
    for name in gone - {name for each in clip.records(run) for name in clip.files(each)}:
        (run / name).unlink()


def _unmeasured_now(record: Record) -> None:
    verdict = {**record["verdict"], "outcome": "not_evaluated", "reason": "missing:gpu", "sentence": "gpu: none here", "controls": []}
    record.update(measurement=None, controls=[], verdict=verdict)


def _margin(plan: Record) -> None:
    entry = next(entry for entry in plan["claims"] if entry["claim"]["bound"]["kind"] not in ("identical", "at_least"))
    entry["claim"]["bound"]["limit"] *= 2


def _loosened(record: Record) -> None:
    record["controls"][0]["expect"] = ["holds", "fails", "inconclusive"]


def _unguarded(plan: Record) -> None:
    for families in plan["releases"].values():
        for family in families:
            family["claims"].pop()


def _met(record: Record) -> None:
    record["verdict"]["controls"][0].update(met=not record["verdict"]["controls"][0]["met"])


def _elsewhere(record: Record) -> None:
    record["measurement"]["samples"]["file"] = "../../etc/hostname"


def _cold(record: Record) -> None:
    record["measurement"]["conditions"]["temperature"] = 0


def _held(record: Record) -> None:
    record["verdict"]["outcome"] = "holds"


def _cleared(run: Path) -> None:
    _json(run / evidence.RELEASE, lambda said: next(iter(said.values())).update(outcome="holds", sentence="yes"))


def _ended(**new: Any) -> Callable[[Path], None]:
    return lambda run: _json(run / "run.json", lambda facts: facts.update(new))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _expectation(plan: Record) -> None:
    for entry in plan["claims"]:
        entry.update(expect="fails" if entry["expect"] == "holds" else "holds", why="as we said")


def _all(*acts: Callable[[Path], object]) -> Callable[[Path], None]:
    def act(run: Path) -> None:
        for each in acts:
            each(run)

    return act


def _every(change: Callable[[Record], object]) -> Callable[[Path], None]:
    """Changes the evidence of each claim."""

    def act(run: Path) -> None:
        for path in sorted((run / "evidence").glob("*.json")):
            _json(path, change)

    return act


def _second(run: Path) -> None:
    path = _chosen(run, _gated)
    shutil.copyfile(path, path.with_name(f"again-{path.name}"))


def _moved(run: Path) -> None:
    path = _chosen(run, _gated)
    path.rename(path.with_name(f"moved-{path.name}"))


def _linked(run: Path) -> None:
    """Rows that lie outside of what is sealed."""
    record = evidence.read_json(_chosen(run, _gated))
    path = run / record["measurement"]["samples"]["file"]
    outside = run.with_name(f"{run.name}-outside")
    shutil.move(path, outside)
    path.symlink_to(outside)


def _twice(run: Path) -> None:
    path = _chosen(run, _gated)
    path.write_text(path.read_text("utf-8").replace('\n "tier": ', '\n "tier": "smoke",\n "tier": ', 1), "utf-8")


def _exchanged(rows: list[Record]) -> list[Record]:
    """An arm that lost swaps names with the other."""
    names = {"new": "old", "old": "new"}
    return [{**row, "arm": names.get(row.get("arm", "one"), row.get("arm", "one"))} for row in rows]


def _armed(record: Record) -> bool:
    return _gated(record) and record["claim"]["estimand"] in ("paired_difference", "paired_mean", "relative_score", "run_ratio")


_DERIVED = "the verdict cannot be derived again"
_OTHER_CLAIM = "is not the one in the sealed plan"
_OTHER_PLAN = "it was made under another plan"

SEEN: tuple[Forgery, ...] = (
    # the claim, in the evidence alone
    Forgery("margin widened", _in(_gated, lambda r: r["claim"]["bound"].update(limit=0.4321)), _OTHER_CLAIM),
    Forgery("alpha raised", _claimed(alpha=0.2), _OTHER_CLAIM),
    Forgery("n asked for lowered", _claimed(min_n=2), _OTHER_CLAIM),
    Forgery("text of the claim reworded", _claimed(text="a weaker sentence"), _OTHER_CLAIM),
    Forgery("looks at the data reduced to one", _claimed(looks=2), _OTHER_CLAIM),
    Forgery("items of the claim fixed anew", _claimed(items="0" * 64), _OTHER_CLAIM),
    Forgery("tags of the claim", _claimed(tags=["approved"]), _OTHER_CLAIM),
    Forgery("limit of a latency raised", _in(_loaded, lambda r: r["claim"].update(slo=r["claim"]["slo"] * 2)), _OTHER_CLAIM),
    Forgery("claim exchanged for another", _in(_gated, lambda r: r["claim"].update(id="another")), "is not the one in the sealed plan"),
    # the plan alone
    Forgery("margin widened in the plan", _plan(_margin), _OTHER_PLAN),
    Forgery("scorer's digest changed", _plan(lambda p: p["scorers"].update({"judge/__init__.py": "0" * 64})), _OTHER_PLAN),
    Forgery("golden set's digest changed", _plan(lambda p: p["golden"].update(addresses="0" * 64)), _OTHER_PLAN),
    Forgery("prompt's digest changed", _plan(lambda p: p["prompts"].update(addresses="0" * 64)), _OTHER_PLAN),
    Forgery("failure expected afterwards", _plan(_expectation), _OTHER_PLAN),
    Forgery("claim added to the plan", _plan(lambda p: p["claims"].append(p["claims"][0])), _OTHER_PLAN),
    Forgery("claim struck from the plan", _plan(lambda p: p["claims"].pop()), _OTHER_PLAN),
    Forgery("guardrail struck from a release", _plan(_unguarded), _OTHER_PLAN),
    Forgery("subject exchanged in the plan", _plan(lambda p: p["subjects"].update(tuned="http")), _OTHER_PLAN),
    Forgery("version of the harness", _plan(lambda p: p.update(harness="9.9.9")), _OTHER_PLAN),
    Forgery("smoke stamped as full in the plan", _plan(lambda p: p.update(tier="smoke")), _OTHER_PLAN),
    Forgery("plan written with other spaces", lambda run: _spaced(run / evidence.PLAN), "not in the form in which it was written"),
    # the verdict alone
    Forgery("outcome edited", _in(_red, lambda r: r["verdict"].update(outcome="holds")), f"{_DERIVED}: outcome"),
    Forgery("estimate edited", _judged(estimate=0.4321), f"{_DERIVED}: estimate"),
    Forgery("lower limit edited", _judged(low=0.999), f"{_DERIVED}: low"),
    Forgery("upper limit edited", _judged(high=0.999), f"{_DERIVED}: high"),
    Forgery("n edited", _in(_gated, lambda r: r["verdict"].update(n=r["verdict"]["n"] * 10)), f"{_DERIVED}: n"),
    Forgery("effective n edited", _judged(n_eff=99999.0), f"{_DERIVED}: n_eff"),
    Forgery("unusable rows hidden", _judged(n_unusable=7), f"{_DERIVED}: n_unusable"),
    Forgery("p value edited", _judged(p_hold=1e-9), f"{_DERIVED}: p_hold"),
    Forgery("reason edited", _judged(reason="obvious"), f"{_DERIVED}: reason"),
    Forgery("sentence edited", _judged(sentence="it is fine"), f"{_DERIVED}: sentence"),
    Forgery("method edited", _judged(method="a better one/1"), f"{_DERIVED}: method"),
    Forgery("a statistic edited", _in(_gated, lambda r: r["verdict"]["statistics"].update(n=1)), f"{_DERIVED}: statistics"),
    Forgery("level of the verdict edited", _judged(alpha=0.001), f"{_DERIVED}: alpha"),
    Forgery("a control's outcome edited", _in(_gated, _met), f"{_DERIVED}: controls"),
    Forgery("a control struck from the verdict", _in(_gated, lambda r: r["verdict"]["controls"].pop()), f"{_DERIVED}: controls"),
    # what was measured
    Forgery("a control taken out", _in(_gated, lambda r: r["controls"].pop()), f"{_DERIVED}: controls"),
    Forgery("all controls taken out", _in(_gated, lambda r: r.update(controls=[])), f"{_DERIVED}: controls"),
    Forgery("a control's expectation loosened", _in(_gated, _loosened), f"{_DERIVED}: controls"),
    Forgery("a control renamed", _in(_gated, lambda r: r["controls"][0].update(name="A/A")), f"{_DERIVED}: controls"),
    Forgery("a score flipped", _rows(_gated, _flip, honest=False), ": changed"),
    Forgery("a score flipped, under its new digest", _rows(_gated, _flip), _DERIVED),
    Forgery("items dropped", _rows(_gated, lambda rows: rows[:-3]), _DERIVED),
    Forgery("an item dropped, the count kept", _in(_gated, lambda r: r["measurement"]["samples"].update(rows=1)), "rows, expected 1"),
    Forgery("an item put in twice", _rows(_gated, lambda rows: [*rows, rows[0]]), _DERIVED),
    Forgery("an exclusion added", _rows(_gated, _first(lambda row: row.update(value=None, status="excluded"))), _DERIVED),
    Forgery("the arms exchanged", _rows(_armed, _exchanged), _DERIVED),
    Forgery("rows of a control flipped", _rows(_gated, lambda rows: rows[: len(rows) // 2], of="control"), _DERIVED),
    Forgery("rows taken from elsewhere", _in(_gated, _elsewhere), "lies outside the bundle"),
    Forgery("rows behind a link", _linked, "lies outside the bundle"),
    Forgery("requests of a load edited", _requests, "its rows do not follow from the requests"),
    Forgery("requests of a load taken away", _without_requests, "derived from requests, and their record was taken away"),
    Forgery("a void run declared valid", _in(_void, lambda r: r["measurement"].update(invalid=[])), _DERIVED),
    Forgery("a measured claim declared impossible", _in(_red, _unmeasured_now), "rows that no evidence names: a measurement was taken out"),
    Forgery("a failing claim left undecided", _in(_red, lambda r: r.update(measurement=None)), "without a measurement"),
    Forgery("a missing need declared held", _in(_unmeasured, _held), "without a measurement"),
    # files
    Forgery("evidence taken out", lambda run: _chosen(run, _red).unlink(), "no evidence for the planned claim"),
    Forgery("evidence put in twice", _second, "does not lie where it belongs"),
    Forgery("evidence moved", _moved, "does not lie where it belongs"),
    Forgery("evidence of another plan", _in(_gated, lambda r: r.update(plan="0" * 64)), _OTHER_PLAN),
    Forgery("evidence of tier smoke", _in(_gated, lambda r: r.update(tier="smoke")), "but the run was planned as"),
    Forgery("its test exchanged", _in(_gated, lambda r: r["notes"].update(test="other.py::test")), "its notes differ from the plan: test"),
    Forgery("expectation flipped", _in(_red, lambda r: r["notes"].update(expect="inconclusive")), "its notes differ from the plan: expect"),
    Forgery("a key that stands twice", _twice, "not in the form in which it was written"),
    Forgery("rows that belong to nothing", lambda run: _empty(run / "samples" / "more.jsonl.gz"), "rows that no evidence names"),
    Forgery("release cleared", _cleared,
            "the release verdict of"),
    Forgery("release verdicts taken out", lambda run: (run / evidence.RELEASE).unlink(), "release.json: missing"),
    Forgery("exit status 0", _ended(exit_status=0), "exit_status = 0, but the run cannot have ended so"),
    Forgery("a claim declared lost", _ended(lost=["x"]), "run.json: lost = ['x']"),
    Forgery("how it ended taken out", lambda run: (run / "run.json").unlink(), "run.json: not how a run ended"),
    # pages
    Forgery("a number of the report edited", _page("report.html", b"0.", b"1."), "report.html: not what the evidence shows"),
    Forgery("a verdict of the report edited", _page("report.html", b">fails<", b">holds<"), "report.html: not what the evidence shows"),
    Forgery("a number of the summary edited", _page("summary.md", b"0.", b"1."), "summary.md: not what the evidence shows"),
    Forgery("the report exchanged for an empty one", lambda run: _empty(run / "report.html"), "report.html: not what the evidence"),
    Forgery("conditions edited", _in(_gated, _cold), "not what the evidence shows"),
)  # fmt: skip

KNOWING: tuple[Forgery, ...] = (
    *(
        Forgery(f"{name}, and all else made over", _all(act, clip.made_over))
        for name, act in (
            ("margin widened in the plan", _plan(_margin)),
            ("scorer's digest changed", _plan(lambda p: p["scorers"].update({"judge/__init__.py": "0" * 64}))),
            ("golden set's digest changed", _plan(lambda p: p["golden"].update(addresses="0" * 64))),
            ("failure expected afterwards", _plan(_expectation)),
            ("a failing claim struck", _dropped),
            ("a score flipped", _rows(_gated, _flip)),
            ("items dropped", _rows(_gated, lambda rows: rows[:-3])),
            ("an exclusion added", _rows(_gated, _first(lambda row: row.update(value=None, status="excluded")))),
            ("all controls taken out", _uncontrolled),
            ("a subject's digest changed", _in(_gated, lambda r: [s.update(digest="0" * 64) for s in r["measurement"]["subjects"]])),
            ("another machine", _every(lambda r: r["provenance"].update(cpu="a faster one"))),
        )
    ),
    Forgery("another time of the end", _all(_ended(finished="2020-01-01T00:00:00+00:00"), clip.rendered)),
)


def _spaced(path: Path) -> None:
    path.write_text(path.read_text("utf-8") + "\n", "utf-8")


def everything() -> Iterator[Forgery]:
    """All of them."""
    return iter((*SEEN, *KNOWING))
