"""The workbench: what it opens it keeps right, what it measured it measures once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness import config, evals, lifecycle
from harness.errors import ConfigError, MissingNeed, SubjectError
from harness.lifecycle import Workbench
from harness.store import Store

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).parents[2]


def bench_of(tmp_path: Path, *subjects: str, **more) -> Workbench:
    settings = config.load(ROOT / "fixtures" / "lifecycle.toml").with_subjects(list(subjects))
    return Workbench(settings, Store(tmp_path / "store"), settings.tier("smoke"), lambda *_: None, **more)


def answers_file(tmp_path: Path) -> Path:
    rows = [json.loads(line) for line in (ROOT / "golden/sets/addresses.jsonl").read_text().splitlines()]
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({r["id"]: json.dumps(r["target"]) for r in rows}))
    return path


class Counted:
    """A fake engine that counts how often it was opened and closed; it says so by its name."""

    opened: list[str] = []

    def __init__(self, location: Path) -> None:
        self.closed = False
        Counted.opened.append(location.name)

    def close(self) -> None:
        self.closed = True


def test_the_three_engines_used_last_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(lifecycle, "open_engine", lambda kind, location, **_: Counted(location))
    Counted.opened = []
    for name in "abcd":
        (tmp_path / name).write_text("{}")
    bench = bench_of(tmp_path, *(f"{name}=fake:{tmp_path / name}" for name in "abcd"))
    a, b, c = map(bench.engine, "abc")
    assert bench.engine("a") is a  # used again: b is now the oldest
    d = bench.engine("d")
    assert (a.closed, b.closed, c.closed, d.closed) == (False, True, False, False)
    assert Counted.opened == ["a", "b", "c", "d"]
    bench.close()
    assert a.closed
    assert c.closed


def test_answers_are_given_once_and_a_control_answers_afresh(tmp_path, monkeypatch):
    path = answers_file(tmp_path)
    bench = bench_of(tmp_path, f"mine=fake:{path}")
    asked = []
    fake = bench.engine("mine")
    real = fake.generate

    def counted(prompts, *, sampling):
        asked.append(len(prompts))
        return real(prompts, sampling=sampling)

    monkeypatch.setattr(fake, "generate", counted)
    first = bench.answers("mine", "addresses")
    assert sum(asked) == 100
    assert {s.status for s in first.samples} <= {"ok", "truncated"}  # its tokens are bytes: long answers are cut
    assert sum(s.value == 1 for s in first.samples) > 50
    assert bench.answers("mine", "addresses") == first
    assert sum(asked) == 100
    bench.answers("mine", "addresses", control=True)
    assert sum(asked) == 200


def test_a_timing_among_workers_is_not_taken(tmp_path):
    (tmp_path / "x").write_text("{}")
    bench = bench_of(tmp_path, f"a=fake:{tmp_path / 'x'}", f"b=fake:{tmp_path / 'x'}", quiet_machine=False)
    with pytest.raises(MissingNeed, match="run once without -n"):
        bench.runs("a", "b")


@pytest.mark.parametrize(
    ("subject", "error", "said"),
    [
        ("m=recipe:gguf-q9", ConfigError, "did you mean"),
        ("m=hf:./nowhere", SubjectError, "no folder"),
        ("m=gguf:./nowhere.gguf", SubjectError, "no file"),
        ("m=http://user:secret@127.0.0.1/v1#m", ConfigError, "OPENAI_API_KEY"),
    ],
)
def test_a_subject_that_cannot_be_resolved_says_why(tmp_path, subject, error, said):
    bench = bench_of(tmp_path, subject)
    with pytest.raises(error, match=said) as caught:
        bench.subject("m")
    assert "secret" not in str(caught.value)


def test_an_unknown_subject_and_an_unknown_number_name_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'tuned'"):
        bench_of(tmp_path).subject("tunde")
    text = (ROOT / "fixtures/lifecycle.toml").read_text().replace("rank = 16", "rnak = 16")
    (tmp_path / "fixtures").mkdir()
    (tmp_path / "fixtures/lifecycle.toml").write_text(text)
    settings = config.load(tmp_path / "fixtures/lifecycle.toml")
    bench = Workbench(settings, Store(tmp_path / "store"), settings.tier("full"), lambda *_: None)
    with pytest.raises(ConfigError, match=r"unknown key 'rnak'.*did you mean 'rank'"):
        bench.subject("tuned")


def test_a_server_is_asked_for_no_distributions_and_never_started(tmp_path):
    bench = bench_of(tmp_path, "s=http://127.0.0.1:9/v1#m", "a=fake:x")
    for measure in (bench.distributions, bench.runs):
        with pytest.raises(MissingNeed, match="s is a server"):
            measure("s", "a")


def test_an_adapter_names_two_folders(tmp_path):
    for name in ("lora", "base"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    bench = bench_of(tmp_path, f"m=adapter:{tmp_path}/lora+hf:{tmp_path}/base", f"n=adapter:{tmp_path}/lora")
    first = bench.subject("m")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"other")
    assert bench_of(tmp_path, f"m=adapter:{tmp_path}/lora+hf:{tmp_path}/base").subject("m").digest != first.digest
    with pytest.raises(SubjectError, match="expected adapter:LORA_FOLDER"):
        bench.subject("n")


def test_other_answers_in_the_same_file_are_another_subject(tmp_path):
    path = answers_file(tmp_path)
    right = bench_of(tmp_path, f"mine=fake:{path}").answers("mine", "addresses")
    path.write_text("{}")
    none = bench_of(tmp_path, f"mine=fake:{path}").answers("mine", "addresses")
    assert sum(s.value == 1 for s in right.samples) > 50
    assert not any(s.value == 1 for s in none.samples)
    path.unlink()
    with pytest.raises(SubjectError, match="no file"):
        bench_of(tmp_path, f"mine=fake:{path}").answers("mine", "addresses")


def test_what_a_server_said_is_not_reused_in_another_session(tmp_path):
    inputs = [bench_of(tmp_path, "s=http://127.0.0.1:9/v1#m")._inputs("s") for _ in range(2)]
    assert inputs[0] != inputs[1]


def test_a_set_is_asked_with_its_own_prompt(tmp_path):
    chosen = bench_of(tmp_path).golden("addresses")
    assert evals.prompts(chosen)[0].messages[0]["content"].startswith("Parse this US address")
    plain = replace(chosen, prompt="{input}")
    assert evals.prompts(plain)[0].messages[0]["content"] == plain.items[0]["input"]
    assert evals.task_digest(plain) != evals.task_digest(chosen)
