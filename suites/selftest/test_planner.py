"""The planner: power of claims, P(all pass | nothing changed), the tables and the picture of ``plan``."""

from __future__ import annotations

import math
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from scipy import stats

from harness import Claim, at_least, at_most, better_than, evidence, identical, non_inferior, planner, within
from harness.__main__ import main
from harness.bounds import Bound
from harness.planner import GATES, Curve, Design, Needed, Power
from harness.report.curves import power_curves
from harness.stats import plan

pytestmark = pytest.mark.selftest

QUICK = {  # designs whose exact searches take no time
    "non-inferior": Design("non-inferior", margin=0.25),
    "better": Design("better", psi=(0.3,), truth=0.2),
    "equivalent": Design("equivalent", margin=0.25),
    "sequential": Design("sequential", margin=0.25, n=300),
}


K = int(stats.binom.isf(0.05, 200, 0.4)) + 1  # the fewest of 200 that show "more than .4"


def claim(bound: Bound, **more: object) -> Claim:
    return Claim("c", "t", bound, **more)  # type: ignore[arg-type]


# --- the power of claims ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "n", "value"),
    [
        (claim(identical()), 1, 1.0),
        (claim(at_most(3), estimand="exact"), 1, 1.0),
        (claim(non_inferior(0.2), psi=0.2), 60, plan.ni_power(60, 0.2, 0.2, 0.05)),
        (claim(non_inferior(0.2), psi=0.2, expected=-0.1), 60, plan.ni_power(60, 0.2, 0.2, 0.05)),  # at no difference, always
        (claim(non_inferior(0.2), alpha=0.01), 60, plan.ni_power(60, 0.2, 0.1, 0.01)),
        (claim(Bound("equivalent", 0.2)), 60, plan.equivalence_power(60, 0.2, 0.1, 0.05)),
        (claim(better_than(), psi=0.3, expected=0.2), 80, plan.mcnemar_power(80, 0.3, 0.2, 0.025)),
        (claim(better_than(), psi=0.1, expected=0.2), 80, plan.mcnemar_power(80, 0.2, 0.2, 0.025)),  # no gain without flips
        (claim(better_than(0.05), psi=0.3, expected=0.2), 80, plan.ni_power(80, -0.05, 0.3, 0.025, 0.2)),
        (claim(at_least(0.8), expected=0.9), 88, stats.binom.sf(76, 88, 0.9)),
        (claim(at_most(0.05), expected=0.005), 200, stats.binom.cdf(4, 200, 0.005)),
        (claim(within(0.4, 0.6), expected=0.5), 200, stats.binom.cdf(200 - K, 200, 0.5) - stats.binom.cdf(K - 1, 200, 0.5)),
    ],
)
def test_power_of_a_claim(stated: Claim, n: int, value: float) -> None:
    found = planner.power(stated, n)
    assert found.value == pytest.approx(value, abs=1e-9)
    assert found.how == ("exact" if stated.estimand != "exact" else "deterministic: holds unless something is broken")


def test_power_above_the_exact_limit_says_so() -> None:
    found = planner.power(claim(non_inferior(0.01)), 5001)
    assert found.value == pytest.approx(plan.ni_power_normal(5001, 0.01, 0.1, 0.05))
    assert "normal formula" in found.how
    both = planner.power(claim(Bound("equivalent", 0.01)), 5001)
    assert both.value == pytest.approx(2 * (found.value or 0) - 1)


def test_power_of_a_sequential_claim_is_simulated() -> None:
    found = planner.power(claim(non_inferior(0.25), estimand="sequential_difference", support=(0, 1)), 100)
    assert found.value is not None
    assert "simulated" in found.how


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        (claim(better_than()), "declares no expected gain"),
        (claim(at_least(0.8)), "declares no expected value"),
        (claim(better_than(0.05), expected=0.05), "no power at any n"),
        (claim(at_most(0.05), estimand="bounded_mean", support=(0.0, 1.0), expected=0.0), "needs the spread of a pilot; n = "),
        (claim(at_most(0.05), estimand="bounded_mean", support=(0.0, 1.0), expected=0.06), "no power at any n"),
        (claim(at_most(1.05), estimand="run_ratio", expected=1.0), "plan ratio"),
        (claim(at_most(1.05), estimand="log_ratio", expected=1.0), "plan mean"),
    ],
)
def test_no_power_without_an_alternative_or_a_pilot(stated: Claim, reason: str) -> None:
    found = planner.power(stated, 100)
    assert found.value is None
    assert reason in found.how


def test_release() -> None:
    """Ten suites at 90 % pass together 35 % of the time (section 3.12); a gain is not counted, nor what needs a pilot."""
    n = plan.proportion_n(0.8, 0.9, 0.05, 0.9, "at_least").first
    each = plan.proportion_power(n, 0.8, 0.9, 0.05, "at_least")
    stated = [(Claim(f"s{i}", "t", at_least(0.8), expected=0.9), n) for i in range(10)]
    gain, pilot = Claim("gain", "t", better_than(), expected=0.05), Claim("speed[x]", "t", at_most(1.05), estimand="run_ratio")
    lines = list(planner.release_lines([*stated, (gain, 100), (pilot, 6), (Claim("hash", "t", identical()), 1)]))
    assert f"P(all pass | nothing changed) = {each**10:.3f} for 10 claims" in lines[-3]
    assert f"at least {max(0, 1 - 10 * (1 - each)):.3f}" in lines[-3]
    assert f"false blocks: {1 - each**10:.1%}" in lines[-2]
    assert lines[-1] == "not counted: gain (1), speed (1)"
    assert any("1 deterministic claims" in line for line in lines)
    assert not any(line.startswith("hash") for line in lines)


def test_release_of_nothing() -> None:
    assert "P(all pass | nothing changed) = 1.000 for 0 claims" in "\n".join(planner.release_lines([]))


# --- gates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GATES)
def test_every_gate_has_the_power_it_plans(name: str) -> None:
    found = planner.gate(QUICK.get(name, Design(name)))
    for target in (0.80, 0.90):
        n = found.needed(target).n
        assert n is not None
        reached = found.power(n).value
        assert reached is not None
        assert reached >= target
        assert n >= found.lowest
    lines = list(planner.gate_lines(found, n))
    assert lines[0].startswith(found.claim)
    assert not any("cannot support" in line for line in lines)


@pytest.mark.parametrize("name", [name for name in GATES if name not in ("ratio", "agreement")])
def test_too_small_a_plan_is_named_with_the_n_it_takes(name: str) -> None:
    found = planner.gate(QUICK.get(name, Design(name)))
    n = max(found.lowest, (found.needed(0.80).n or 0) * 6 // 10)
    last = list(planner.gate_lines(found, n))[-1]
    assert f"{n} {found.unit} cannot support this claim" in last
    assert f"take n = {found.needed(0.80).n}" in last


def test_a_hundred_items_cannot_support_five_points() -> None:
    found = planner.gate(Design("non-inferior", n=100))
    assert list(planner.gate_lines(found, 100))[-1].startswith("100 items cannot support this claim: were it true, it would hold only 41%")


def test_designs_differ() -> None:
    """Each number asked for reaches the gate."""
    shifted = planner.gate(Design("better", margin=0.05, truth=0.25, psi=(0.4,)))
    assert shifted.needed(0.8).n == plan.ni_exact_n(-0.05, 0.4, 0.025, 0.8, 0.25)
    slow = planner.gate(Design("slo", tau=2.5, truth=0.005))
    assert slow.needed(0.8).n == math.ceil(2.5 * 2185)
    assert slow.power(5463).value == plan.proportion_power(2185, 0.01, 0.005, 0.05, "at_most")
    assert planner.gate(Design("slo", quantile=0.95, truth=0.025)).needed(0.9).n == 554
    reruns = planner.gate(Design("mean", noise=0.4, reruns=4, alpha=0.025)).needed(0.8)
    assert f"Miller's formula {plan.mean_n(0.03, 1 / 9, 0.025, 0.8, (0.16, 0.16), (4, 4))}" in reruns.how
    assert planner.gate(Design("mean", alpha=0.025)).needed(0.8).how.endswith("(Miller's formula 969)")
    assert planner.gate(Design("ratio", bound=0.95, truth=1.0)).claim.startswith("a ratio at least 0.95")
    assert planner.gate(Design("agreement", bound=0.6, truth=0.6875, base=0.8)).needed(0.8).n == 834
    assert planner.gate(Design("agreement", sd=1.0)).needed(0.8).n == plan.agreement_n(0.8, 0.6, 1.0, 0.05, 0.8)
    assert planner.gate(Design("at-most")).needed(0.8).n == 203
    assert planner.gate(Design("non-inferior", margin=0.02)).needed(0.8) == Needed(1578, "normal formula: the exact rule is slow at this n")
    assert planner.gate(Design("sequential", n=50)).needed(0.8).n is None


def test_smallest_effects_have_the_power() -> None:
    rows = {line[:30].strip(): line[30:40].strip() for line in planner.gate_lines(planner.gate(Design("at-least")), 88)}
    assert plan.proportion_power(88, 0.8, float(rows["nearest truth shown"]), 0.05, "at_least") == pytest.approx(0.8, abs=1e-3)
    assert plan.proportion_power(88, 0.8, float(rows["nearest truth refuted"]), 0.05, "at_most") == pytest.approx(0.8, abs=1e-3)
    rows = {line[:30].strip(): line[30:40].strip() for line in planner.gate_lines(planner.gate(Design("ratio")), 6)}
    shown, refuted = (abs(math.log(1.05 / float(rows[f"nearest ratio {side}"]))) / 0.02 for side in ("shown", "refuted"))
    assert plan.t_power(6, shown, 0.05) == pytest.approx(0.8, abs=0.02)
    assert plan.t_power(6, refuted, 0.01) == pytest.approx(0.8, abs=0.02)
    assert float(rows["nearest ratio shown"]) < 1.05 < float(rows["nearest ratio refuted"])


@pytest.mark.parametrize(
    "design",
    [
        Design("nonsense"),
        Design("better", margin=0.1, truth=0.1),
        Design("non-inferior", psi=()),
        Design("non-inferior", psi=(0.1,) * 7),
        Design("slo", tau=0.5),
        Design("slo", quantile=1.0),
        Design("mean", sd=0.0),
        Design("mean", reruns=0),
        Design("ratio", truth=1.05),
        Design("agreement", truth=0.5),
        Design("corrected", margin=0.0),
    ],
)
def test_designs_that_make_no_sense(design: Design) -> None:
    with pytest.raises(ValueError, match="expected"):
        planner.gate(design)


def test_an_n_the_rule_does_not_take() -> None:
    with pytest.raises(ValueError, match="expected at least 100 labels"):
        list(planner.gate_lines(planner.gate(Design("corrected")), 99))


def test_a_sequential_plan_decides_nothing_after_its_last_item() -> None:
    found = planner.gate(Design("sequential", n=100))
    assert found.power(1000) == found.power(100) != found.power(90)
    assert found.needed(0.80) == Needed(None, "not within 100; simulated, 1000 series")
    assert list(planner.gate_lines(found, 100))[-1].endswith("plan with more")


def test_curves_reach_beyond_what_is_needed() -> None:
    found = planner.gate(Design("better", psi=(0.3, 0.5), truth=0.2))
    drawn = planner.curves(found, 77)
    assert [curve.label for curve in drawn] == ["psi 0.3", "psi 0.5"]
    assert dict(drawn[0].points)[77] == found.power(77).value
    assert max(m for m, _ in drawn[0].points) > (found.needed(0.90).n or 0)
    assert min(m for m, _ in planner.curves(planner.gate(Design("corrected")), None)[0].points) == 100


# --- the verb -----------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["plan", *words]) == 0
    return capsys.readouterr().out


def test_plan_of_a_margin(capsys) -> None:
    shown = said(capsys, "--margin", ".25", "--psi", ".15", "--n", "60")
    assert shown.startswith("not worse by 0.25, one-sided alpha 0.05, 15% of the items change either way, no true loss:")
    assert f"power                       {plan.ni_power(60, 0.25, 0.15, 0.05):.3f}" in shown
    assert "smallest margin shown" in shown


def test_plan_of_each_gate_has_defaults(capsys) -> None:
    for name in ("at-least", "at-most", "slo", "mean", "ratio", "agreement", "corrected"):
        assert "for power 0.80" in said(capsys, name)


def test_plan_of_the_golden_sets(capsys, monkeypatch) -> None:
    monkeypatch.setattr(planner, "set_lines", lambda sets, psi, alpha: [f"{name} {n} {psi} {alpha}" for name, n in sets])
    assert "addresses 560 0.2 0.05" in said(capsys, "--psi", ".2")


def test_lines_of_the_golden_sets() -> None:
    lines = list(planner.set_lines([("small", 40), ("large", 5001)], 0.10, 0.05))
    assert lines[2].split() == ["small", "40", *(f"{plan.ni_power(40, m, 0.1, 0.05):.3f}" for m in (0.01, 0.02, 0.03, 0.05)), "0.1492"]
    assert plan.ni_margin(40, 0.1, 0.05, 0.8) == 0.1492
    assert lines[3].split()[-1] == "-"


def test_plan_of_a_run(tmp_path, capsys) -> None:
    stated = [Claim("a.rate[x,y]", "t", at_least(0.8), min_n=88, expected=0.9), Claim("b.bad", "t", at_least(0.8), expected=0.9)]
    entries = [{"claim": evidence.claim_to_json(c), "expect": e} for c, e in zip(stated, ("holds", "fails"), strict=True)]
    evidence.seal_plan(tmp_path, {"tier": "full", "claims": entries})
    shown = said(capsys, "--run", str(tmp_path))
    assert shown == said(capsys, "--run", str(tmp_path / "plan.json"))
    assert "a.rate[x,y]      88   0.833  exact" in shown
    assert "P(all pass | nothing changed) = 0.833 for 1 claims" in shown
    assert "1 claims are expected not to hold and are left out" in shown
    assert f" 30   {planner.power(stated[0], 30).value:.3f}" in said(capsys, "--run", str(tmp_path), "--n", "30")


def test_plan_of_the_example_run_takes_the_n_that_was_measured(capsys, monkeypatch) -> None:
    monkeypatch.setattr(planner, "power", lambda claim, n: Power(1.0, "exact"))
    line = next(line for line in said(capsys, "--run", "reports/example").splitlines() if line.startswith("Q1.accuracy[addresses"))
    assert line.split()[1] == "560"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nonsense"], "expected one of non-inferior, better"),
        (["--margin", "2"], "margin = 2, expected 0 < margin < 1"),
        (["at-least", "--bound", ".9", "--truth", ".8"], "expected the true proportion p1 on the good side"),
        (["better", "--psi", ".02"], "expected 0 < psi <= 1 and |difference| <= psi"),
        (["--run", "no/such/run"], "missing from the bundle"),
    ],
)
def test_errors_are_one_message(words, reason, capsys) -> None:
    assert main(["plan", *words]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert reason in message
    assert "Traceback" not in message


def test_a_psi_that_is_no_number(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--psi", "many"])
    assert ended.value.code == 2
    assert "expected a number, or several: .05,.10" in capsys.readouterr().err


def test_help_loads_no_statistics() -> None:
    code = (
        "import sys\nfrom harness.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'scipy') or m in ('harness.planner', 'harness.stats.plan')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


# --- the picture --------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_stands_alone(tmp_path, capsys) -> None:
    path = tmp_path / "power.svg"
    assert str(path) in said(capsys, "better", "--psi", ".3,.5", "--truth", ".2", "--n", "50", "--picture", str(path))
    drawing = ElementTree.fromstring(path.read_text("utf-8"))
    text = [element.text or "" for element in drawing.iter(f"{SVG}text")]
    assert "n = 50" in text
    assert f"psi 0.3: {plan.mcnemar_power(50, 0.3, 0.2, 0.025):.3f}" in text
    assert f"psi 0.5: {plan.mcnemar_power(50, 0.5, 0.2, 0.025):.3f}" in text
    assert any(t.startswith("alpha 0.025") for t in text)
    style = drawing.find(f"{SVG}style")
    assert style is not None
    assert "prefers-color-scheme:dark" in (style.text or "")
    assert "http" not in path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")


def test_nothing_is_drawn_outside_the_picture() -> None:
    drawn = power_curves(
        "a, b", (Curve("one", ((1, 0.0), (50, 0.4), (100, 1.0))), Curve("two", ((1, 0.2), (100, 0.9)))), 0.05, "items", 100
    )
    root = ElementTree.fromstring(drawn)
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for line in root.iter(f"{SVG}polyline"):
        points = [tuple(map(float, point.split(","))) for point in (line.get("points") or "").split()]
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
        assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)  # power rises upwards
    for text in root.iter(f"{SVG}text"):
        if text.get("x"):
            wide = 7.2 * len(text.text or "")  # no letter of the fonts named is wider on average
            left = float(text.get("x", 0)) - {"start": 0, "middle": wide / 2, "end": wide}[text.get("text-anchor", "start")]
            assert left >= 0
            assert left + wide <= width


def test_text_is_escaped_and_long_claims_break() -> None:
    hostile = "<script>alert(1)</script>, " + ", ".join(f"condition {i} of the claim" for i in range(8))
    drawn = power_curves(hostile, (Curve('"><script>', ((1, 0.1), (10, 0.9))),), 0.05, "items")
    assert "<script" not in drawn
    titles = [t.text or "" for t in ElementTree.fromstring(drawn).iter(f"{SVG}text") if t.get("class") == "title"]
    assert len(titles) == 3
    assert all(len(line) <= 80 for line in titles)
    assert "power 0.80 is reached at about n = 10" in drawn


@pytest.mark.parametrize(
    ("design", "said"),
    [
        (Design("at-least", psi=(0.3,)), "says nothing about at-least"),
        (Design("mean", sd=-1.0), "sd = -1"),
        (Design("non-inferior", psi=(0.1, math.nan)), "psi"),
        (Design("non-inferior", n=0), "n = 0"),
        (Design("ratio", truth=math.inf), "finite"),
        (Design("better", alpha=0.6), "alpha = 0.6"),
    ],
)
def test_what_a_gate_cannot_take_is_refused_by_name(design, said):
    with pytest.raises(ValueError, match=said):
        planner.gate(design)


def test_agreement_of_fewer_than_can_show_it_has_no_power():
    assert planner.gate(Design("agreement")).power(5).value == 0.0
    assert planner.gate(Design("agreement")).power(6).value > 0
