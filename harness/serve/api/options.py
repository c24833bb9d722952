"""Whether each option of a request does something: its effect is seen, or it is refused. An option that is taken and ignored is
worse than none: who asked for a limit, a schema or a seed believes to have it.

A Probe is data: a request that makes the effect visible on any model, and a rule. What cannot be seen in one answer is seen in
two: sampling hot with the narrowest ``top_p`` must give the greedy answer; a penalty must move a seeded one. ``user`` and
``metadata`` have no effect by design and are not asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from harness.serve.api import effects, probing
from harness.serve.exchange import CHAT, TEXT, Send, exchange
from harness.serve.target import Target

__all__ = ["GROUPS", "PROBES", "RECIPE", "Probe", "rows"]

RECIPE = 1  # counted up when a probe asks or reads otherwise: what is kept is then asked again
# "dialects": what only some servers know; the others must say so
GROUPS = ("sampling", "limits", "structure", "dialects")


class Probe(NamedTuple):
    """``what`` is the effect that must be seen, for a person."""

    name: str
    group: str
    what: str
    rule: effects.Rule


def _probe(session: probing.Session, todo: Probe) -> dict[str, Any]:
    try:
        wrong = todo.rule(session)
        verdict, found = ("ignored", wrong) if wrong else ("effect", "its effect")
    except probing.Unusual as error:
        verdict, found = ("refused" if error.refused else "broken"), str(error)
    except probing.Baseless as error:
        verdict, found = "broken", f"no answer even without the option: {error}"
    ok = verdict in ("effect", "refused")
    return {"item": todo.name, "group": todo.group, "ok": ok, "verdict": verdict, "expected": f"{todo.what}, or a refusal", "found": found}


def rows(target: Target, todo: Iterable[Probe] = (), *, limit_s: float = 60.0, send: Send = exchange) -> list[dict[str, Any]]:
    """A JSON row for each probe (all of PROBES by default), one request at a time: item, group, ok, verdict, expected, found.

    ``verdict`` is effect, refused (both as it should be), ignored, or broken: no answer, or a failure of the server.
    """
    session = probing.Session(target, limit_s, send)
    return [_probe(session, each) for each in todo or PROBES]


_CHOICE = ["zebra", "quokka"]
PROBES: Sequence[Probe] = (
    Probe("temperature", "sampling", "hot answers are not the greedy one", effects.temperature),
    Probe("seed", "sampling", "the same seed, the same answer; another seed, another", effects.seed),
    Probe("top_p", "sampling", "next to 0 it makes hot sampling greedy", effects.narrows(top_p=1e-6)),
    Probe("top_k", "sampling", "1 makes hot sampling greedy", effects.narrows(top_k=1)),
    Probe("min_p", "sampling", "1 makes hot sampling greedy", effects.narrows(min_p=1.0)),
    Probe("presence_penalty", "sampling", "a seeded answer becomes another", effects.moves(presence_penalty=2.0)),
    Probe("frequency_penalty", "sampling", "a seeded answer becomes another", effects.moves(frequency_penalty=2.0)),
    Probe("logit_bias", "sampling", "a token raised by 100 is all there is", effects.logit_bias),
    Probe("max_tokens", "limits", "5 tokens, finish_reason length", effects.shortened(TEXT, "max_tokens")),
    Probe("max_completion_tokens", "limits", "5 tokens, finish_reason length", effects.shortened(CHAT, "max_completion_tokens")),
    Probe("stop", "limits", "the text ends before the word", effects.stop(TEXT)),
    Probe("stop.chat", "limits", "the text ends before the word", effects.stop(CHAT)),
    Probe("n", "limits", "three choices", effects.choices),
    Probe("ignore_eos", "limits", "as many tokens as max_tokens says", effects.ignore_eos),
    Probe("echo", "limits", "the prompt, then the answer", effects.echo),
    Probe("logprobs", "limits", "a log-probability for each token, alternatives beside it", effects.logprobs),
    Probe("top_logprobs", "limits", "three alternatives for each token, best first", effects.top_logprobs),
    Probe("stream_options", "limits", "usage in the last event", effects.include_usage),
    Probe("response_format.json_schema", "structure", "JSON of the schema", effects.json_of(
        response_format={"type": "json_schema", "json_schema": {"name": "colour", "strict": True, "schema": effects.SCHEMA}})),
    Probe("response_format.json_object", "structure", "a JSON object", effects.json_of(response_format={"type": "json_object"})),
    Probe("tool_choice.required", "structure", "a call of the tool", effects.tools("required")),
    Probe("tool_choice.named", "structure", "a call of the tool", effects.tools({"type": "function", "function": {"name": "lookup"}})),
    Probe("tool_choice.none", "structure", "no call", effects.no_tools),
    Probe("tool_choice.unknown", "structure", "nothing: the tool does not exist", effects.no_such_tool),
    Probe("repetition_penalty", "dialects", "a seeded answer becomes another", effects.moves(repetition_penalty=2.0)),
    Probe("min_tokens", "dialects", "no end before so many tokens", effects.min_tokens),
    Probe("suffix", "dialects", "another answer, leading up to it", effects.differs(TEXT, suffix=" and that was the end of it.")),
    Probe("best_of", "dialects", "nothing: fewer candidates than choices", effects.impossible(TEXT, best_of=1, n=2, temperature=1.0)),
    Probe("structured_outputs", "dialects", "one of the words", effects.chosen(CHAT, structured_outputs={"choice": _CHOICE})),
    Probe("guided_choice", "dialects", "one of the words", effects.chosen(CHAT, guided_choice=_CHOICE)),
    Probe("grammar", "dialects", "one of the words", effects.chosen(CHAT, grammar='root ::= "zebra" | "quokka"')),
    Probe("continuous_usage_stats", "dialects", "usage in every event", effects.continuous_usage),
    Probe("add_generation_prompt", "dialects", "a shorter prompt", effects.differs(CHAT, add_generation_prompt=False)),
    Probe("reasoning_effort", "dialects", "another prompt or answer", effects.differs(CHAT, reasoning_effort="low")),
    Probe("an unknown option", "dialects", "nothing: there is no such option", effects.impossible(CHAT, no_such_option=1)),
)  # fmt: skip
