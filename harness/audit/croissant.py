"""Croissant (MLCommons, 1.1): what a dataset is, for people and for loaders, as JSON-LD; and what is missing in it.

The bytes, rows and fields come from the audit; source, licence, version and changes from the project, which alone knows them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from harness.audit.manifest import Manifest, sha256_of
from harness.audit.model import FORMS, Rows
from harness.audit.writing import plain, whole
from harness.errors import AuditError
from harness.evidence import canonical

__all__ = ["FIELDS", "Card", "build", "missing", "read_croissant", "write_croissant"]

_CONTEXT: Mapping[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/", "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/", "dct": "http://purl.org/dc/terms/",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"}, "key": "cr:key", "conformsTo": "dct:conformsTo",
    "name": {"@container": "@language"}, "description": {"@container": "@language"},
} | {
    name: f"cr:{name}"
    for name in (
        "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet",
        "format", "includes", "isArray", "isLiveDataset", "jsonPath", "md5", "parentField", "path", "recordSet", "references", "regex",
        "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
    )
}  # fmt: skip
"""The context that the specification gives in its appendix."""

_CONFORMS = "http://mlcommons.org/croissant/1.1"

_MESSAGE = ("role", "content")

FIELDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "chat": {"messages": _MESSAGE},
    "alpaca": {"instruction": (), "input": (), "output": ()},
    "completion": {"prompt": (), "completion": ()},
    "preference": {"prompt": (), "chosen": (), "rejected": ()},
    "text": {"text": ()},
    "evals": {"input": _MESSAGE, "ideal": ()},
    "choice": {"question": (), "answer": ()},  # not the choices: an array of plain texts has no column of its own
    "request": {"prompt": ()},
}
"""Of each form its columns, and of a column that is a list of objects the names in those."""

_ENCODING = {
    ".jsonl": "application/jsonlines", ".ndjson": "application/jsonlines", ".json": "application/json", ".csv": "text/csv",
    ".tsv": "text/tab-separated-values", ".parquet": "application/x-parquet",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Card:
    """What only the project knows of its dataset. What is left empty, ``missing`` will name."""

    name: str
    description: str = ""
    licence: str = ""  # an SPDX expression
    version: str = ""  # semantic: 1.2.0
    source: tuple[str, ...] = ()  # where it comes from: URLs or names of what it was made of
    changes: str = ""  # what is different from the version before
    citation: str = ""  # BibTeX
    url: str = ""
    creators: tuple[str, ...] = ()
    published: date | None = None


def build(card: Card, rows: Rows, manifest: Manifest, fields: Mapping[str, Mapping[str, tuple[str, ...]]] = FIELDS) -> dict[str, Any]:
    """The Croissant metadata of a dataset, as JSON-LD.

    A record set for each file, with the columns of the form that most of its rows have; ``fields`` says them for data whose
    columns have other names. What the card leaves empty is left out, never guessed.
    """
    distribution, record_sets = [], []
    for number, (name, file) in enumerate(manifest.files.items()):
        identifier = f"file-{number + 1}"  # loaders refuse spaces in it, which a name may have
        kind = next((_ENCODING[s.lower()] for s in PurePosixPath(name).suffixes if s.lower() in _ENCODING), "application/octet-stream")
        distribution.append({
            "@type": "cr:FileObject", "@id": identifier, "name": PurePosixPath(name).name, "contentUrl": name,
            "contentSize": f"{file.bytes} B", "encodingFormat": kind, "sha256": file.sha256,
        })  # fmt: skip
        count = np.bincount(rows.form[rows.unique[rows.file == number]], minlength=len(FORMS))
        form = FORMS[int(count.argmax())]
        if form in fields:
            record_sets.append(_record_set(identifier, name, form, fields[form], int(count.max()), file.rows))
    told = {
        "description": card.description, "license": card.licence, "version": card.version, "isBasedOn": list(card.source),
        "releaseNotes": card.changes, "citeAs": card.citation, "url": card.url,
        "creator": [{"@type": "sc:Organization", "name": name} for name in card.creators],
        "datePublished": card.published.isoformat() if card.published else "",
    }  # fmt: skip
    return {
        "@context": dict(_CONTEXT), "@type": "sc:Dataset", "conformsTo": _CONFORMS, "name": card.name,
        **{key: value for key, value in told.items() if value}, "distribution": distribution, "recordSet": record_sets,
    }  # fmt: skip


def _record_set(file: str, shown: str, form: str, columns: Mapping[str, tuple[str, ...]], of_form: int, n: int) -> dict[str, Any]:
    place = f"rows-of-{file}"
    said = f"{n} rows" if of_form == n else f"{n} rows, {of_form} of them in this form"
    return {
        "@type": "cr:RecordSet", "@id": place, "name": f"rows of {shown}", "description": f"Form: {form}. {said}.",
        "field": [_field(file, f"{place}/{column}", column, inside) for column, inside in columns.items()],
    }  # fmt: skip


def _field(file: str, place: str, column: str, inside: tuple[str, ...]) -> dict[str, Any]:
    extract = {"fileObject": {"@id": file}, "extract": {"column": column}}
    field = {"@type": "cr:Field", "@id": place, "name": column}
    if not inside:
        return {**field, "dataType": "sc:Text", "source": extract}
    parts = [
        {
            "@type": "cr:Field",
            "@id": f"{place}/{name}",
            "name": name,
            "dataType": "sc:Text",
            "source": {**extract, "transform": {"jsonPath": name}},
        }
        for name in inside
    ]
    return {**field, "isArray": True, "arrayShape": "-1", "subField": parts}


def write_croissant(path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes metadata as canonical JSON, whole or not at all."""
    with whole(path) as stream:
        stream.write(canonical(metadata))


def read_croissant(path: Path) -> dict[str, Any]:
    """The metadata of a file; AuditError if it is not a JSON object."""
    import json

    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AuditError(f"{path}: not readable as JSON ({error}); write the metadata again") from error
    if not isinstance(data, dict):
        raise AuditError(f"{path}: found {type(data).__name__}, expected a JSON object; write the metadata again")
    return data


# --- completeness ---------------------------------------------------------------------------------

_SOURCES = ("isBasedOn", "prov:wasDerivedFrom", "wasDerivedFrom")
_CHANGES = ("releaseNotes", "sc:releaseNotes")


def missing(metadata: Mapping[str, Any], folder: Path | None = None) -> list[str]:
    """What claim D9 needs and the metadata do not say, a sentence each: source, licence, version, change notes, SHA-256 of the files.

    Below ``folder`` files are looked for by their contentUrl, and must have the bytes that the metadata name. [] is complete.
    """
    said = []
    if not any(_says(metadata.get(key)) for key in _SOURCES):
        said.append("source: isBasedOn is not there; name what the data were made of")
    said += _licence(metadata.get("license"))
    if not _says(metadata.get("version")):
        said.append("version: not there; number the dataset, such as 1.0.0")
    if not any(_says(metadata.get(key)) for key in _CHANGES):
        said.append("change notes: releaseNotes is not there; say what is new, for a first version that it is the first")
    files = metadata.get("distribution")
    listed = [file for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    if not listed:
        said.append("sha256: the distribution lists no file; build the metadata again from an audit")
    return said + [line for file in listed for line in _file(file, folder)]


def _says(value: Any) -> bool:
    """Whether there is text in it that says something."""
    if isinstance(value, str):
        return value.strip().lower() not in ("", "tbd", "todo", "unknown", "none", "n/a", "-")
    if isinstance(value, Mapping):
        return any(_says(part) for key, part in value.items() if key != "@type")
    return isinstance(value, (int, float)) or (isinstance(value, list) and any(map(_says, value)))


def _licence(value: Any) -> list[str]:
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    texts = [text for text in (value if isinstance(value, list) else [value]) if text]
    if not texts:
        return ["licence: license is not there; give an SPDX expression such as CC-BY-4.0"]
    said = []
    for text in texts:
        name = str(text.get("name") or text.get("@id") or text.get("url") if isinstance(text, Mapping) else text)
        for start in ("https://spdx.org/licenses/", "http://spdx.org/licenses/"):
            name = name.removeprefix(start)
        try:
            canonicalize_license_expression(name.removesuffix(".html"))
        except InvalidLicenseExpression:
            said.append(f"licence: {plain(name)[:80]!r} is no SPDX expression; use names of the SPDX list, LicenseRef-... for one's own")
    return said


def _file(file: Mapping[str, Any], folder: Path | None) -> list[str]:
    name, locked = file.get("contentUrl") or file.get("name"), file.get("sha256")
    if not isinstance(name, str) or not name:
        return ["sha256: a file of the distribution has no contentUrl; build the metadata again from an audit"]
    shown = plain(name)[:200]
    if not (isinstance(locked, str) and re.fullmatch("[0-9a-fA-F]{64}", locked)):
        return [f"sha256: {shown} has none; build the metadata again from an audit"]
    if folder is None:
        return []
    path = folder / name
    if "://" in name or not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        return [f"sha256: {shown} is not in the folder, so that its bytes cannot be compared"]
    found = sha256_of(path)[0]
    return [] if found == locked.lower() else [f"sha256: {shown} has {found}, the metadata say {locked}; one of them is of another version"]
