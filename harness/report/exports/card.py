"""A model card, rendered from evidence: GitHub-flavoured Markdown with the front matter that model hubs read.

Nothing in it is typed. A number stands in a table beside the evidence that it was read from, as it is written there, and nowhere
else; prose holds none. So ``harness.report.exports.card_reader`` can hold every one of them against the evidence again.

Front matter is YAML in its JSON form, a key a line: ``huggingface_hub.ModelCard`` reads it, and so does the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from harness import evidence
from harness.errors import EvidenceError, nearest
from harness.report import view
from harness.report.builds import arms
from harness.report.choice import choice
from harness.report.datasets import datasets_of, told
from harness.report.exports.bundle import SERVED, Bundle, sha256
from harness.report.markdown import escape
from harness.report.text import DASH, clean
from harness.report.view import ClaimView, RunView, finite

__all__ = ["SECTIONS", "card", "chosen", "of_model"]

SECTIONS = (
    "Model details", "Intended use", "Limits", "Training data", "Evaluation", "Quantization", "Risks", "How to check this card",
)  # fmt: skip
"""The headings that a card must have, in this order."""

_QUANTIZATION = frozenset({"Q2", "Q3", "Q4", "Q5", "Q6", "Q8", "Q12"})
_LONG = 2000  # characters of a text that is quoted
_CELL = 400


def chosen(bundle: Bundle, name: str | None = None) -> str:
    """The model that a card is about: ``name``, else the build that the report recommends, else the only one there is.

    EvidenceError where the run speaks of no such model, or of several and recommends none.
    """
    known = _models(bundle.run)
    if name is not None:
        if name not in known:
            raise EvidenceError(f"{bundle.path}: no claim is about a model {name!r}; {nearest(name, known)}")
        return name
    taken = choice(bundle.run)
    if taken is not None and taken.pick is not None:
        return taken.pick.build.name
    if len(known) != 1:
        raise EvidenceError(f"{bundle.path}: recommends no build; say whose card it is to be with --of; {nearest('', known)}")
    return known[0]


def of_model(run: RunView, name: str) -> list[ClaimView]:
    """The claims about a model: those that name it, and those that were measured on it first."""
    return [c for c in run.claims if name in c.params or _first(c).get("name") == name]


def card(bundle: Bundle, name: str) -> bytes:
    """The card of one model of the run, as UTF-8."""
    mine = of_model(bundle.run, name)
    parts = [
        _front(bundle, name, mine), f"# {escape(name)}\n", _sentence(bundle),
        *(f"## {title}\n\n{''.join(part)}" for title, part in zip(SECTIONS, _sections(bundle, name, mine), strict=True)),
    ]  # fmt: skip
    return "\n".join(parts).encode("utf-8", "backslashreplace")


def _sections(bundle: Bundle, name: str, every: Sequence[ClaimView]) -> Iterable[Iterable[str]]:
    mine = [c for c in every if c.file]
    quantized = [c for c in mine if c.family in _QUANTIZATION]
    rest = [c for c in mine if c.family not in _QUANTIZATION]
    yield _details(bundle, name, mine)
    yield _intended(bundle.run, mine)
    yield _limits(bundle, name, mine)
    yield _training(bundle)
    yield [_accuracies(mine), _claims(rest)] if rest else ["No claim of this run is about its answers.\n"]
    yield [_claims(quantized)] if quantized else ["No claim of this run is about its quantization.\n"]
    yield _risks(every)
    yield _check(bundle)


# --- tables -----------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def _facts(rows: Iterable[tuple[str, object, str]]) -> str:
    """A value a row, and where it was read: a file of the run and the JSON pointer (RFC 6901) into it."""
    return _table(["what", "value", "evidence"], [[escape(what), _value(value), f"`{where}`"] for what, value, where in rows])


def _claims(claims: Iterable[ClaimView]) -> str:
    head = ["claim", "claimed", "bound", "outcome", "estimate", "low", "high", "n", "evidence"]
    return _table(head, [[*_row(c), f"`{c.file}`"] for c in claims])


def _row(c: ClaimView) -> list[str]:
    return [escape(c.id), escape(c.text, _CELL), escape(_bound(c)), c.outcome, *map(_value, (c.estimate, c.low, c.high, c.n))]


def _value(value: object) -> str:
    """A number as its evidence has it, digit for digit; a text escaped."""
    if value is None:
        return DASH
    return json.dumps(value) if isinstance(value, (int, float)) else escape(str(value), _CELL)


def _bound(c: ClaimView) -> str:
    ends = [json.dumps(c.bound[key]) for key in ("limit", "high") if c.bound.get("kind") != "identical" and key in c.bound]
    return f"{c.bound.get('kind', '')}({', '.join(ends)})"


def _first(c: ClaimView) -> Mapping[str, Any]:
    subjects: Sequence[Any] = c.measurement.get("subjects") or ({},)
    return subjects[0] if isinstance(subjects[0], Mapping) else {}


def _models(run: RunView) -> list[str]:
    return sorted({str(s["name"]) for c in run.claims if (s := _first(c)).get("name") and s.get("scheme") != "data"})


# --- sections ---------------------------------------------------------------------------------


def _sentence(bundle: Bundle) -> str:
    warned = "".join(f"> **{escape(said.partition(':')[0])}**\n" for said in view.warnings_of(bundle.run))
    return (
        "Every number below was read from sealed evidence, which stands beside it; no one typed it. "
        "`holds` and `fails` are each shown at an error rate, anything else was not decided.\n\n" + warned
    )


def _details(bundle: Bundle, name: str, mine: Sequence[ClaimView]) -> Iterable[str]:
    rows: list[tuple[str, object, str]] = []
    for c in mine:
        found = [i for i, s in enumerate(c.measurement.get("subjects") or ()) if s.get("name") == name]
        if found:
            at, subject = f"{c.file}#/measurement/subjects/{found[0]}", c.measurement["subjects"][found[0]]
            served = subject["scheme"] in SERVED
            words = {"digest": "of its address, for what a server holds nobody can digest: SHA-256" if served else "SHA-256"}
            rows += [(words.get(key, key), subject[key], f"{at}/{key}") for key in ("digest", "scheme", "location")]
            rows += [(key, value, f"{at}/detail/{_token(key)}") for key, value in sorted(subject["detail"].items())]
            break
    said = bundle.run.releases.get(name)
    if said:
        at = f"{evidence.RELEASE}#/{_token(name)}"
        rows.append(("release verdict", said["outcome"], f"{at}/outcome"))
        rows += [(f"release: {f['name']}", f["outcome"], f"{at}/families/{i}/outcome") for i, f in enumerate(said["families"])]
    yield _facts(rows)


def _intended(run: RunView, mine: Sequence[ClaimView]) -> Iterable[str]:
    """The golden sets on which every claim about it holds, with what was asked, in the words of the sealed plan."""
    good = _asked(run, mine, holding=True)
    prompts = run.plan.get("prompts") or {}
    if not good:
        yield "There is no golden set of this run on which every claim about it holds: no use is shown to be good.\n\n"
        return
    yield "What is asked in these golden sets: on each of them every claim about it holds. For any other use nothing is shown.\n\n"
    yield "".join(f"- {escape(name)}\n" for name in good) + "\n"
    yield "".join(f"> {escape(prompts[name], _LONG)}\n\n" for name in good if prompts.get(name))


def _asked(run: RunView, mine: Sequence[ClaimView], *, holding: bool) -> list[str]:
    """The golden sets on which something is claimed of it, those on which all of it holds or the others."""
    sets = run.plan.get("golden") or {}
    claims = {name: [c for c in mine if name in _sets(c, sets)] for name in sets}
    return sorted(name for name, on in claims.items() if on and all(c.outcome == "holds" for c in on) == holding)


def _sets(c: ClaimView, golden: Mapping[str, str]) -> list[str]:
    """The golden sets that a claim is on: those that its id names, else those that were asked by its conditions."""
    asked = set(evidence.golden_digests(c.measurement.get("conditions")))
    return [name for name in golden if name in c.params] or [name for name, digest in golden.items() if digest in asked]


def _limits(bundle: Bundle, name: str, mine: Sequence[ClaimView]) -> Iterable[str]:
    yield "It was measured in these conditions, and on this machine; elsewhere digits differ, and speed does.\n\n"
    rows: list[tuple[str, object, str]] = []
    for c in mine:
        arm = told(c).get("new")
        engine = arm.get("engine") if isinstance(arm, Mapping) and _first(c).get("name") == name else None
        if isinstance(engine, Mapping):
            at = f"{c.file}#/measurement/conditions/new/engine"
            rows += [(f"engine: {key}", value, f"{at}/{_token(key)}") for key, value in sorted(engine.items())]
            break
    with_machine = next((c for c in mine if isinstance(c.provenance.get("machine"), Mapping)), None)
    if with_machine:
        at, machine = f"{with_machine.file}#/provenance/machine", with_machine.provenance["machine"]
        rows += [(f"machine: {key}", value, f"{at}/{_token(key)}") for key, value in sorted(machine.items()) if value is not None]
    yield _facts(rows)
    unfit = _asked(bundle.run, mine, holding=False)
    yield "Not every claim about it holds on these golden sets, see Risks; do not use it for what they ask:\n\n" if unfit else ""
    yield "".join(f"- {escape(name)}\n" for name in unfit) + ("\n" if unfit else "")
    missing = _not_claimed(bundle.run, mine)
    yield "Claimed of other models of this run, and not of this one:\n\n" if missing else ""
    yield "".join(f"- `{name}`\n" for name in missing) + ("\n" if missing else "")


def _not_claimed(run: RunView, mine: Sequence[ClaimView]) -> list[str]:
    """Families with a claim about a model whose like is not among these."""
    models = set(_models(run))
    others = {c.id.partition("[")[0] for c in run.claims if models & set(c.params)}
    return sorted(name for name in others - {c.id.partition("[")[0] for c in mine} if "`" not in name)


def _training(bundle: Bundle) -> Iterable[str]:
    """The audited data that models are made from: all but the golden sets."""
    found = [d for d in datasets_of(bundle.run) if d.name not in (bundle.run.plan.get("golden") or {})]
    if not found:
        yield "No claim of this run is about the data that it was trained or calibrated on.\n\n"
    for dataset in found:
        yield f"### {escape(dataset.name)}\n\n"
        first = next((c for c in dataset.claims if "rows" in told(c) and _first(c).get("scheme") == "data"), None)
        if first:
            at = f"{first.file}#/measurement"
            digest = ("SHA-256", _first(first)["digest"], f"{at}/subjects/0/digest")
            yield _facts([("rows", told(first)["rows"], f"{at}/conditions/rows"), digest])
        told_of = [c for c in dataset.claims if c.file]
        yield f"<details><summary>What is claimed of it</summary>\n\n{_claims(told_of)}</details>\n\n"


def _accuracies(mine: Sequence[ClaimView]) -> str:
    """Raw accuracies, of both arms, counted; they describe, and decide nothing."""
    rows = [[escape(c.id), *(json.dumps(n) for arm in pair for n in (arm.k, arm.n)), f"`{c.file}`"] for c in mine if (pair := arms(c))]
    head = ["claim", "right", "of", "right in the reference", "of these", "evidence"]
    return _table(head, rows) if rows else ""


def _risks(every: Sequence[ClaimView]) -> Iterable[str]:
    against, lost = ([c for c in every if c.outcome != "holds" and bool(c.file) == there] for there in (True, False))
    if not against and not lost:
        yield "Every claim about it holds. What was not claimed is named under Limits.\n\n"
    if against:
        yield "These claims about it do not hold, with what the evidence says of each.\n\n"
        told = [[escape(c.id), c.outcome, escape(str(c.notes.get("why") or c.sentence), _CELL), f"`{c.file}`"] for c in against]
        yield _table(["claim", "outcome", "why", "evidence"], told)
    if lost:
        yield "These were planned and left no evidence:\n\n" + "".join(f"- {escape(c.id)}\n" for c in lost) + "\n"


def _check(bundle: Bundle) -> Iterable[str]:
    yield "All of it can be derived again from raw rows, offline, with the standard library of Python:\n\n"
    yield f"```sh\npython -m harness recheck RUN --seal {bundle.seal}\n```\n" if bundle.seal else "The run is not sealed yet.\n"


def _token(key: str) -> str:
    """A key in a JSON pointer, in the form that it has in a URI (RFC 6901, section 6): nothing in it ends a code span or a cell."""
    return quote(key.replace("~", "~0").replace("/", "~1"), safe="~", errors="backslashreplace")


# --- front matter -----------------------------------------------------------------------------


def _front(bundle: Bundle, name: str, mine: Sequence[ClaimView]) -> str:
    """``model-index`` as hubs read it: a result for each golden set, a metric for each claim on it that has an estimate."""
    run = bundle.run
    results = []
    golden = run.plan.get("golden") or {}
    for set_name, digest in sorted(golden.items()):
        metrics = [m for c in mine if set_name in _sets(c, golden) for m in _metrics(c)]
        if metrics:
            dataset = {"type": set_name, "name": set_name, **({"revision": digest} if sha256(digest) else {})}
            results.append({"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics})
    keys = {
        "tags": ["lifecycle-harness"],
        **({"model-index": [{"name": name, "results": results}]} if results else {"model_name": name}),
    }
    lines = [f"{key}: {json.dumps(_cleaned(value), ensure_ascii=False)}" for key, value in keys.items()]
    return "\n".join(["---", *lines, "---", ""])


def _metrics(c: ClaimView) -> Iterable[dict[str, Any]]:
    pair = arms(c)
    if pair:
        said = {"claim": c.id, "right": pair[0].k, "n": pair[0].n, "evidence": c.file}
        yield {"type": "accuracy", "value": round(pair[0].k / pair[0].n, 9), "name": "accuracy", "args": said}
    if (value := finite(c.verdict.get("estimate"))) is not None:
        said = {"claim": c.id, "outcome": c.outcome, "low": c.low, "high": c.high, "n": c.n, "evidence": c.file}
        yield {"type": f"{c.name or c.family} ({c.estimand})", "value": value, "name": c.id, "args": said}


def _cleaned(value: Any) -> Any:
    """What a reader of YAML takes: no control character, no half of a character."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {key: _cleaned(one) for key, one in value.items()}
    return [_cleaned(one) for one in value] if isinstance(value, list) else value
