"""The workbench: what it opens it keeps right, what it measured it measures once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness import config, evals, lifecycle
from harness.errors import ConfigError, EngineError, MissingNeed, SubjectError
from harness.lifecycle import Workbench
from harness.quant import footprint
from harness.store import Store
from harness.types import Generation, Prompt

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).parents[2]


def bench_of(tmp_path: Path, *subjects: str, **more) -> Workbench:
    settings = config.load(ROOT / "fixtures" / "lifecycle.toml").with_subjects(list(subjects))
    return Workbench(settings, Store(tmp_path / "store"), replace(settings.tier("smoke"), items=100), lambda *_: None, **more)


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
    path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), "?")))
    none = bench_of(tmp_path, f"mine=fake:{path}").answers("mine", "addresses")
    assert sum(s.value == 1 for s in right.samples) > 50
    assert not any(s.value == 1 for s in none.samples)
    path.write_text("{}")
    with pytest.raises(EngineError, match=r"none of 100 requests was answered, so nothing was measured; first: "):
        bench_of(tmp_path, f"mine=fake:{path}").answers("mine", "addresses")
    path.unlink()
    with pytest.raises(SubjectError, match="no file"):
        bench_of(tmp_path, f"mine=fake:{path}").answers("mine", "addresses")


def test_what_a_server_said_is_not_reused_in_another_session(tmp_path):
    inputs = [bench_of(tmp_path, "s=http://127.0.0.1:9/v1#m").inputs("s") for _ in range(2)]
    assert inputs[0] != inputs[1]


def test_a_set_is_asked_with_its_own_prompt(tmp_path):
    chosen = bench_of(tmp_path).golden("addresses")
    assert evals.prompts(chosen)[0].messages[0]["content"].startswith("Parse this US address")
    plain = replace(chosen, prompt="{input}")
    assert evals.prompts(plain)[0].messages[0]["content"] == plain.items[0]["input"]
    assert evals.task_digest(plain) != evals.task_digest(chosen)


# --- names, references, engines ---------------------------------------------------------------------


def test_each_build_is_held_against_the_reference_of_its_own_engine(tmp_path):
    bench = bench_of(tmp_path)
    assert bench.reference("gguf-q4_0") == "gguf-f16"
    assert bench.reference("awq-w4g64") == "bf16-vllm"
    alone = bench_of(tmp_path, f"mine=hf:{tmp_path}")
    with pytest.raises(MissingNeed, match=r"no reference in the engine of mine \(hf\)"):
        alone.reference("mine")


@pytest.mark.parametrize(
    ("name", "scheme", "location", "engine"),
    [
        ("damaged:gguf-f16:noise-layer:1:2", "recipe", "gguf-f16", "llamacpp"),
        ("damaged:bf16-vllm:eos", "vllm", "recipe:tuned", "vllm"),
        ("forged:awq-w4g64", "vllm", "recipe:awq-w4g64", "vllm"),
        ("reseeded:awq-w4g64:3", "vllm", "recipe:awq-w4g64:3", "vllm"),
        ("hf:bf16-vllm", "recipe", "tuned", "hf"),
    ],
)
def test_names_that_are_made_of_others(tmp_path, name, scheme, location, engine):
    spec = bench_of(tmp_path)._subjects.spec(name)
    assert (spec.name, spec.scheme, spec.location, spec.engine) == (name, scheme, location, engine)


@pytest.mark.parametrize("name", ["melted:gguf-f16", "reseeded:awq-w4g64:x", "damaged:nothing:eos", "awq-w4g46"])
def test_names_that_are_made_of_nothing_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"expected damaged:|no subject"):
        bench_of(tmp_path).subject(name)


def test_a_replaced_base_is_what_everything_is_made_of(tmp_path):
    """--subject tuned=hf:FOLDER: no build may quietly come from the built-in model."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text('{"dtype": "bfloat16"}')
    bench = bench_of(tmp_path, f"tuned=hf:{folder}", "other=recipe:tuned")
    assert bench.subject("other").digest == bench.subject("tuned").digest
    assert bench.path("other") == folder


def test_servers_and_adapters_have_no_files_to_look_into(tmp_path):
    (tmp_path / "lora").mkdir()
    bench = bench_of(tmp_path, "far=http://127.0.0.1:1/v1#m", f"near=adapter:{tmp_path}/lora+hf:{tmp_path}")
    for name in ("far", "near"):
        for look in (bench.scheme, bench.inventory, lambda n: bench.sidecar(n, [])):
            with pytest.raises(MissingNeed, match="weights"):
                look(name)
    with pytest.raises(MissingNeed, match="no weights here to damage"):
        bench_of(tmp_path, "r=http://127.0.0.1:1/v1#m").subject("damaged:r:eos")


def test_a_damaged_record_is_made_again(tmp_path):
    path = tmp_path / "x.logprobs"
    path.write_bytes(b"no record")
    assert not lifecycle._is_whole(path)
    assert not path.exists()


def test_tiers_limit_each_kind_by_its_own_number():
    tier = config.Tier("t", items=100, texts=60, requests=50)
    assert [tier.limit(kind) for kind in ("json_extraction", "documents", "refusals", "refusal_labels")] == [100, 60, 50, None]
    assert config.Tier("t", control_requests=70).limit("refusals", control=True) == 70
    assert config.Tier("t").limit("documents", control=True) == 120


def test_runs_take_turns_and_a_silent_engine_is_no_speed():
    order = []
    runs = {arm: (lambda arm=arm: order.append(arm) or {"tokens_per_s": 1.0}) for arm in ("new", "old")}
    rows = footprint.blocks(runs, 2, lambda *_: None)
    assert "".join(arm[0] for arm in order) == "onno" + "noon"
    assert [(r["block"], r["arm"], r["replicate"]) for r in rows[:4]] == [
        ("block-00", "old", 0), ("block-00", "new", 0), ("block-00", "new", 1), ("block-00", "old", 1),
    ]  # fmt: skip

    class Silent:
        def generate(self, prompts, *, sampling):
            return [Generation(p.id, "", "error", 1, 0, error="dead") for p in prompts]

    with pytest.raises(EngineError, match="gave no token; the engine says 'dead'"):
        footprint.asker(Silent(), [Prompt("p", text="x")])()


# --- trainings ----------------------------------------------------------------------------------


def training_bench(tmp_path: Path, table: str) -> Workbench:
    (tmp_path / "fixtures").mkdir()
    path = tmp_path / "fixtures" / "lifecycle.toml"
    path.write_text(f'[subjects]\nbase = "recipe:base"\nmine = "recipe:mine"\n[recipes.mine]\n{table}\n')
    for name in ("addresses_train.jsonl", "manifest.toml"):
        (tmp_path / "fixtures" / name).write_bytes((ROOT / "fixtures" / name).read_bytes())
    settings = config.load(path)
    return Workbench(settings, Store(tmp_path / "store"), settings.tier("full"), lambda *_: None)


def test_a_training_says_what_it_starts_from_and_its_numbers(tmp_path):
    said = training_bench(tmp_path, 'start = "tuned"\nobjective = "dpo"\nlr = 2e-4\nrepeat = { unit = 2 }').training("mine")
    assert (said.start, said.recipe.objective, said.recipe.lr, said.rows.n) == ("tuned", "dpo", 2e-4, 631)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("epohcs = 2", r"recipes.mine\]: unknown key 'epohcs'.*did you mean 'epochs'"),
        ('lr = "fast"', "lr = 'fast', expected float"),
        ("repeat = { unit = 0 }", "repeat = .*expected .*unit = 2"),
        ("repeat = 3", "repeat = 3, expected"),
        ("repeat = { unti = 2 }", "repeat names 'unti', and no row fits; did you mean 'unit'"),
        ('start = "mine"', r"recipes.mine\] starts from itself: mine <- mine"),
    ],
)
def test_a_training_that_cannot_be_is_refused_by_key(tmp_path, monkeypatch, table, said):
    bench = training_bench(tmp_path, table)
    monkeypatch.setattr(bench._subjects, "resolve", lambda name: (None, tmp_path))
    with pytest.raises(ConfigError, match=said):
        bench.trained("mine")


@pytest.mark.parametrize(
    ("table", "more"),
    [
        ("", lambda target: 0),
        ("repeat = { po_box = 3 }", lambda target: 2 * ("po_box" in target)),
        ('repeat = { "no number" = 2 }', lambda target: int("number" not in target)),
        ('repeat = { "split street" = 2, street = 1 }', lambda target: int(" " in target.get("street", ""))),
        ('repeat = { po_box = 2, "no number" = 4 }', lambda target: 3 if "number" not in target else int("po_box" in target)),
    ],
)
def test_repeated_rows_stand_behind_all_rows(tmp_path, table, more):
    bench = training_bench(tmp_path, table)
    chosen = bench.training("mine").rows
    rows = bench._subjects._rows("mine", chosen)
    answers = [evals.answer_text(item["target"]) for item in chosen.items]
    assert [answer for _, answer in rows[: chosen.n]] == answers
    again = [answer for item, answer in zip(chosen.items, answers, strict=True) for _ in range(more(item["target"]))]
    assert [answer for _, answer in rows[chosen.n :]] == again


def test_an_adapter_of_another_tool_is_a_training(tmp_path):
    bench = bench_of(tmp_path, f"tuned=adapter:{tmp_path / 'none'}+hf:{tmp_path}")
    with pytest.raises(SubjectError, match="expected adapter:LORA_FOLDER"):
        bench.trained("tuned")
    with pytest.raises(MissingNeed, match="how it was trained is not known"):
        bench_of(tmp_path, f"tuned=hf:{tmp_path}").trained("tuned")
