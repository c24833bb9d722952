"""What must be seen of an option of a request: the rules behind harness.serve.api.options."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from harness.serve.api.probing import BASE, LENGTH, Baseless, Session
from harness.serve.exchange import CHAT, TEXT

_SEEDS = (1, 2, 3)
_REPEATS = "ha" + " ha" * 15  # a penalty is seen where there is something to repeat
_TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Looks up facts about a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": ["red", "green"]}},
    "required": ["answer"],
    "additionalProperties": False,
}


Rule = Callable[[Session], str]  # what speaks against an effect, "" if it was seen


# --- sampling -----------------------------------------------------------------------------------------


def temperature(ask: Session) -> str:
    greedy = ask.off()
    hot = [ask.on(temperature=1.5, seed=seed).text for seed in _SEEDS]
    return "" if any(text != greedy.text for text in hot) else f"at temperature 1.5 three times the greedy answer {greedy.text!r}"


def seed(ask: Session) -> str:
    same = [ask.on(temperature=1.5, seed=_SEEDS[0], again=i > 0).text for i in range(2)]
    if len(set(same)) != 1:
        return f"one seed, two answers: {same[0]!r} and {same[1]!r}"
    others = [ask.on(temperature=1.5, seed=seed).text for seed in _SEEDS]
    return "" if len(set(others)) > 1 else f"three seeds, one answer: {same[0]!r}"


def _hot(ask: Session) -> dict[str, Any]:
    """Sampling at which the answer is not the greedy one."""
    greedy = ask.off().text
    for seed in _SEEDS:
        if ask.off(temperature=1.5, seed=seed).text != greedy:
            return {"temperature": 1.5, "seed": seed}
    raise Baseless(f"temperature has no effect, so nothing can be narrowed: {greedy!r}")


def narrows(**option: Any) -> Rule:
    """With so little left to choose from, even hot sampling must give the greedy answer."""

    def rule(ask: Session) -> str:
        hot, greedy = _hot(ask), ask.off().text
        found = ask.on(**hot, **option).text
        return "" if found == greedy else f"{found!r}, greedy is {greedy!r}"

    return rule


def moves(**option: Any) -> Rule:
    """Where words repeat, a seeded answer must become another one; without the option it must stay what it is."""

    def rule(ask: Session) -> str:
        for seed in _SEEDS:
            hot: dict[str, Any] = {"prompt": _REPEATS, "temperature": 1.0, "seed": seed}
            plain, rerun = ask.off(**hot).text, ask.off(**hot, again=True).text
            if plain != rerun:
                return f"cannot be seen: one seed gives {plain!r} and {rerun!r}"
            if ask.on(**hot, **option).text != plain:
                return ""
        return f"with three seeds the answers stay as they are, like {plain!r}"

    return rule


def logit_bias(ask: Session) -> str:
    found, plain = ask.on(logit_bias={"100": 100}), ask.off()
    unit = found.text[: len(found.text) // max(1, found.tokens or 1)]
    forced = unit and unit * (found.tokens or 0) == found.text and found.text != plain.text
    return "" if forced else f"{found.text!r}, expected one token again and again"


# --- limits -------------------------------------------------------------------------------------------


def shortened(path: str, name: str) -> Rule:
    def rule(ask: Session) -> str:
        plain = ask.off(path)
        option: dict[str, Any] = {name: 5}
        found = ask.on(path, **option)
        right = found.tokens == 5 and found.finish == "length" and plain.text.startswith(found.text)
        return "" if right else f"{found.tokens} tokens, finish_reason {found.finish!r}, {found.text!r} of {plain.text!r}"

    return rule


def stop(path: str) -> Rule:
    def rule(ask: Session) -> str:
        plain = ask.off(path).text
        words = [word for word in plain.split() if plain.index(word) > 0]
        if not words:
            raise Baseless(f"nothing to stop at in {plain!r}")
        word = words[len(words) // 2]
        found = ask.on(path, stop=[word])
        right = found.text == plain[: plain.index(word)] and found.finish == "stop"
        return "" if right else f"{found.text!r} ({found.finish!r}) with stop {word!r}, without it {plain!r}"

    return rule


def choices(ask: Session) -> str:
    found = ask.on(CHAT, n=3, temperature=1.5, seed=_SEEDS[0])
    indices = sorted(choice.get("index", -1) for choice in found.choices)
    return "" if indices == [0, 1, 2] else f"choices {indices}, expected three"


def ignore_eos(ask: Session) -> str:
    plain = ask.off(CHAT, max_tokens=2 * LENGTH)
    found = ask.on(CHAT, max_tokens=2 * LENGTH, ignore_eos=True)
    if plain.finish != "stop":
        raise Baseless(f"the answer does not end by itself within {2 * LENGTH} tokens: {plain.text!r}")
    return "" if found.tokens == 2 * LENGTH and found.finish == "length" else f"ends after {found.tokens} tokens, {found.finish!r}"


def min_tokens(ask: Session) -> str:
    plain = ask.off(CHAT, max_tokens=2 * LENGTH)
    least = (plain.tokens or 0) + 4
    if plain.finish != "stop" or least > 2 * LENGTH:
        raise Baseless(f"the answer does not end by itself early enough: {plain.text!r}")
    found = ask.on(CHAT, max_tokens=2 * LENGTH, min_tokens=least)
    return "" if (found.tokens or 0) >= least else f"{found.tokens} tokens, at least {least} were asked for"


def echo(ask: Session) -> str:
    found, plain = ask.on(echo=True), ask.off()
    whole = BASE[TEXT]["prompt"] + plain.text
    return "" if found.text == whole else f"{found.text!r}, expected {whole!r}"


def logprobs(ask: Session) -> str:
    found = ask.on(logprobs=2).first.get("logprobs")
    made = ask.on(logprobs=2).tokens
    values = found.get("token_logprobs") if isinstance(found, dict) else None
    if values is None and isinstance(found, dict):  # the shape that chat has
        return _tops(found.get("content"), 2)
    if not isinstance(found, dict) or not isinstance(values, list) or not _below_zero(values) or len(values) not in (made, (made or 0) - 1):
        return f"{json.dumps(found)[:200]}, expected a value for each of {made} tokens"
    tops = found.get("top_logprobs")
    return (
        ""
        if isinstance(tops, list) and all(isinstance(t, dict) and len(t) >= 2 for t in tops)
        else f"top_logprobs {json.dumps(tops)[:200]}"
    )


def top_logprobs(ask: Session) -> str:
    found = ask.on(CHAT, logprobs=True, top_logprobs=3).first.get("logprobs")
    return _tops(found.get("content") if isinstance(found, dict) else None, 3)


def _tops(content: Any, count: int) -> str:
    """One entry a token, each with ``count`` alternatives, best first, none above 0."""
    right = isinstance(content, list) and content and all(isinstance(each, dict) for each in content)
    if not right or not _below_zero([each.get("logprob") for each in content]):
        return f"{json.dumps(content)[:200]}, expected log-probabilities of each token"
    for each in content:
        values = [top.get("logprob") for top in each.get("top_logprobs") or []]
        if len(values) != count or not _below_zero(values) or values != sorted(values, reverse=True):
            return f"alternatives {values} of {each.get('token')!r}, expected {count}, best first"
    return ""


def _below_zero(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(v, (int, float)) and v <= 1e-6 for v in values)


def include_usage(ask: Session) -> str:
    found = [chunk.get("usage") for chunk in ask.stream(CHAT, stream_options={"include_usage": True})]
    return "" if found and found[-1] else "no usage in the last event"


def continuous_usage(ask: Session) -> str:
    chunks = ask.stream(CHAT, stream_options={"include_usage": True, "continuous_usage_stats": True})
    return "" if sum(bool(chunk.get("usage")) for chunk in chunks) > 1 else "usage once, expected it in each event"


# --- structure ----------------------------------------------------------------------------------------


def json_of(**option: Any) -> Rule:
    """The answer is an object, of the schema if one was given."""

    def rule(ask: Session) -> str:
        found = ask.on(CHAT, max_tokens=64, **option)
        try:
            value = json.loads(found.text)
        except ValueError:
            cut = found.finish == "length" and found.text.lstrip().startswith("{")
            return "" if cut and "json_schema" not in str(option) else f"{found.text!r} is no JSON"
        right = isinstance(value, dict) and ("json_schema" not in str(option) or value in ({"answer": "red"}, {"answer": "green"}))
        return "" if right else f"{found.text!r} is not of the schema"

    return rule


def chosen(path: str, **option: Any) -> Rule:
    """The answer is one of two words that no model would say here."""
    return lambda ask: "" if (said := ask.on(path, **option).text).strip() in ("zebra", "quokka") else f"{said!r}, expected zebra or quokka"


def tools(choice: Any) -> Rule:
    def rule(ask: Session) -> str:
        found = ask.on(CHAT, tools=[_TOOL], tool_choice=choice, max_tokens=64)
        calls = [(call.get("function") or {}).get("name") for call in found.message.get("tool_calls") or []]
        return "" if calls and set(calls) == {"lookup"} else f"calls {calls}, text {found.text!r}"

    return rule


def no_such_tool(ask: Session) -> str:
    found = ask.on(CHAT, tools=[_TOOL], tool_choice={"type": "function", "function": {"name": "no_such_tool"}})
    return f"{found.text!r}, although the tool to be called does not exist"


def no_tools(ask: Session) -> str:
    found = ask.on(CHAT, tools=[_TOOL], tool_choice="none")
    return f"calls {found.message['tool_calls']}" if found.message.get("tool_calls") else ""


# --- dialects -----------------------------------------------------------------------------------------


def impossible(path: str, **option: Any) -> Rule:
    """Nothing a server could do with it: taken is ignored."""
    return lambda ask: f"taken: {ask.on(path, **option).text!r}"


def differs(path: str, **option: Any) -> Rule:
    def rule(ask: Session) -> str:
        plain, found = ask.off(path), ask.on(path, **option)
        same = (found.text, found.tokens, found.prompt_tokens) == (plain.text, plain.tokens, plain.prompt_tokens)
        return f"the answer stays {plain.text!r}" if same else ""

    return rule
