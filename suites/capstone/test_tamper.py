"""CD2: whoever changes a finished run is found out, by a byte or by what the evidence says."""

from __future__ import annotations

import shutil

import pytest

from harness import Claim, Control, Measurement, Sample, identical
from harness.recheck import recheck, seal_of
from suites.capstone import clip, forgeries, tampering
from suites.controls import FAILS, HOLDS

pytestmark = pytest.mark.capstone

CHANGES = 2000

_EACH = f"of {CHANGES} changes of one byte, anywhere in the run, each is refused and its file named"
_BYTES = Claim("CD2.bytes", _EACH, identical(), min_n=CHANGES // 4)


@pytest.mark.claim(_BYTES)
def test_a_changed_byte_is_refused(claim, capstone_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(capstone_run, run)
    sizes = {path: path.stat().st_size for path in run.rglob("*") if path.is_file()}

    def by_size(folder):
        return [f"{path}: another size" for path, size in sizes.items() if path.stat().st_size != size]

    def measure(n: int, seed: int, right: bool = True, **how) -> Measurement:
        found = tampering.tampered(run, n, seed, **how)
        rows = (
            Sample(f"{i:06d}", float(change.named is right), detail={"file": change.file, "kind": change.kind, "at": change.at})
            for i, change in enumerate(found)
        )
        return Measurement("named", tuple(rows)[:n], (), {"changes": n, "seed": seed})

    controls = [
        Control("A/A: bytes replaced by themselves, nothing named", HOLDS, measure(CHANGES // 4, 2, right=False, harmless=True)),
        Control("planted: a check that compares sizes", FAILS, measure(CHANGES // 4, 3, check=by_size)),
    ]
    claim.check(measure(CHANGES, 1), controls=controls)


_FORGED = Claim(
    "CD2.forged",
    "whatever is edited in a run and sealed anew is named by derivation; what was made over altogether, by the quoted seal",
    identical(),
)  # fmt: skip


@pytest.mark.claim(_FORGED)
def test_a_forgery_sealed_anew_is_named(claim, capstone_run, tmp_path):
    run = clip.clip(capstone_run, tmp_path / "clip", clip.varied(capstone_run))
    quoted, _ = seal_of(run)

    def derived(forgery: forgeries.Forgery, out) -> list[str]:
        found = forgeries.forged(run, out, forgery)
        return found if forgery.named else [*found, *recheck(out, seal=quoted).problems]

    def sealed(forgery: forgeries.Forgery, out) -> list[str]:
        forgeries.forged(run, out, forgery)
        return seal_of(out)[1]

    def measure(of, check, right: bool = True) -> Measurement:
        rows = []
        for i, forgery in enumerate(of):
            out = tmp_path / "forged"
            found = check(forgery, out)
            shutil.rmtree(out)
            line = next((problem for problem in found if forgery.named in problem), "")
            detail = {"kind": forgery.name, "seen": "by derivation" if forgery.named else "by the quoted seal", "line": line[:300]}
            rows.append(Sample(f"{i:03d}", float(bool(line) is right), detail=detail))
        return Measurement("named", tuple(rows), (), {"claims": len(list(clip.records(run)))})

    some = forgeries.SEEN[::10]
    untouched = [forgeries.Forgery(f"none, {i}", lambda folder: None) for i in range(3)]
    controls = [
        Control("A/A: copied and sealed anew, nothing changed", HOLDS, measure(untouched, derived, right=False)),
        Control("planted: a check that looks at the seal alone", FAILS, measure(some, sealed)),
    ]
    claim.check(measure(forgeries.everything(), derived), controls=controls)
