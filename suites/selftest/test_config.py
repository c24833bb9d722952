"""The lifecycle file and --subject: what is wrong is named, with the nearest right word."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import Claim, at_least, non_inferior
from harness.config import default_path, load, parse_subject
from harness.errors import ConfigError

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).parents[2]
QUANT = '[subjects]\nr = "gguf:r.gguf"\nb = "gguf:b.gguf"\n[quant]\nreferences = ["r"]\nbuilds = ["b"]\nsets = ["s"]\ntexts = "t"\n'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fixtures" / "lifecycle.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_the_built_in_file_loads():
    settings = load(ROOT / "fixtures" / "lifecycle.toml")
    assert settings.references[0] == "gguf-f16"
    assert settings.golden == ROOT / "golden"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[lifecycle\n", "not a TOML file"),
        ("[qant]\n", "unknown key 'qant'.*did you mean 'quant'"),
        ('[compare]\nbase = "b"\ntuned = "t"\n', r"\[compare\] lacks 'primary'"),
        ('[compare]\nbase = "b"\ntuned = "t"\nprimary = "s"\n', r"\[compare\] names the subject 'b'"),
        ('[compare]\nbsae = "b"\n', "unknown key 'bsae'.*did you mean 'base'"),
        ('[subjects]\nb = "hf:b"\n[compare]\nbase = "b"\ntuned = "b"\nprimary = "s"\nshots = -1\n', "compare.shots = -1"),
        ("claims = 5\n", "claims = 5, expected a table"),
        ("tiers = 5\n", "tiers = 5, expected a table"),
        ("subjects = 5\n", "subjects = 5, expected a table"),
        ("release = 5\n", r"release = 5, expected tables \[\[release\]\]"),
        ('[compare]\nbase = "b"\ntuned = "t"\nprimary = "s"\nguardrails = [1]\n', "compare.guardrails = .*names of golden sets"),
        ("[judges]\nmine = 3\n", "mine = 3, expected a table"),
        (QUANT.replace("builds", "biulds"), "unknown key 'biulds'.*did you mean 'builds'"),
        (QUANT.replace('texts = "t"\n', ""), r"\[quant\] lacks 'texts'"),
        (QUANT.replace('references = ["r"]', "references = 3"), "quant.references = 3, expected list"),
        (QUANT.replace('builds = ["b"]', 'builds = ["bb"]'), "names the subject 'bb'"),
        (QUANT.replace("gguf:b", "ggfu:b"), "unknown scheme 'ggfu'; did you mean 'gguf'"),
        (QUANT + "[tiers.smoke]\nitems = true\n", "smoke.items = True, expected int"),
        (QUANT + "[tiers.smoke]\nleave_out = [3]\n", r"\[tiers.smoke\] leave_out = \[3\], expected ids of claims"),
        (QUANT + '[claims."a"]\nbound = {kind = "at_lest"}\n', "unknown bound 'at_lest'; did you mean 'at_least'"),
        (QUANT + '[claims."a"]\nbound = {kind = "at_least", limt = 1}\n', "unknown key 'limt'"),
        (QUANT + '[claims."a"]\nexpect = "fails"\n', "needs why"),
        (QUANT + '[claims."a"]\nexpect = "maybe"\n', "expected 'holds' or 'fails'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        load(written(tmp_path, text))
    assert "lifecycle.toml" in str(caught.value) or "subject" in str(caught.value)


def test_missing_and_badly_encoded_files(tmp_path):
    with pytest.raises(ConfigError, match="no such lifecycle file"):
        load(tmp_path / "nowhere.toml")
    path = written(tmp_path, "")
    path.write_bytes(b"[lifecycle]\nname = '\xff'\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(path)


def test_overrides_by_claim_and_by_family(tmp_path):
    rules = '[claims."Q1"]\nbound = {kind = "non_inferior", limit = 0.1}\n[claims."Q1[b]"]\nalpha = 0.01\n'
    settings = load(written(tmp_path, QUANT + rules))
    family = settings.effective(Claim("Q1[a]", "t", non_inferior(0.05)))
    one = settings.effective(Claim("Q1[b]", "t", non_inferior(0.05)))
    other = settings.effective(Claim("Q2", "t", at_least(0.5)))
    assert (family.bound.limit, one.bound.limit, one.alpha, other.bound.limit) == (0.1, 0.05, 0.01, 0.5)


@pytest.mark.parametrize(
    ("text", "scheme", "location"),
    [
        ("mine=gguf:./x.gguf", "gguf", "./x.gguf"),
        ("mine=hf:org/model@rev", "hf", "org/model@rev"),
        ("mine=adapter:./lora+hf:org/base", "adapter", "./lora+hf:org/base"),
        ("mine=http://127.0.0.1:8000/v1#name", "http", "http://127.0.0.1:8000/v1#name"),
    ],
)
def test_a_subject_is_one_line(text, scheme, location):
    spec = parse_subject(text)
    assert (spec.name, spec.scheme, spec.location) == ("mine", scheme, location)


@pytest.mark.parametrize("text", ["mine", "mine=", "=gguf:x", "mine=gguf", "mine=gguf:", "mine=exec:rm"])
def test_a_broken_subject_says_the_form(text):
    with pytest.raises(ConfigError, match=r"subject .*: (expected name=scheme:location|unknown scheme)"):
        parse_subject(text)


def test_a_new_subject_is_what_gets_tested(tmp_path):
    settings = load(written(tmp_path, QUANT))
    assert settings.with_subjects(["mine=gguf:m.gguf"]).builds == ("mine",)
    assert settings.with_subjects(["r=gguf:other.gguf"]).builds == ("b",)
    with pytest.raises(ConfigError, match="twice"):
        settings.with_subjects(["m=gguf:a", "m=gguf:b"])


def test_data_that_is_no_table_is_refused(tmp_path):
    path = tmp_path / "lifecycle.toml"
    path.write_text("data = 3\n")
    with pytest.raises(ConfigError, match=r"expected tables \[data.NAME\]"):
        load(path)


# --- servers --------------------------------------------------------------------------------------------


def _serve(tmp_path, table: str):
    path = tmp_path / "lifecycle.toml"
    path.write_text(f'[subjects]\nmine = "hf:./mine"\n[serve.one]\n{table}\n', "utf-8")
    return load(path)


def test_a_server_promises_what_the_file_says(tmp_path):
    one = _serve(
        tmp_path, 'engine = "vllm"\nsubject = "mine"\nrate = 2\nslo = { ttft_p99 = "300ms" }\noptions = { max-num-seqs = "4" }'
    ).serve["one"]
    assert (one.rate, one.options["max-num-seqs"], one.objective("ttft_p99").limit) == (2, "4", 0.3)
    with pytest.raises(ConfigError, match="promises no 'ttft_p95'"):
        one.objective("ttft_p95")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('engine = "vllm"', "lacks subject"),
        ('engine = "sglang"\nsubject = "mine"', "engine = 'sglang'"),
        ('engine = "vllm"\nurl = "http://127.0.0.1:1"\nsubject = "mine"', "and not both"),
        ('subject = "mine"', "and not both"),
        ('engine = "vllm"\nsubject = "yours"', "names the subject 'yours'"),
        ('url = "http://127.0.0.1:1"\nslo = { ttft_p99 = "300" }', "bound_invalid"),
        ('url = "http://127.0.0.1:1"\nslo = { ttft_p99 = 300 }', "expected text in quotes"),
        ('url = "http://127.0.0.1:1"\nslo = { latency_p99 = "3s" }', "no|known"),
        ('url = "http://127.0.0.1:1"\nrate = 0', "rate > 0"),
        ('url = "http://127.0.0.1:1"\nrate = inf', "rate > 0"),
        ('url = "http://127.0.0.1:1"\nrequests = 0', "requests >= 1"),
        ('url = "http://127.0.0.1:1"\ngoodput = 1', "goodput"),
        ('url = "http://127.0.0.1:1"\nslow = 1', "unknown key 'slow'"),
    ],
)
def test_a_server_that_is_told_wrongly_is_refused(tmp_path, table, said):
    with pytest.raises(ConfigError, match=said):
        _serve(tmp_path, table)


def test_paths_of_the_file_are_of_its_project(tmp_path):
    """Wherever a run is started; a hub's name and a home folder stay what they are."""
    (tmp_path / "model").mkdir()
    path = tmp_path / "lifecycle.toml"
    path.write_text(
        '[subjects]\na = "hf:model"\nb = "hf:org/model@main"\nc = "gguf:x.gguf"\nd = "gguf:~/x.gguf"\ne = "adapter:lora+hf:model"\n'
        'f = "adapter:lora+hf:org/model"\ng = "vllm:recipe:tuned"\nh = "fake:/x.json"\ni = "http://h/v1#m"\n'
    )
    found = {name: spec.location for name, spec in load(path).subjects.items()}
    here = str(tmp_path)
    assert found == {
        "a": f"{here}/model", "b": "org/model@main", "c": f"{here}/x.gguf", "d": "~/x.gguf", "e": f"{here}/lora+hf:{here}/model",
        "f": f"{here}/lora+hf:org/model", "g": "recipe:tuned", "h": "/x.json", "i": "http://h/v1#m",
    }  # fmt: skip


def test_the_lifecycle_file_of_a_project_is_found(tmp_path):
    assert default_path(tmp_path) == tmp_path / "fixtures" / "lifecycle.toml"
    (tmp_path / "lifecycle.toml").write_text("")
    assert default_path(tmp_path) == tmp_path / "lifecycle.toml"
