"""The page a person decides by: what it recommends follows from the evidence by the rules it states, whatever is missing."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import evidence, report
from harness.bounds import at_least, at_most, identical, non_inferior
from harness.judge import not_evaluated
from harness.report import markdown, view
from harness.report.builds import Build, Flip, broken, builds_of, groups_of
from harness.report.choice import choice, dominated
from harness.report.figures import positions
from harness.report.plots import by_position
from harness.report.scatter import Box, names
from harness.report.tensors import bits_of, cells_of
from harness.report.view import ClaimView
from harness.types import Claim, Measurement, Sample
from suites.selftest.report.conftest import MADE, Made, subject
from suites.selftest.report.reading import HOSTILE, UNSEEN, Page, both, records

pytestmark = pytest.mark.selftest

EXAMPLE = Path(__file__).parents[3] / "reports" / "example"


@pytest.fixture(scope="module")
def engines(tmp_path_factory, make_engines) -> Path:
    """Eight builds in three engines, rendered once."""
    run = make_engines(tmp_path_factory.mktemp("engines") / "run")
    report.write(run)
    return run


def section(text: str, key: str) -> str:
    return re.search(rf'<section aria-labelledby="{key}">.*?</section>', text, re.S)[0]


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html))


# --- the whole page -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["several engines", "one build", "twelve builds", "eighty layers"])
def test_page_is_sound_whatever_it_compares(tmp_path, make_engines, kind):
    twelve = [replace(MADE[i % 8], name=f"{MADE[i % 8].name}-{i}") for i in range(12)]
    made = {"one build": MADE[:1], "twelve builds": twelve}.get(kind, MADE)
    run = make_engines(tmp_path / "run", made, items=120, layers=80 if kind == "eighty layers" else 6)
    text, summary = both(run)
    page = Page(text)
    assert page.wrong == page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {"decision", "tradeoff", "builds", "releases", "positions", "tensors", "flips"} <= set(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert all(image["role"] == "img" and len(image["aria-label"] or "") > 20 for image in page.images)
    assert "url(" not in text
    assert len(text) < 1_500_000
    assert len(summary.encode()) <= markdown.LIMIT
    before = (run / "report.html").read_bytes(), (run / "summary.md").read_bytes()
    report.write(run)
    assert ((run / "report.html").read_bytes(), (run / "summary.md").read_bytes()) == before


def test_every_build_has_a_card_a_row_and_a_line(engines):
    text, summary = ((engines / name).read_text("utf-8") for name in ("report.html", "summary.md"))
    for m in MADE:
        assert f"<strong><bdi>{m.name}</bdi></strong>" in section(text, "decision")
        row = re.search(rf'<tr><th scope="row" class="num"><bdi>{m.name}</bdi></th>.*?</tr>', section(text, "builds"))[0]
        assert all(word in words(row) for word in (m.engine, m.format, f"{int(134_515_008 * m.bits / 8) / 1e6:.1f}"))
        (line,) = [x for x in summary.splitlines() if x.startswith(f"| {markdown.escape(m.name)} |")]
        assert all(markdown.escape(word) in line for word in (m.engine, m.format, m.reference))
    assert "group 64, symmetric" in words(section(text, "builds"))
    assert "Kernel7" in section(text, "builds")
    assert "✓ disjoint" in section(text, "builds")


# --- the recommendation ---------------------------------------------------------------------------


def test_the_smallest_that_may_go_out_is_recommended(engines):
    told = evidence.read_json(engines / "release.json")
    smallest = min((m for m in MADE if told[m.name]["outcome"] == "holds"), key=lambda m: m.bits)
    assert len({v["outcome"] for v in told.values()}) == 3  # the run has something to choose from
    taken = choice(view.load(engines))
    assert taken.pick.build.name == smallest.name
    for shown in ((engines / name).read_text("utf-8") for name in ("report.html", "summary.md")):
        assert re.search(rf"Recommended: (<strong><bdi>)?{re.escape(smallest.name)}", shown.replace("\\", ""))
    assert all(option.ready is (told[option.build.name]["outcome"] == "holds") for _, group in taken.groups for option in group)


def test_of_equals_the_one_that_is_not_dominated_comes_first(engines):
    taken = choice(view.load(engines))
    options = {o.build.name: o for _, group in taken.groups for o in group}
    assert options["fp8-dynamic"].build.size_bytes == options["int8-w8a8"].build.size_bytes
    assert options["fp8-dynamic"].ready
    assert options["fp8-dynamic"].beaten
    assert taken.firsts["bf16-vllm"].build.name == "int8-w8a8"


def test_each_build_is_compared_with_the_reference_of_its_engine(engines):
    builds = builds_of(view.load(engines))
    assert [b.reference for b in builds] == sorted(b.reference for b in builds)  # a group stands together in every table
    groups = dict(groups_of(builds))
    assert {name: {b.name for b in group} for name, group in groups.items()} == {
        name: {m.name for m in MADE if m.reference == name} for name in {m.reference for m in MADE}
    }
    for group in groups.values():
        for build in group:
            found = dominated(build, group)
            assert found is None or found[0].reference == build.reference


SOUND, SMALL = MADE[:2], {"items": 400, "layers": 2}


def untouched(make, path):
    return make(path, SOUND, **SMALL)


def test_a_sound_run_is_recommended_from(tmp_path, make_engines):
    """The other side of the next test: what is done to the run there is why nothing is recommended."""
    assert choice(view.load(untouched(make_engines, tmp_path / "run"))).pick is not None


def smoke(make, path):
    return make(path, SOUND, tier="smoke", **SMALL)


def cut_short(make, path):
    run = make(path, SOUND, **SMALL)
    (run / "run.json").unlink()
    return run


def no_releases(make, path):
    return make(path, SOUND, releases=False, **SMALL)


def damaged(make, path):
    run = make(path, SOUND, **SMALL)
    (run / "evidence" / "half.json").write_text("{", "utf-8")
    return run


def stale(make, path):
    """Every release is said to hold, which the claims do not bear out."""
    run = make(path, [replace(m, loss=0.3) for m in SOUND], **SMALL)
    told = evidence.read_json(run / "release.json")
    for verdict in told.values():
        verdict["outcome"] = "holds"
        for family in verdict["families"]:
            family.update(outcome="holds", claims=dict.fromkeys(family["claims"], "holds"))
    evidence.write_atomic(run / "release.json", evidence.canonical(told))
    return run


def lost_claim(make, path):
    """A claim of every family that was never planned leaves no evidence to believe."""
    run = make(path, SOUND, **SMALL)
    told = evidence.read_json(run / "release.json")
    for verdict in told.values():
        verdict["families"][0]["claims"]["Q9.unheard[of]"] = "holds"
    evidence.write_atomic(run / "release.json", evidence.canonical(told))
    return run


@pytest.mark.parametrize("how", [smoke, cut_short, no_releases, damaged, stale, lost_claim])
def test_nothing_is_recommended_that_is_not_shown(tmp_path, make_engines, how):
    run = how(make_engines, tmp_path / "run")
    text, summary = both(run)
    assert choice(view.load(run)).pick is None
    assert "Recommended: <strong>none</strong>" in text
    assert "**Recommended: none**" in summary
    assert "★" not in text


def test_what_stands_in_the_way_is_named_with_the_n_it_needs(tmp_path, make_engines):
    run = make_engines(tmp_path / "run", [replace(MADE[1], loss=0.045), MADE[2]], items=300)
    taken = choice(view.load(run))
    assert taken.pick is None
    first, barrier = taken.why
    assert "the nearest is gguf-q4_k_m; in its way stands this alone" in first.text
    assert barrier.claim.id == "Q1.accuracy[addresses,gguf-q4_k_m]"
    assert f"n = 300, planned for power .80: {barrier.claim.verdict['n_needed']}" in barrier.text
    assert re.search(r"at this estimate it takes about n = [\d,]+", barrier.text)
    text, summary = both(run)
    assert f'href="#{barrier.claim.anchor}"' in section(text, "decision")
    assert markdown.escape(barrier.text, 400) in summary


def test_risks_name_every_claim_that_does_not_hold(engines):
    run = view.load(engines)
    text = section((engines / "report.html").read_text("utf-8"), "decision")
    summary = (engines / "summary.md").read_text("utf-8")
    risky = [c for c in run.claims if c.outcome != "holds"]
    assert len(risky) > 4
    for claim in risky:
        assert f'href="#{claim.anchor}"' in text
        assert re.search(rf"^  - risk: .*\({re.escape(markdown.escape(claim.id))}\)$", summary, re.M)


def test_what_is_not_measured_or_not_even_claimed_is_a_risk(folder):
    run = folder()
    for build in ("gguf-a", "gguf-b"):
        who = (subject(build), subject("gguf-f16"))
        run.add(Claim(f"Q2.kld[{build}]", "close", at_most(0.5), "bounded_mean", support=(0.0, 1.0)), Measurement("k", rows(0.01), who))
    speed = Claim("Q5.speed[gguf-a]", "faster", at_least(1.1), "run_ratio")
    run.add(speed, verdict=not_evaluated(speed, "gpu", "no GPU here"))
    path = run.close()
    by_name = {o.build.name: [r.text for r in o.risks] for _, group in choice(view.load(path)).groups for o in group}
    assert by_name == {"gguf-a": ["not measured: faster; no GPU here"], "gguf-b": ["nothing is claimed of it, as of others: speed"]}
    assert Page(both(path)[0]).wrong == []


def rows(mean: float, **detail) -> tuple[Sample, ...]:
    return tuple(Sample(f"d-{i}", mean, detail=detail) for i in range(200))


# --- dominance ------------------------------------------------------------------------------------


def built(name: str, size: int | None, **figures: tuple[float, float, float]) -> Build:
    """A build of given limits; the bound does not matter here."""
    claims = {}
    for key, (low, middle, high) in figures.items():
        verdict = {"estimate": middle, "low": low, "high": high}
        claims[key, "s" if key == "accuracy" else ""] = ClaimView(f"Q.{key}[{name}]", "holds", verdict=verdict)
    if size:
        claims["bits", ""] = ClaimView(f"Q4.bits[{name}]", "holds", samples=(Sample(name, 1.0, detail={"size_bytes": size}),))
    return Build(name, claims)


def test_dominated_needs_a_shown_advantage_and_no_disadvantage():
    good = built("a", 100, accuracy=(-0.02, 0.0, 0.02))
    larger = built("b", 120, accuracy=(-0.03, -0.01, 0.01))
    assert dominated(larger, [good, larger])[0] is good
    assert dominated(larger, [good, larger])[1] == ["size"]
    assert dominated(good, [good, larger]) is None
    better = built("b", 120, accuracy=(-0.01, 0.01, 0.03))  # larger, and not shown to be better: but it may be
    assert dominated(better, [good, better]) is None
    same_size = built("b", 100, accuracy=(-0.03, -0.01, 0.01))  # worse only within the noise
    assert dominated(same_size, [good, same_size]) is None


def test_what_is_not_known_dominates_nothing():
    known = built("a", 100, accuracy=(-0.02, 0.0, 0.02))
    assert dominated(built("b", 120), [known]) is None  # of unknown quality
    faster = built("b", 120, accuracy=(-0.3, -0.2, -0.1), speed=(2.0, 2.1, 2.2))
    assert dominated(faster, [known]) is None  # the speed of the other is not known


limits = st.tuples(*[st.integers(-5, 5)] * 3).map(lambda t: tuple(float(x) for x in sorted(t)))


@given(st.lists(st.tuples(st.integers(1, 5), limits, limits), min_size=1, max_size=6))
def test_somebody_is_never_dominated_and_nobody_by_himself(figures):
    group = [built(str(i), size, accuracy=a, kld=k) for i, (size, a, k) in enumerate(figures)]
    beaten = {b.name: found[0].name for b in group if (found := dominated(b, group))}
    assert len(beaten) < len(group)
    for name, by in beaten.items():
        assert beaten.get(by) != name


# --- drawings -------------------------------------------------------------------------------------

FRAME = (58.0, 30.0, 380.0, 260.0)


def test_builds_that_cannot_be_placed_are_named(tmp_path, make_engines):
    run = make_engines(tmp_path / "run", MADE[:2], items=60, layers=2)
    for kind in ("speed", "accuracy"):
        for path in (run / "evidence").glob(f"Q*.{kind}*gguf-q8_0*"):
            path.unlink()
    text = words(section(both(run)[0], "tradeoff"))
    assert "Not placed by tokens/s against the reference: gguf-q8_0." in text
    assert "No accuracy on addresses: gguf-q8_0." in text


def test_without_answers_quality_is_the_kl(folder):
    run = folder()
    who = (subject("gguf-a"), subject("gguf-f16"))
    run.add(Claim("Q2.kld[gguf-a]", "close", at_most(0.5), "bounded_mean", support=(0.0, 1.0)), Measurement("k", rows(0.01), who))
    run.add(Claim("Q4.bits[gguf-a]", "b", at_most(9), "exact"), Measurement("b", (Sample("a", 4.0, detail={"size_bytes": 7_000_000}),)))
    text = section(both(run.close())[0], "tradeoff")
    assert text.count("<svg") == 1
    assert "KL to the reference, nats" in text
    heights = dict(re.findall(r'class="tick" x="52.0" y="([\d.]+)" text-anchor="end">([^<]+)<', text))
    assert float(min(heights, key=lambda y: float(heights[y]))) == min(map(float, heights))  # the least divergence lies highest


@given(st.lists(st.tuples(st.floats(70, 370), st.floats(32, 258)), min_size=1, max_size=12), st.integers(3, 13))
def test_names_lie_inside_and_on_no_other(at, length):
    boxes = names(at, ["x" * length] * len(at), FRAME)
    assert not any(a.meets(b) for a, b in combinations(boxes, 2))
    assert all(FRAME[0] <= b.left and b.left + b.width <= FRAME[2] and FRAME[1] <= b.top and b.top + b.height <= FRAME[3] for b in boxes)
    marks = [Box(x - 5, y - 5, 10, 10) for x, y in at]
    assert not any(box.meets(mark) for box in boxes for mark in marks)


def test_a_name_lies_on_a_bar_rather_than_on_a_name():
    everywhere = [Box(0, 0, 400, 300)]
    boxes = names([(200.0, 100.0)] * 5, ["name"] * 5, FRAME, everywhere)
    assert not any(a.meets(b) for a, b in combinations(boxes, 2))
    aside = names([(200.0, 100.0)], ["name"], FRAME, [Box(195, 30, 190, 230)])[0]
    assert aside.left + aside.width <= 195


def test_panels_share_the_axis_of_quality_and_hollow_marks_are_named(engines):
    text = section((engines / "report.html").read_text("utf-8"), "tradeoff")
    panels = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(panels) == 3
    assert len({tuple(re.findall(r'class="tick" x="52.0" y="([\d.]+)" text-anchor="end">([^<]+)<', p)) for p in panels}) == 1
    run = view.load(engines)
    beaten = [b.name for _, group in groups_of(builds_of(run)) for b in group if dominated(b, group)]
    assert beaten
    assert all(
        panel.count("mark o-") == len(MADE) and len(re.findall(r'class="mark [^"]* beaten"', panel)) == len(beaten) for panel in panels
    )
    assert all(f"{name} is dominated by" in words(text) for name in beaten)


def test_positions_are_sums_over_documents():
    told = {"by_position": {"sum": [0.5, 3.0, 0.0], "n": [1, 2, 0]}}
    more = {"by_position": {"sum": [1.5, 1.0], "n": [1, 2]}}
    bad = ({"by_position": x} for x in (None, 7, {"sum": "x", "n": [1]}, {"sum": [10**400], "n": [10**400]}, {"sum": [1.0], "n": [-3]}))
    samples = tuple(Sample(f"d{i}", 0.1, detail=detail) for i, detail in enumerate((told, more, *bad)))
    build = Build("b", {("kld", ""): ClaimView("Q2.kld[b]", "holds", samples=samples)})
    shown = positions([build])
    assert re.findall(r'<td class="num">([^<]+)</td>', shown) == ["1", "1"]
    assert "No positions were kept: <bdi>c</bdi>" in positions([build, Build("c", {})])
    assert "2–3" in shown


def test_lines_are_named_apart(engines):
    text = section((engines / "report.html").read_text("utf-8"), "positions")
    for drawn in re.findall(r"<svg.*?</svg>", text, re.S):
        heights = [float(y) for y in re.findall(r'class="label" x="[\d.]+" y="([\d.]+)"', drawn)]
        assert all(b - a >= 15 for a, b in pairwise(heights))
        assert len(set(re.findall(r"curve (c\d+)", drawn))) == len(heights)


def test_a_line_of_zeros_and_an_empty_bin_do_no_harm():
    from harness.report.plots import Series

    drawn = by_position([Series("still", (0.0, 0.0)), Series("gap", (0.1, None, 0.3))], [0.1, 0.3], "t")
    assert Page(drawn).wrong == []
    assert drawn.count("<polyline") == 1


# --- tensors --------------------------------------------------------------------------------------


def of_types(*samples: Sample) -> Build:
    return Build("b", {("types", ""): ClaimView("Q4.types[b]", "holds", samples=samples)})


def test_names_of_either_format_are_placed():
    names_of = {
        "blk.12.attn_v.weight": ("attn_v", 12), "model.layers.3.mlp.down_proj": ("mlp.down_proj", 3), "lm_head": ("lm_head", None),
        "token_embd.weight": ("token_embd", None), "model.layers.7.mlp.experts.11.up_proj.weight": ("mlp.experts.*.up_proj", 7),
        "model.layers.99999.x": ("model.layers.99999.x", None), "": ("", None),
    }  # fmt: skip
    build = of_types(*(Sample(name, 1.0, detail={"found": "Q4_K", "shape": [2, 2]}) for name in names_of))
    cells, left = cells_of(build)
    assert {c.name: (c.matrix, c.layer) for c in cells} == names_of
    assert left == 0


def test_vectors_are_left_out_and_counted():
    rows = (
        Sample("blk.0.attn_norm.weight", 1.0, detail={"found": "F32", "shape": [576]}),
        Sample("x.bias", 1.0, detail={"found": "bf16"}),
        Sample("model.norm", 1.0, detail={"found": "bf16", "kind": "norm"}),
        Sample("lm_head", 1.0, detail={"found": "bf16", "kind": "head"}),
    )
    cells, left = cells_of(of_types(*rows))
    assert ([c.name for c in cells], left) == (["lm_head"], 3)


@pytest.mark.parametrize(
    ("detail", "bits"),
    [({"found": "Q4_K"}, 4), ({"found": "BF16"}, 16), ({"found": "nf4"}, 4), ({"found": "int4 g64"}, 4), ({"found": "fp8 e4m3"}, 8),
     ({"found": "q", "bits": 3}, 3), ({"found": "?"}, None), ({"found": "Q8_0", "bits": True}, 8), ({"found": "x", "bits": 10**400}, None)],
)  # fmt: skip
def test_bits_are_stated_or_read_from_the_name(detail, bits):
    assert bits_of(detail) == bits


def test_other_types_are_struck_through_excused_or_not(engines):
    run = view.load(engines)
    text = section((engines / "report.html").read_text("utf-8"), "tensors")
    for build in builds_of(run):
        (drawn,) = [svg for svg in re.findall(r"<svg.*?</svg>", text, re.S) if f"Types of the tensors of {build.name}:" in svg]
        cells, _ = cells_of(build)
        states = [c.state for c in cells]
        assert drawn.count("<title>") == len(cells)
        assert drawn.count('class="strike forced"') == states.count("forced")
        assert drawn.count('class="strike wrong"') == 2 * states.count("wrong")
    assert "model.layers.29.mlp.up_proj: bf16, wanted int4 g64" in text
    assert "token_embd.weight: Q8_0, wanted Q6_K" in text


def test_a_file_of_endless_tensors_is_drawn_in_part(folder):
    run = folder()
    many = tuple(Sample(f"blk.{i % 400}.m{i // 400}", 1.0, detail={"found": "Q4_0", "shape": [2, 2]}) for i in range(40_000))
    run.add(Claim("Q4.types[b]", "types", identical()), Measurement("t", many))
    text, _ = both(run.close())
    assert text.count("<g><title>") == 60 * 200
    assert "matrices not drawn: 28000" in words(text)


# --- flips side by side ---------------------------------------------------------------------------


def flip(item: str, badness: float = 0.5) -> Flip:
    return Flip(item, "in", "t", "old", "new", "ok", badness)


def test_an_item_that_several_builds_broke_stands_in_one_row():
    rows = broken([[flip("a"), flip("b", 0.9)], [flip("a"), flip("c", 0.1)]])
    assert [(r.first.item, [f is not None for f in r.flips]) for r in rows] == [
        ("a", [True, True]),
        ("b", [True, False]),
        ("c", [False, True]),
    ]


def test_flips_have_a_column_per_build_and_one_table_per_reference(engines):
    text = section((engines / "report.html").read_text("utf-8"), "flips")
    tables = re.findall(r"<table>.*?</table>", text, re.S)
    heads = [[words(h) for h in re.findall(r"<th scope=\"col\">(.*?)</th>", t)] for t in tables]
    assert [set(h[3:]) for h in heads] == [{m.name for m in MADE if m.reference == name} for name in ("bf16-vllm", "gguf-f16", "tuned")]
    assert [h[2] for h in heads] == [f"{name}, right" for name in ("bf16-vllm", "gguf-f16", "tuned")]
    assert all("input" not in h for h in heads)  # these rows keep none


# --- what is missing, what is hostile -------------------------------------------------------------


def test_a_bundle_of_an_older_version_still_renders(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(EXAMPLE, run)
    text, summary = both(run)
    assert Page(text).wrong == []
    assert "Recommended: <strong><bdi>gguf-q8_0</bdi></strong>" in text
    assert "**Recommended: gguf-q8\\_0**" in summary
    assert {"decision", "tradeoff", "builds", "tensors", "flips"} <= set(Page(text).ids)


def test_builds_with_hardly_anything_known_still_render(folder):
    run = folder()
    run.add(Claim("Q4.bits[bare]", "bits", at_most(9), "exact"), Measurement("b", (Sample("bare", 4.0),)))
    missing = Claim("Q1.accuracy[s,gone]", "answers", non_inferior(0.05))
    run.add(missing, verdict=not_evaluated(missing, "engine", "no engine"))
    run.add(Claim("Q4.types[lost]", "types", identical()))
    text, summary = both(run.close())
    assert Page(text).wrong == []
    for name in ("bare", "gone", "lost"):
        assert f"<strong><bdi>{name}</bdi></strong>" in text
        assert f"| {name} |" in summary
    assert "the run holds no release verdict" in text
    assert "No inventory of tensors: " in text
    assert "No positions were kept: " in text


def test_hostile_builds_are_shown_and_harmless(tmp_path, make_engines):
    text = HOSTILE.replace(" ", "_").replace(",", "").replace("[", "").replace("]", "")
    bad = Made(text, f"ref{text}", text, text, 4.0)
    run = make_engines(tmp_path / "run", [bad, replace(MADE[0], name="gguf-q8_0")], items=60, layers=2)
    poison(run, text)
    shown, summary = both(run)
    page = Page(shown)
    assert page.wrong == page.open == []
    assert not page.tags & {"script", "b", "i", "img"}
    assert "<script" not in shown
    assert "<script" not in summary
    assert not UNSEEN.search(shown)
    assert not UNSEEN.search(summary)
    assert "@octocat" not in summary
    assert choice(view.load(run)).groups  # and something was shown


def poison(run: Path, text: str) -> None:
    """Conditions that say anything at all, where a person would believe them."""
    for path in (run / "evidence").glob("Q1*.json"):
        record = evidence.read_json(path)
        record["measurement"]["conditions"] = {"new": {"engine": {"engine": text}}, text: text}
        evidence.write_atomic(path, evidence.canonical(record))


@pytest.mark.parametrize(
    "told",
    [[], {"b": 7}, {"gguf-q8_0": {}},
     {"gguf-q8_0": {"outcome": ["holds"], "families": [7, {"claims": {"x": []}, "rule": [], "outcome": {}}]}},
     {"gguf-q8_0": {"outcome": HOSTILE, "families": [{"name": HOSTILE, "claims": {HOSTILE: HOSTILE}, "rule": "all", "reason": HOSTILE}]}}],
)  # fmt: skip
def test_a_release_file_that_says_anything_recommends_nothing(tmp_path, make_engines, told):
    run = make_engines(tmp_path / "run", MADE[:1], items=60, layers=2)
    evidence.write_atomic(run / "release.json", json.dumps(told).encode())
    text, summary = both(run)
    assert Page(text).wrong == []
    assert "<script" not in text + summary
    assert "**Recommended: none**" in summary


def test_detail_that_says_anything_is_harmless(folder):
    run = folder()
    for i, junk in enumerate((HOSTILE, 10**400, -1, True, None, [HOSTILE], {"a": HOSTILE}, float(7))):
        keys = ("size_bytes", "format", "file_type", "group_size", "symmetric", "method", "tensors", "by_position", "bits", "shape", "kind")
        detail = {**dict.fromkeys(keys, junk), "found": HOSTILE if i % 2 else "Q4_0", "declared": junk, "expected": junk}
        who = (subject(f"b{i}"), subject("ref"))
        for name in ("bits", "types", "kernel"):
            bound, kind = (at_most(9), "exact") if name == "bits" else (identical(), None)
            run.add(Claim(f"Q4.{name}[b{i}]", "x", bound, kind), Measurement("m", (Sample(HOSTILE, 1.0, detail=detail),)))
        claim = Claim(f"Q2.kld[b{i}]", "x", at_most(0.5), "bounded_mean", support=(0.0, 1.0))
        run.add(claim, Measurement("m", rows(0.01, **detail), who))
    text, summary = both(run.close())
    assert Page(text).wrong == []
    assert "<script" not in text + summary
    assert not UNSEEN.search(text + summary)


def test_numbers_of_the_cards_equal_the_evidence(engines):
    from harness.report.text import number, signed

    cards = words(section((engines / "report.html").read_text("utf-8"), "decision"))
    for record in records(engines):
        claim = view.of_record(record)
        if claim.name == "speed":
            assert f"{number(claim.estimate)}× tokens/s" in cards
        if claim.name == "accuracy":
            assert f"{signed(100 * claim.estimate)} points" in cards
