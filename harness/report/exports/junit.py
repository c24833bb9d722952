"""JUnit XML out of the evidence, each test with its claim's numbers and the seal of the run as properties.

What ``pytest --junitxml`` writes while it runs holds the same properties but the seal: nothing is sealed yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from harness.report.exports.bundle import Bundle, finished, standing
from harness.report.view import ClaimView, RunView

__all__ = ["junit"]

# Everything that XML 1.0 has no character for (section 2.2), spelled out as pytest does it.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(bundle: Bundle) -> bytes:
    """A test suite with a case for each planned claim. What stops nothing is ``skipped``, with the reason."""
    run = bundle.run
    ended = finished(run)
    suite = ElementTree.Element("testsuite", name=_xml(run.lifecycle or "claims"))
    if ended:
        suite.set("timestamp", ended.isoformat())
    _properties(suite, {"seal": bundle.seal, "plan": run.plan_digest, "tier": run.tier})
    for claim in run.claims:
        _case(suite, claim, run, bundle.seal)
    found = [standing(c, run) for c in run.claims]
    suite.set("tests", str(len(found)))
    suite.set("failures", str(found.count("failed")))
    suite.set("skipped", str(found.count("warned")))
    suite.set("errors", "0")
    whole = ElementTree.Element("testsuites")
    whole.append(suite)
    made: bytes = ElementTree.tostring(whole, encoding="utf-8", xml_declaration=True)
    return made + b"\n"


def _case(suite: ElementTree.Element, claim: ClaimView, run: RunView, seal: str) -> None:
    where = str(claim.notes.get("test") or claim.family).partition("::")[0]
    case = ElementTree.SubElement(suite, "testcase", classname=_xml(where.removesuffix(".py").replace("/", ".")), name=_xml(claim.id))
    numbers = {"estimate": claim.estimate, "low": claim.low, "high": claim.high, "n": claim.n}
    _properties(case, {"claim": claim.id, "outcome": claim.outcome, **numbers, "evidence": claim.file, "seal": seal})
    stands = standing(claim, run)
    if stands != "passed":
        said = ElementTree.SubElement(case, "failure" if stands == "failed" else "skipped")
        said.set("message", _xml(f"{claim.outcome}: {claim.sentence}"))
        said.text = _xml(f"claimed: {claim.text}")


def _properties(of: ElementTree.Element, values: Mapping[str, object]) -> None:
    inside = ElementTree.SubElement(of, "properties")
    for name, value in values.items():
        if value not in (None, ""):
            ElementTree.SubElement(inside, "property", name=f"harness.{name}", value=_xml(str(value)))


def _xml(text: str) -> str:
    return _NO_XML.sub(lambda found: f"#x{ord(found.group()):02X}", text)
