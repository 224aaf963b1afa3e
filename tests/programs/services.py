"""Services that call each other over TCP, in lines that Redis speaks as well: PING is answered by +PONG.

services.py leaf HOST [KEY=VALUE ...]                 answers, or fails as the file `leaf.mode` says
services.py tier HOST DOWN_HOST DOWN_PORT [...]       a pool of threads; each request calls the downstream
services.py async-tier HOST DOWN_HOST DOWN_PORT [...] one thread, a pool of connections to the downstream
services.py load HOST PORT [...]                      clients that count what they get; they rest while `rest` exists

Every one counts for itself in a file of its own (`Counts`), so that the lab knows the truth without rung.
"""

import itertools
import mmap
import os
import random
import socket
import struct
import threading
import time

import lab

PING = b"PING\r\n"
PONG = b"+PONG\r\n"
ERROR = b"-ERR the downstream failed\r\n"
FOR_EVER = 1 << 31


class Counts:
    """Counters of 64 bits in a mapped file beside the report, which the lab may read at any time."""

    NAMES = ("requests", "answered", "attempts", "failed")

    def __init__(self):
        path = os.environ["RUNG_LAB_REPORT"].removesuffix(".report") + ".counts"
        with open(path, "w+b") as file:
            file.truncate(8 * len(self.NAMES))
            self.numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        self.lock = threading.Lock()

    def add(self, name):
        with self.lock:
            self.numbers[self.NAMES.index(name)] += 1


def options(words, **defaults):
    """KEY=VALUE words over defaults, whose types they get."""
    for word in words:
        key, value = word.split("=", 1)
        defaults[key] = type(defaults[key])(value)
    return defaults


def pause(backoff, number):
    """Rests before try `number`: `none`, `fixed:S`, `exponential:S:CAP` or `jitter:S:CAP` (full jitter)."""
    kind, *seconds = backoff.split(":")
    if kind == "none":
        return
    if kind == "fixed":
        return time.sleep(float(seconds[0]))
    rest = min(float(seconds[1]), float(seconds[0]) * 2 ** min(number - 1, 30))
    time.sleep(random.uniform(0, rest) if kind == "jitter" else rest)


class Breaker:
    """Opens after so many failures in a row; lets one probe through every so often, or none ever."""

    def __init__(self, failures, probe_seconds):
        self.failures, self.probe_seconds = failures, probe_seconds
        self.in_a_row, self.next_probe = 0, 0.0
        self.lock = threading.Lock()

    def permits(self):
        with self.lock:
            if not self.failures or self.in_a_row < self.failures:
                return True
            now = time.monotonic()
            if not self.probe_seconds or now < self.next_probe:
                return False
            self.next_probe = now + self.probe_seconds
            return True

    def tell(self, good):
        with self.lock:
            self.in_a_row = 0 if good else self.in_a_row + 1
            if not good:
                self.next_probe = time.monotonic() + self.probe_seconds


class Caller:
    """Calls a downstream, with tries, timeouts, back-off, and a connection that is kept or not."""

    DEFAULTS = {"tries": 1, "timeout": 0.0, "backoff": "none", "pooled": 0, "breaker": 0, "probe": 0.0}

    def __init__(self, host, port, counts, breaker, given):
        self.address, self.counts, self.breaker = (host, int(port)), counts, breaker
        self.tries, self.backoff, self.pooled = given["tries"], given["backoff"], given["pooled"]
        self.timeout = given["timeout"] or None
        self.connection = None

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def attempt(self):
        self.counts.add("attempts")
        answer = b""
        try:
            if not self.connection:
                self.connection = socket.create_connection(self.address, self.timeout)
            self.connection.sendall(PING)
            while not answer.endswith(b"\n"):
                part = self.connection.recv(4096)
                if not part:
                    break
                answer += part
        except OSError:
            answer = b""
        if not (self.pooled and answer.endswith(b"\n")):
            self.close()
        self.breaker.tell(answer == PONG)
        if answer != PONG:
            self.counts.add("failed")
        return answer == PONG

    def call(self):
        for number in range(self.tries):
            if number:
                pause(self.backoff, number)
            if not self.breaker.permits():
                return False
            if self.attempt():
                return True
        return False


def bound_listener(host, port, backlog):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=backlog)


def listener(host, backlog):
    """Below the ports that clients get: a client whose own port is its destination connects to itself."""
    while True:
        try:
            server = bound_listener(host, random.randrange(10000, 30000), backlog)
            break
        except OSError:
            continue
    lab.say("port", server.getsockname()[1])
    return server


def pool(server, threads, handler):
    """Threads that each accept a client, serve it to its end, and accept the next."""

    def work():
        handle = handler()
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                # The listener was shut down; it may come back.
                time.sleep(0.02)
                continue
            try:
                with client, client.makefile("rb") as lines:
                    while lines.readline() and handle(client):
                        pass
            except OSError:
                pass

    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()


def mode():
    """What `leaf.mode` says; `answer` without one."""
    try:
        with open(os.path.join(os.environ["RUNG_LAB_DIR"], "leaf.mode")) as file:
            return file.read().split()
    except FileNotFoundError:
        return ["answer"]


def leaf(host, *words):
    """Modes: answer, slow SECONDS, close (without an answer), some N (close each Nth), reset, refuse (no listener). `seconds`: of work for each
    request; `log`: bytes written to the standard output for each."""
    given = options(words, threads=64, backlog=128, seconds=0.0, log=0)
    counts, asked = Counts(), itertools.count()

    def handle(client):
        counts.add("requests")
        kind, *rest = mode()
        if given["log"]:
            os.write(1, bytes(given["log"]))
        if kind == "close" or kind == "some" and next(asked) % int(rest[0]) == 0:
            return False
        if kind == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        seconds = float(rest[0]) if kind == "slow" else given["seconds"]
        if seconds:
            time.sleep(seconds)
        client.sendall(PONG)
        counts.add("answered")
        return True

    server = listener(host, given["backlog"])
    port = server.getsockname()[1]
    pool(server, given["threads"], lambda: handle)
    lab.say("ready", os.getpid())
    listens = True
    while True:
        time.sleep(0.02)
        if listens and mode()[0] == "refuse":
            # Accepting threads wake with an error, and connects are refused.
            server.shutdown(socket.SHUT_RDWR)
            listens = False
        elif not listens and mode()[0] != "refuse":
            with bound_listener(host, port, given["backlog"]) as again:
                os.dup2(again.fileno(), server.fileno(), inheritable=False)
            listens = True


def tier(host, down_host, down_port, *words):
    """`fanout`: calls by design for each request."""
    given = options(words, threads=16, backlog=128, fanout=1, **Caller.DEFAULTS)
    counts = Counts()
    breaker = Breaker(given["breaker"], given["probe"])

    def handler():
        caller = Caller(down_host, down_port, counts, breaker, given)

        def handle(client):
            counts.add("requests")
            good = all([caller.call() for _ in range(given["fanout"])])
            client.sendall(PONG if good else ERROR)
            if good:
                counts.add("answered")
            return True

        return handle

    pool(listener(host, given["backlog"]), given["threads"], handler)
    lab.say("ready", os.getpid())
    lab.sleep_out()


def async_tier(host, down_host, down_port, *words):
    """`connections`: how many to the downstream, one request at a time on each."""
    import asyncio

    given = options(words, connections=16, backlog=128)
    counts = Counts()

    async def run():
        free = asyncio.Queue()
        for _ in range(given["connections"]):
            free.put_nowait(await asyncio.open_connection(down_host, int(down_port)))

        async def serve(reader, writer):
            while await reader.readline():
                counts.add("requests")
                lines, calls = await free.get()
                counts.add("attempts")
                try:
                    calls.write(PING)
                    answer = await lines.readline()
                    good = answer == PONG
                except OSError:
                    answer, good = b"", False
                if not answer:
                    calls.close()
                    lines, calls = await asyncio.open_connection(down_host, int(down_port))
                free.put_nowait((lines, calls))
                counts.add("answered" if good else "failed")
                writer.write(PONG if good else ERROR)

        server = await asyncio.start_server(serve, sock=listener(host, given["backlog"]))
        lab.say("ready", os.getpid())
        await server.serve_forever()

    asyncio.run(run())


def load(host, port, *words):
    """`rate`: requests a second of all clients together, at even distances; 0 for as fast as answers come. `wait`: for
    the cue `load`, so that several begin at once."""
    given = options(words, clients=1, rate=0.0, wait=0, **Caller.DEFAULTS)
    counts = Counts()
    rest = os.path.join(os.environ["RUNG_LAB_DIR"], "rest")

    def work(number):
        caller = Caller(host, port, counts, Breaker(0, 0), given)
        distance = given["clients"] / given["rate"] if given["rate"] else 0
        due = time.monotonic() + distance * number / given["clients"]
        while True:
            while os.path.exists(rest):
                caller.close()
                time.sleep(0.05)
                due = time.monotonic()
            if distance:
                time.sleep(max(0, due - time.monotonic()))
                # Whoever is late asks now and does not catch up.
                due = max(due + distance, time.monotonic())
            counts.add("requests")
            if caller.call():
                counts.add("answered")

    if given["wait"]:
        lab.say("waiting", os.getpid())
        lab.wait_for_cue("load")
    for number in range(given["clients"]):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    lab.say("ready", os.getpid())
    lab.sleep_out()


def refill(host, port, clients):
    """Opens a pool of connections all at once, drops it after a second, and again: every connect succeeds."""
    counts = Counts()
    lab.say("ready", os.getpid())
    while True:
        kept = []
        for _ in range(int(clients)):
            counts.add("attempts")
            kept.append(socket.create_connection((host, int(port))))
        time.sleep(1)
        for connection in kept:
            connection.close()


threading.stack_size(256 * 1024)
lab.main({"leaf": leaf, "tier": tier, "async-tier": async_tier, "load": load, "refill": refill})
