"""What travels beside the weights: vocabulary, template, end of sequence, and the token ids they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.engines import token_digest
from harness.engines.common import load_json
from harness.engines.gguf_header import Header
from harness.store import digest_json
from harness.types import Prompt

__all__ = ["compare", "of_folder", "of_gguf"]

_KEYS = (
    "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.add_bos_token", "tokenizer.chat_template",
)  # fmt: skip


def of_gguf(header: Header, engine: Any, prompts: Sequence[Prompt]) -> dict[str, str]:
    """Digest of each piece of metadata, and of each prompt's token ids as this file renders them."""
    found = {key: digest_json(_plain(header.metadata.get(key))) for key in _KEYS}
    ids = {f"prompt {p.id}": token_digest(engine.tokenize(engine.render(p.messages), False, True)) for p in prompts}
    return {**found, **ids}


def of_folder(folder: Path, prompts: Sequence[Prompt]) -> dict[str, str]:
    """The same of a Hugging Face folder. With a GGUF file it shares token ids and end of sequence only."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    generation = folder / "generation_config.json"
    said = load_json(generation) if generation.is_file() else {}
    found = {
        "tokenizer.ggml.eos_token_id": digest_json(tokenizer.eos_token_id),
        "tokenizer.json": digest_json(load_json(folder / "tokenizer.json")),
        "chat_template": digest_json(tokenizer.chat_template),
        # the version that wrote the file says nothing of what it does
        "generation_config": digest_json({k: v for k, v in said.items() if k != "transformers_version"}),
        "config.eos_token_id": digest_json(load_json(folder / "config.json").get("eos_token_id")),
    }
    for p in prompts:
        ids = tokenizer.apply_chat_template([dict(m) for m in p.messages], add_generation_prompt=True, return_dict=False)
        found[f"prompt {p.id}"] = token_digest(ids)
    return found


def compare(found: Mapping[str, str], expected: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """One row for each piece both sides know."""
    return [{"name": key, "found": found[key], "expected": expected[key]} for key in sorted(set(found) & set(expected))]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
