"""The model card: hubs read it, every number in it is one of the evidence, and what is changed or left out is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import evidence
from harness.__main__ import main
from harness.bounds import at_least, at_most, identical, non_inferior
from harness.errors import EvidenceError
from harness.report import exports
from harness.report.exports.card import SECTIONS
from harness.report.exports.card_reader import REQUIRED, checked
from harness.types import Claim, Measurement, Sample, Subject
from suites.selftest.report.conftest import paired
from suites.selftest.report.reading import HOSTILE

pytestmark = pytest.mark.selftest

NASTY = f"{HOSTILE} \\| \\\\ a|b `c` \x0b\ud800 # 5 \U0001f600 holds 17 times"
OLD = Subject("old", "gguf", "old.gguf", "cd" * 32)


def cards_run(folder, text: str = "keeps its answers", name: str = "mine", **detail: str):
    run = folder()
    mine = Subject(name, "gguf", f"{name}.gguf", "ab" * 32, {"recipe": "q8", **detail})
    conditions = {"new": {"engine": {"engine": "llamacpp", "threads": "2", "odd/key|`~": NASTY}}, "golden": "2f" * 32}
    ten, lost = [1.0] * 100, [1.0] * 98 + [0.0] * 2
    run.add(Claim(f"Q1.accuracy[addresses,{name}]", text, non_inferior(0.1)), Measurement("a", paired(ten, lost), (mine, OLD), conditions))
    run.add(
        Claim(f"Q1.accuracy[commonsense,{name}]", text, non_inferior(0.01)),
        Measurement("a", paired(ten, [0.0] * 100), (mine, OLD), conditions),
    )
    run.add(Claim(f"Q4.bits[{name}]", text, at_most(9), estimand="exact"), Measurement("bits", (Sample("all", 8.5),), (mine,)))
    run.add(Claim("Q4.bits[old]", text, at_most(20), estimand="exact"), Measurement("bits", (Sample("all", 16.0),), (OLD,)))
    run.add(Claim("Q7.refusals[old]", text, at_least(0.5)), Measurement("r", tuple(Sample(str(i), 1.0) for i in range(50)), (OLD,)))
    data = Subject("train", "data", "train.jsonl", "ef" * 32)
    run.add(Claim("D6.schema[train]", text, identical()), Measurement("d", (Sample("r", 1.0),), (data,), {"dataset": "train", "rows": 631}))
    return run


def bundle(run) -> exports.Bundle:
    path = run.close(exit_status=1)
    return exports.of_evidence(path, evidence.seal_bundle(path))


def wrong(of: exports.Bundle, text: str, name: str = "mine") -> list[str]:
    return [one.item for one in checked(text, of.path, name) if not one.equal]


@pytest.fixture
def of(folder) -> exports.Bundle:
    return bundle(cards_run(folder))


def test_a_server_is_known_by_its_address_alone(folder):
    run = folder()
    served = Subject("mine", "http", "http://127.0.0.1:8000/v1", "ab" * 32)
    run.add(
        Claim("Q7.refusals[mine]", "declines", at_least(0.5)), Measurement("r", tuple(Sample(str(i), 1.0) for i in range(50)), (served,))
    )
    made = bundle(run)
    text = exports.card(made, "mine").decode()
    assert "| of its address, for what a server holds nobody can digest: SHA-256 |" in text
    assert wrong(made, text) == []


def test_writer_and_reader_ask_for_the_same_sections():
    assert SECTIONS == REQUIRED


def test_a_card_says_what_the_evidence_says(of):
    text = exports.card(of, "mine").decode()
    found = checked(text, of.path, "mine")
    assert len(found) > 60
    assert all(one.equal for one in found)
    for shown in ("-0.02", "98", "8.5", "631", f"--seal {of.seal}", "- `Q7.refusals`"):
        assert shown in text
    use, limits = (text.partition(f"## {title}\n")[2].partition("\n## ")[0] for title in ("Intended use", "Limits"))
    assert "- addresses" in use and "- commonsense" not in use
    assert "- commonsense" in limits


def test_every_single_digit_counts(of):
    text = exports.card(of, "mine").decode()
    places = [found.start() for found in re.finditer(r"[0-9]", text)]
    assert len(places) > 300
    for at in places[::5]:
        changed = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
        assert wrong(of, changed), text[max(0, at - 80) : at + 20]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: re.sub(r"## Risks\n.*?(?=## How)", "", t, flags=re.DOTALL), "section Risks"),
        (lambda t: t.replace("## Limits\n", "## Risks\n\n## Limits\n"), "section Risks"),
        (lambda t: "\n".join(line for line in t.split("\n") if "Q4.bits" not in line), "claim Q4.bits[mine]"),
        (lambda t: re.sub(r"\| Q1[^\n]*commonsense[^\n]*\| fails \| -1 [^\n]*\n", "", t), "risk Q1.accuracy[commonsense,mine]"),
        (lambda t: t.replace("- addresses\n", "- addresses\n- commonsense\n"), "use commonsense"),
        (lambda t: t.replace("## Risks\n", "## Risks\n\nA loss of 0.1 points.\n"), "prose: A loss of 0.1 points."),
        (lambda t: t.replace("## Risks\n", "## Risks\n\n| score |\n| --- |\n| 99 |\n"), "Risks: 99"),
        (lambda t: t.replace("/subjects/0/digest`", "/subjects/1/digest`", 1).replace("ab" * 32, "cd" * 32), "Model details: SHA-256"),
        (lambda t: t.replace('"outcome": "fails"', '"outcome": "holds"'), "front matter: Q1.accuracy[commonsense,mine]: outcome"),
        (lambda t: re.sub(r", \{\"task\".*\}\]\}\]", "]}]", t), "front matter: Q1.accuracy[commonsense,mine]"),
        (lambda t: t.replace("model-index: [", "model-index: ["[:-1] + "7, [", 1), "front matter: model-index"),
        (lambda t: t.replace('"metrics"', '"numbers"'), "front matter"),
        (lambda t: t.replace("# mine", "# old"), "title"),
        (lambda t: "", "section Evaluation"),
        (lambda t: t.replace("evidence/Q4", "../evidence/Q4"), "Quantization: Q4.bits[mine]: evidence"),
    ],
)
def test_what_was_changed_is_named(of, change, named):
    text = exports.card(of, "mine").decode()
    assert change(text) != text
    assert named in wrong(of, change(text))


def test_numbers_of_one_claim_beside_another_are_named(of):
    text = exports.card(of, "mine").decode()
    swapped = text.replace("8.5", "@").replace("-0.02", "8.5").replace("@", "-0.02")
    assert {"Quantization: Q4.bits[mine]: estimate", "Evaluation: Q1.accuracy[addresses,mine]: estimate"} <= set(wrong(of, swapped))


def test_hostile_text_stays_in_its_cell(folder):
    of = bundle(cards_run(folder, text=NASTY, odd=NASTY))
    text = exports.card(of, "mine").decode()
    assert wrong(of, text) == []
    assert "<script" not in text and "\u202e" not in text and "\x00" not in text
    body = text.partition("---\n\n")[2]
    assert "[a](" not in body and "![" not in body
    assert re.search(r"(?<!\\)\$x", body) is None


@pytest.mark.parametrize(("right", "section"), [(1.0, "Intended use"), (0.0, "Limits")])
def test_a_set_that_no_id_names_is_known_by_what_was_asked(folder, right, section):
    run = folder()
    mine, rows = Subject("mine", "gguf", "mine.gguf", "ab" * 32), tuple(Sample(str(i), right) for i in range(60))
    run.add(
        Claim("faq.accuracy", "answers", at_least(0.8)), Measurement("a", rows, (mine,), {"engine": {}, "golden": "2f" * 32 + "+limit=60"})
    )
    of = bundle(run)
    text = exports.card(of, "mine").decode()
    assert wrong(of, text) == []
    assert "- addresses" in text.partition(f"## {section}\n")[2].partition("\n## ")[0]


def test_hubs_read_the_front_matter(folder):
    hub = pytest.importorskip("huggingface_hub")
    of = bundle(cards_run(folder, text=NASTY))
    data = hub.ModelCard(exports.card(of, "mine").decode()).data
    found = {(r.dataset_name, r.metric_type): r.metric_value for r in data.eval_results}
    assert found == {
        ("addresses", "accuracy"): 0.98, ("addresses", "accuracy (paired_difference)"): -0.02,
        ("commonsense", "accuracy"): 0.0, ("commonsense", "accuracy (paired_difference)"): -1.0,
    }  # fmt: skip
    assert data.model_name == "mine" and data.tags == ["lifecycle-harness"]


def test_a_claim_that_left_no_evidence_stands_among_the_risks(folder):
    run = cards_run(folder)
    run.add(Claim("Q3.perplexity[mine]", "a ratio", at_most(2), estimand="exact"))
    of = bundle(run)
    text = exports.card(of, "mine").decode()
    assert "- Q3.perplexity\\[mine\\]" in text
    assert wrong(of, text.replace("- Q3.perplexity\\[mine\\]\n", "")) == ["claim Q3.perplexity[mine]"]


def test_whose_card_it_is(of):
    with pytest.raises(EvidenceError, match="no claim is about a model 'mien'; did you mean 'mine'"):
        exports.chosen(of, "mien")
    with pytest.raises(EvidenceError, match="say whose card it is to be with --of; known: mine, old"):
        exports.chosen(of)
    assert exports.chosen(of, "old") == "old"


def test_the_verb_writes_a_card_and_checks_it(of, tmp_path, capsys):
    path = tmp_path / "README.md"
    assert main(["export", str(of.path), "--card", str(path), "--of", "mine"]) == 0
    assert main(["export", str(of.path), "--check-card", str(path)]) == 0
    assert "0 differ" in capsys.readouterr().out
    path.write_text(path.read_text("utf-8").replace("| 8.5 |", "| 4.5 |"), "utf-8")
    assert main(["export", str(of.path), "--check-card", str(path)]) == 1
    assert "DIFFERS  Quantization: Q4.bits[mine]: estimate: the card says 4.5, the evidence 8.5" in capsys.readouterr().out


def test_a_card_that_cannot_be_read_is_an_error(of, tmp_path, capsys):
    (tmp_path / "card.md").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "card.md", tmp_path / "none.md", Path(tmp_path)):
        assert main(["export", str(of.path), "--check-card", str(path)]) == 1
        assert "cannot read the card" in capsys.readouterr().err
    assert main(["export", str(of.path), "--ctrf", str(tmp_path / "c"), "--of", "mine"]) == 2
    assert "name its file with --card" in capsys.readouterr().err
