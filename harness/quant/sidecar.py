"""What travels beside the weights: vocabulary, template, end of sequence, and the token ids they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.engines import token_digest
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


def of_folder(folder: str, prompts: Sequence[Prompt]) -> dict[str, str]:
    """The same of a Hugging Face folder, as far as the two can be compared: token ids and end of sequence."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    found = {"tokenizer.ggml.eos_token_id": digest_json(tokenizer.eos_token_id)}
    for p in prompts:
        ids = tokenizer.apply_chat_template([dict(m) for m in p.messages], add_generation_prompt=True, return_dict=False)
        found[f"prompt {p.id}"] = token_digest(ids)
    return found


def compare(found: Mapping[str, str], expected: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """One row for each piece both sides know."""
    return [{"name": key, "found": found[key], "expected": expected[key]} for key in sorted(set(found) & set(expected))]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
