"""A server that is a tree of processes, each with the bad habits it is told of. Standard library only; starts in 50 ms.

    python fake_tree.py '{"members": [{"own_session": true}], "ignore_term": true}' NAME NONCE

Plan: members (each: ignore_term, own_session, orphan: its parent ends at once, follows: it ends with its parent, listens),
start_s before it answers, ignore_term, dies_s after the start with status exit, says (lines of log), host it listens on, names (in
place of those given), broken (streams end without a finish reason), shm (an entry in /dev/shm that it maps), quiet (never listens),
leaks_key, deaf_first (a port of its own that never answers), gap_s between the frames of an answer, tokens of one, drains (finishes
what it has begun when told to end), healthy (says so even then), leaks_slots (a client that left stays counted), context (tokens that
it has room for), crash and forgets (prompts longer than that end it, or get cut answers).
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import sys
import threading
import time


def main() -> None:
    plan, names = json.loads(sys.argv[1]), sys.argv[2:]
    if plan.get("ignore_term"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif plan.get("drains"):
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=drain).start())
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    kept = shared_memory(plan["shm"]) if plan.get("shm") else None
    for member in plan.get("members", ()):
        spawn(member)
    for number in range(plan.get("says", 0)):
        print(f"line {number}", flush=True)
    if plan.get("leaks_key"):
        print(f"started with {os.environ['HARNESS_SERVER_KEY']}", flush=True)
    if "dies_s" in plan:
        threading.Timer(plan["dies_s"], lambda: os._exit(plan.get("exit", 0))).start()
    time.sleep(plan.get("start_s", 0))
    if plan.get("quiet"):
        signal.pause()
    serve(plan, plan.get("names", names))
    del kept


def shared_memory(name: str) -> mmap.mmap:
    fd = os.open(f"/dev/shm/{name}", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, 4096)
    return mmap.mmap(fd, 4096)


def spawn(member: dict) -> None:
    """A child; with ``orphan`` a grandchild whose parent has ended."""
    pid = os.fork()
    if pid:
        if member.get("orphan"):
            os.waitpid(pid, 0)
        return
    if member.get("own_session"):
        os.setsid()
    if member.get("orphan") and os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if member.get("ignore_term") else signal.SIG_DFL)
    if member.get("listens"):
        listener = socket.create_server(("127.0.0.1", 0))  # accepts, and never answers
        time.sleep(3600)
        listener.close()
    parent = os.getppid()
    while not member.get("follows") or os.getppid() == parent:
        time.sleep(0.05 if member.get("follows") else 3600)
    os._exit(0)


RUNNING: set[int] = set()
DRAINING = threading.Event()


def drain() -> None:
    DRAINING.set()
    while RUNNING:
        time.sleep(0.01)
    os._exit(0)


def serve(plan: dict, names: list[str]) -> None:
    if plan.get("deaf_first"):  # a port of the server's own process that never answers
        socket.create_server(("127.0.0.1", 0)).detach()
    with socket.create_server((plan.get("host", "127.0.0.1"), 0)) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=answer, args=(connection, plan, names), daemon=True).start()


def answer(connection: socket.socket, plan: dict, names: list[str]) -> None:
    with connection:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
        while len(body) < length:
            body += connection.recv(65536)
        path = head.split()[1].decode()
        if path == "/health":
            unwell = DRAINING.is_set() and not plan.get("healthy")
            reply(connection, b"", "text/plain", "503 Service Unavailable" if unwell else "200 OK")
        elif path == "/metrics":
            reply(connection, f'vllm:num_requests_running{{engine="0"}} {len(RUNNING)}\n'.encode(), "text/plain")
        elif f"Bearer {os.environ.get('HARNESS_SERVER_KEY', '')}".encode() not in head:
            reply(connection, b'{"error": {"message": "no key"}}', "application/json", "401 Unauthorized")
        elif path == "/v1/models":
            reply(connection, json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in names]}).encode())
        else:
            complete(connection, plan, names[0], json.loads(body))


def complete(connection: socket.socket, plan: dict, model: str, asked: dict) -> None:
    room, prompt = plan.get("context", 0), asked["prompt"]
    if room and len(prompt) + asked["max_tokens"] > room:
        return reply(connection, b'{"error": {"message": "too long", "code": 400}}', "application/json", "400 Bad Request")
    if len(prompt) > plan.get("crash", len(prompt)):
        os._exit(1)
    limit = asked["max_tokens"]
    frames = stream(model, min(plan.get("tokens", limit), limit), limit, plan.get("broken", False))
    if len(prompt) > plan.get("forgets", len(prompt)):
        frames = frames[:1] + frames[-1:]
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {sum(map(len, frames))}\r\nConnection: close\r\n\r\n"
    slot = threading.get_ident()
    RUNNING.add(slot)
    try:
        connection.sendall(head.encode())
        for frame in frames:
            connection.sendall(frame)
            if frame is not frames[-1]:
                time.sleep(plan.get("gap_s", 0))
            connection.setblocking(False)
            try:
                if connection.recv(1) == b"":
                    raise ConnectionError
            except BlockingIOError:
                pass
            finally:
                connection.setblocking(True)
    except OSError:
        if plan.get("leaks_slots"):
            return None
    RUNNING.discard(slot)
    return None


def stream(model: str, tokens: int, limit: int, broken: bool) -> list[bytes]:
    base = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model}
    finish = None if broken else "length" if tokens == limit else "stop"
    frames = [{**base, "choices": [{"index": 0, "text": "a", "finish_reason": finish if i == tokens - 1 else None}]} for i in range(tokens)]
    frames.append({**base, "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}})
    return [b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames] + [b"data: [DONE]\n\n"]


def reply(connection: socket.socket, body: bytes, kind: str = "application/json", status: str = "200 OK") -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode() + body)


if __name__ == "__main__":
    main()
