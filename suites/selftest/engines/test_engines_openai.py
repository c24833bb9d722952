"""The HTTP engine against a server in this test, which says that it is a fake."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from harness.engines import open_engine
from harness.errors import ConfigError, EngineError
from harness.types import Prompt, Sampling, Scored

pytestmark = pytest.mark.selftest

aiohttp = pytest.importorskip("aiohttp")

KEY = "sk-secret-0123456789"


class FakeServer:
    """Answers what the prompt asks for; every model it lists is called a fake."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.port = 0
        self.requests = []
        self.open = self.most = 0
        self.models = ["fake-model"]
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        assert self.ready.wait(10)

    def run(self):
        self.loop.run_until_complete(self.serve())

    async def serve(self):
        from aiohttp import web

        app = web.Application()
        app.router.add_get("/v1/models", self.list_models)
        app.router.add_post("/v1/chat/completions", self.answer)
        app.router.add_post("/v1/completions", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self.stop = asyncio.Event()
        self.ready.set()
        await self.stop.wait()
        await runner.cleanup()

    def close(self):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(10)
        self.loop.close()

    async def list_models(self, request):
        from aiohttp import web

        return web.json_response({"data": [{"id": name} for name in self.models]})

    async def answer(self, request):
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            return await self.reply(request)
        finally:
            self.open -= 1

    async def reply(self, request):
        from aiohttp import web

        body = await request.json()
        self.requests.append((request.path, dict(request.headers), body))
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        if body.get("echo"):
            return web.json_response(self.echo(prompt))
        if prompt == "500":
            return web.Response(status=500, text=f"boom {request.headers.get('Authorization', '')}")
        if prompt == "redirect":
            raise web.HTTPFound("http://127.0.0.1:1/elsewhere")
        if prompt == "json":
            return web.Response(text="{not json", content_type="application/json")
        if prompt == "list":
            return web.json_response([1])
        if prompt == "no choices":
            return web.json_response({"choices": []})
        if prompt == "null":
            return web.json_response({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]})
        if prompt == "filter":
            return web.json_response({"choices": [{"message": {"content": "ab"}, "finish_reason": "content_filter"}]})
        if prompt == "drop":
            request.transport.close()
            return web.Response()
        if prompt == "half":
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"choices": [')
            request.transport.close()
            return response
        await asyncio.sleep(5 if prompt == "slow" else 0.02)
        text = f"fake answer to {prompt}"
        choice = {"finish_reason": "length" if prompt == "long" else "stop"}
        choice.update({"message": {"content": text}} if "messages" in body else {"text": text})
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 5}})

    def echo(self, prompt):
        if "without" in prompt:
            return {"choices": [{"text": "x", "logprobs": None}]}
        if "other" in prompt:
            return {"choices": [{"text": "x", "logprobs": {"tokens": ["x"], "token_logprobs": [-1.0]}}]}
        tokens = [prompt[i : i + 2] for i in range(0, len(prompt), 2)] + ["!"]
        values = [None] + [-float(i) for i in range(1, len(tokens))]
        if "bos" in prompt:
            tokens, values = ["<s>", *tokens], [None, -9.0, *values[1:]]
        if "nan" in prompt:
            values[-2] = None
        return {"choices": [{"text": prompt + "!", "logprobs": {"tokens": tokens, "token_logprobs": values}}]}


@pytest.fixture(scope="module")
def server():
    running = FakeServer()
    yield running
    running.close()


@pytest.fixture
def engine(server, monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    opened = open_engine("openai", f"http://127.0.0.1:{server.port}/v1", api_key_env="TEST_KEY", timeout_s=1.5, concurrency=3)
    yield opened
    opened.close()


def chat(*words):
    return [Prompt(f"{i}-{word}", messages=({"role": "user", "content": word},)) for i, word in enumerate(words)]


def test_answers_in_order(engine, server):
    words = [f"w{i}" for i in range(20)]
    server.most = 0
    answers = engine.generate(chat(*words), sampling=Sampling(max_tokens=9, stop=("x",), seed=4))
    assert [a.text for a in answers] == [f"fake answer to {word}" for word in words]
    assert {(a.finish, a.prompt_tokens, a.tokens) for a in answers} == {("stop", 3, 5)}
    assert 1 < server.most <= 3
    path, headers, body = server.requests[-1]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["max_tokens"], body["stop"], body["seed"]) == ("fake-model", 9, ["x"], 4)


def test_text_goes_to_completions(engine, server):
    answer = engine.generate([Prompt("t", text="long")], sampling=Sampling())[0]
    assert (answer.text, answer.finish) == ("fake answer to long", "length")
    assert server.requests[-1][0] == "/v1/completions"


def test_every_failure_is_an_answer(engine):
    words = ("500", "json", "list", "no choices", "null", "filter", "drop", "half", "slow", "redirect", "fine")
    answers = engine.generate(chat(*words), sampling=Sampling())
    assert [a.id for a in answers] == [p.id for p in chat(*words)]
    assert [a.finish for a in answers] == ["error"] * 10 + ["stop"]
    errors = {word: answer.error for word, answer in zip(words, answers, strict=True)}
    assert "status 500" in errors["500"]
    assert "not JSON" in errors["json"]
    assert "expected a JSON object" in errors["list"]
    assert "no choices" in errors["no choices"]
    assert "content_filter" in errors["filter"]
    assert answers[words.index("filter")].text == "ab"
    assert "within 1.5 s" in errors["slow"]
    assert "status 302" in errors["redirect"]
    assert all(errors[word] for word in ("null", "drop", "half"))


def test_the_key_stays_secret(engine):
    answer = engine.generate(chat("500"), sampling=Sampling())[0]
    assert "boom" in answer.error  # the server sent the key back in its message
    assert KEY not in answer.error
    assert KEY not in repr(engine.describe())
    assert KEY not in repr(engine)
    assert engine.describe()["key"] == "sent"


def test_dead_server():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    engine = open_engine("openai", f"http://127.0.0.1:{port}/v1", model="m", timeout_s=2)
    answers = engine.generate(chat("a", "b"), sampling=Sampling())
    assert [a.finish for a in answers] == ["error", "error"]
    unnamed = open_engine("openai", f"http://127.0.0.1:{port}/v1", timeout_s=2)
    with pytest.raises(EngineError, match="/models"):
        unnamed.generate(chat("a"), sampling=Sampling())


def test_several_models_ask_for_a_name(engine, server):
    server.models = ["a", "b"]
    try:
        with pytest.raises(EngineError, match=r"\['a', 'b'\].*model="):
            engine.generate(chat("a"), sampling=Sampling())
    finally:
        server.models = ["fake-model"]


def test_scores_of_an_echoed_prompt(engine):
    scored = engine.logprobs([Scored("s", "abcd", ("efg", "e", "")), Scored("d", "", ("abcd",))])
    assert scored[0].tokens == ((2, 3), (2,), ())
    assert scored[0].logprobs == ((-2.0, -3.0), (-2.0,), ())
    assert scored[1].tokens == ((1,),)  # the first token is context only


def test_a_bos_mark_of_the_server_makes_the_first_token_count(engine):
    scored = engine.logprobs([Scored("d", "", ("bosx",))])[0]
    assert scored.tokens == ((1, 2),)
    assert scored.logprobs == ((-9.0, -1.0),)


@pytest.mark.parametrize(
    ("text", "message"), [("without", "'echo' and 'logprobs'"), ("other", "does not support 'echo'"), ("nan", "finite")]
)
def test_servers_without_scores_are_named(engine, text, message):
    with pytest.raises(EngineError, match=message):
        engine.logprobs([Scored("s", "", (f"{text} a text",))])


def test_no_distributions_over_http(engine):
    with pytest.raises(EngineError, match="distributions"):
        engine.logprobs([Scored("s", "", ("a",), full=True)])


def test_inside_an_event_loop(engine):
    async def within():
        return engine.generate(chat("a"), sampling=Sampling())

    assert asyncio.run(within())[0].finish == "stop"


@pytest.mark.parametrize("url", ["ftp://x/v1", "localhost:8000", "http://user:pw@x/v1", "http://x/v1?key=1", ""])
def test_addresses_are_checked(url):
    with pytest.raises(ConfigError) as caught:
        open_engine("openai", url)
    assert "pw" not in str(caught.value)


def test_closed_and_bad_numbers(server):
    url = f"http://127.0.0.1:{server.port}/v1"
    engine = open_engine("openai", url)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.generate([], sampling=Sampling())
    with pytest.raises(ConfigError):
        open_engine("openai", url, concurrency=0)


def test_a_slow_server_does_not_hold_the_others(engine):
    started = time.monotonic()
    answers = engine.generate(chat("slow", "a", "b"), sampling=Sampling())
    assert [a.finish for a in answers] == ["error", "stop", "stop"]
    assert time.monotonic() - started < 4
