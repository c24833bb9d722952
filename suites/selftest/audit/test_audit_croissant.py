"""The metadata say what the dataset is, a loader reads it by them, and what is missing is named."""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.audit import croissant
from harness.audit.manifest import Manifest
from harness.audit.model import FORMS
from harness.errors import AuditError
from suites.selftest.audit.making import batch, rows_of

pytestmark = pytest.mark.selftest

CARD = croissant.Card(
    "small talk", "Two rows.", "CC-BY-4.0 OR MIT", "1.2.0", ("https://example.org/origin",), "The first version.",
    "@misc{small, title={Small talk}}", "https://example.org/small", ("Somebody",), date(2026, 11, 21),
)  # fmt: skip

ROWS: dict[str, list[dict[str, Any]]] = {
    "chat": [{"messages": [{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": "yo"}]} for i in range(2)],
    "alpaca": [{"instruction": "do", "input": "", "output": f"{i}"} for i in range(2)],
    "completion": [{"prompt": "p", "completion": f"{i}"} for i in range(2)],
    "preference": [{"prompt": "p", "chosen": "a", "rejected": f"{i}"} for i in range(2)],
    "text": [{"text": f"{i}"} for i in range(2)],
    "evals": [{"input": [{"role": "user", "content": f"{i}"}], "ideal": "x"} for i in range(2)],
    "choice": [{"question": "q", "answer": f"{i}"} for i in range(2)],
    "request": [{"prompt": f"{i}"} for i in range(2)],
}


def built(folder: Path, forms: tuple[str, ...] = ("chat",), card: croissant.Card = CARD, suffix: str = "a b.jsonl") -> dict[str, Any]:
    """Metadata of a file for each form, two rows each, written beside them."""
    paths = [folder / f"{form} {suffix}" for form in forms]
    for path, form in zip(paths, forms, strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[form]))
    n = 2 * len(forms)
    made = batch([[("user", "prompt", str(i))] for i in range(n)], form=[FORMS.index(form) for form in forms for _ in "ab"])
    rows = dataclasses.replace(rows_of(made), files=tuple(map(str, paths)), file=np.repeat(np.arange(len(forms)), 2).astype(np.int32))
    metadata = croissant.build(card, rows, Manifest.of(rows))
    croissant.write_croissant(folder / "croissant.json", metadata)
    return metadata


@pytest.mark.parametrize("form", ROWS)
def test_a_loader_accepts_the_metadata_and_reads_the_rows_by_them(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the loader's own dependencies
        mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed: pip install mlcroissant")
        built(tmp_path, (form,))
        with caplog.at_level(logging.WARNING):
            loaded = mlcroissant.Dataset(jsonld=str(tmp_path / "croissant.json"))
        assert not loaded.metadata.ctx.issues.errors and not loaded.metadata.ctx.issues.warnings and not caplog.records
        assert loaded.metadata.version == "1.2.0" and loaded.metadata.license == ["CC-BY-4.0 OR MIT"]
        records = list(loaded.records("rows-of-file-1"))

    def told(value: Any, name: str) -> Any:
        if isinstance(value, list):
            return [{key.rpartition("/")[2]: told(part, key) for key, part in each.items()} for each in value]
        return value.decode() if isinstance(value, bytes) else str(value)

    texts = [{key.rpartition("/")[2]: told(value, key) for key, value in record.items()} for record in records]
    assert [{k: str(v) if isinstance(v, int) else v for k, v in row.items()} for row in texts] == ROWS[form]


def test_every_form_but_unreadable_has_its_fields() -> None:
    assert set(croissant.FIELDS) == set(FORMS) - {"unreadable"} == set(ROWS)


def test_the_metadata_name_files_sizes_digests_and_rows(tmp_path: Path) -> None:
    metadata = built(tmp_path, ("chat", "text"))
    first, second = metadata["distribution"]
    assert (first["@id"], first["name"], first["contentUrl"]) == ("file-1", "chat a b.jsonl", "chat a b.jsonl")
    assert first["contentSize"] == f"{(tmp_path / 'chat a b.jsonl').stat().st_size} B" and first["sha256"] != second["sha256"]
    assert [r["description"] for r in metadata["recordSet"]] == ["Form: chat. 2 rows.", "Form: text. 2 rows."]
    assert metadata["conformsTo"] == "http://mlcommons.org/croissant/1.1" and metadata["releaseNotes"] == CARD.changes
    assert croissant.read_croissant(tmp_path / "croissant.json") == metadata
    again = (tmp_path / "croissant.json").read_bytes()
    built(tmp_path, ("chat", "text"))
    assert (tmp_path / "croissant.json").read_bytes() == again


def test_a_file_of_several_forms_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"{}\n" * 3)
    made = batch([[("user", "prompt", str(i))] for i in range(3)], form=[FORMS.index(form) for form in ("chat", "text", "chat")])
    rows = dataclasses.replace(rows_of(made), files=(str(tmp_path / "x.jsonl"),))
    (records,) = croissant.build(CARD, rows, Manifest.of(rows))["recordSet"]
    assert records["description"] == "Form: chat. 3 rows, 2 of them in this form."


def test_complete_metadata_miss_nothing(tmp_path: Path) -> None:
    assert croissant.missing(built(tmp_path), tmp_path) == []


def test_without_a_folder_the_bytes_are_not_compared(tmp_path: Path) -> None:
    metadata = built(tmp_path)
    (tmp_path / "chat a b.jsonl").unlink()
    assert croissant.missing(metadata) == []
    metadata["distribution"][0]["sha256"] = "?" * 64
    (said,) = croissant.missing(metadata)
    assert said.startswith("sha256: chat a b.jsonl has none")


def test_an_empty_card_misses_everything_but_the_bytes(tmp_path: Path) -> None:
    said = croissant.missing(built(tmp_path, card=croissant.Card("x")), tmp_path)
    assert [line.partition(":")[0] for line in said] == ["source", "licence", "version", "change notes"]
    assert [line.partition(":")[0] for line in croissant.missing({}, tmp_path)] == [
        "source",
        "licence",
        "version",
        "change notes",
        "sha256",
    ]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("isBasedOn", [], "source"),
        ("isBasedOn", ["unknown"], "source"),
        ("isBasedOn", {"@type": "sc:Dataset", "name": "TBD"}, "source"),
        ("license", "free for all", "'free for all' is no SPDX expression"),
        ("license", "NOASSERTION", "no SPDX expression"),
        ("license", "MIT AND", "no SPDX expression"),
        ("license", ["MIT", "no such"], "'no such' is no SPDX"),
        ("license", "https://spdx.org/licenses/No-Such.html", "'No-Such.html' is no SPDX"),
        ("license", {"@type": "sc:CreativeWork"}, "no SPDX"),
        ("version", " ", "version"),
        ("version", None, "version"),
        ("releaseNotes", "n/a", "change notes"),
        ("distribution", [], "lists no file"),
        ("distribution", "x", "lists no file"),
        ("distribution", [{"contentUrl": 3}], "no contentUrl"),
        ("distribution", [{"contentUrl": "chat a b.jsonl"}], "has none"),
        ("distribution", [{"contentUrl": "chat a b.jsonl", "sha256": "0" * 64}], "the metadata say 000"),
        ("distribution", [{"contentUrl": "gone.jsonl", "sha256": "0" * 64}], "gone.jsonl is not in the folder"),
        ("distribution", [{"contentUrl": "../../etc/passwd", "sha256": "0" * 64}], "is not in the folder"),
        ("distribution", [{"contentUrl": "https://example.org/x", "sha256": "0" * 64}], "is not in the folder"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, key: str, value: Any, named: str) -> None:
    (said,) = croissant.missing({**built(tmp_path), key: value}, tmp_path)
    assert named in said


@pytest.mark.parametrize(
    "value",
    ["MIT", "Apache-2.0 WITH LLVM-exception", "LicenseRef-Ours", "https://spdx.org/licenses/MIT", "https://spdx.org/licenses/CC-BY-4.0.html",
     ["MIT", "CC0-1.0"], {"@type": "sc:CreativeWork", "name": "MIT"}],
)  # fmt: skip
def test_a_licence_is_an_spdx_expression_or_its_address(tmp_path: Path, value: Any) -> None:
    assert croissant.missing({**built(tmp_path), "license": value}, tmp_path) == []


def test_bytes_that_changed_since_are_named(tmp_path: Path) -> None:
    metadata = built(tmp_path)
    with (tmp_path / "chat a b.jsonl").open("a") as stream:
        stream.write("{}\n")
    (said,) = croissant.missing(metadata, tmp_path)
    assert said.startswith("sha256: chat a b.jsonl has ") and metadata["distribution"][0]["sha256"] in said


def test_a_file_outside_of_the_folder_is_never_opened(tmp_path: Path) -> None:
    metadata = built(tmp_path)
    (tmp_path / "inside").mkdir()
    metadata["distribution"][0]["contentUrl"] = "../chat a b.jsonl"
    (said,) = croissant.missing(metadata, tmp_path / "inside")
    assert said == "sha256: ../chat a b.jsonl is not in the folder, so that its bytes cannot be compared"


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff", None])
def test_what_is_no_metadata_is_refused(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "c.json").write_bytes(data)
    with pytest.raises(AuditError, match=r"c\.json"):
        croissant.read_croissant(tmp_path / "c.json")
