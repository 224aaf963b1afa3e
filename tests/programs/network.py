"""Clients and servers of TCP, and a name server and a resolver. ADDRESS is IPv4 or IPv6; times are seconds.

network.py connect ADDRESS PORT | connect-impatient ADDRESS PORT GIVE_UP PAUSE | connect-epoll ADDRESS PORT |
           attempt ADDRESS PORT TIMES PAUSE | idle ADDRESS PORT KEEPALIVE | bulk ADDRESS PORT BYTES PAUSE |
           request ADDRESS PORT PAUSE | request-each PORT PAUSE ADDRESS... | hold ADDRESS PORT COUNT PAUSE |
           visit ADDRESS PORT PAUSE HOW | visit-times ADDRESS PORT COUNT | spend ADDRESS PORT COUNT |
           half-close ADDRESS PORT COUNT |
           serve ADDRESS PORT HOW | listen ADDRESS PORT BACKLOG |
           name-server ADDRESS HOW | resolve PAUSE"""

import errno
import itertools
import os
import select
import socket
import struct
import threading
import time

import lab

# Resets the connection at close(2).
AT_ONCE = struct.pack("ii", 1, 0)


def tcp(address):
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)


def connected(address, port):
    client = tcp(address)
    client.connect((address, int(port)))
    return client


class Tally:
    """Counts for the stage: the last line of a key is not the first, so each number has a key of its own."""

    def __init__(self, key, limit):
        self.key, self.limit, self.count = key, limit, 0

    def add(self):
        self.count += 1
        if self.count <= self.limit:
            lab.say(f"{self.key}_{self.count}", int(time.monotonic()))


def connect(address, port):
    """Connects, blocked in connect(2), and stays."""
    lab.say("ready", os.getpid())
    client = connected(address, port)
    lab.say("connected", os.getpid())
    lab.sleep_out()
    client.close()


def connect_impatient(address, port, give_up, pause):
    """Tries, gives up, and tries again."""
    given_up = Tally("given_up", 100)
    while True:
        with tcp(address) as client:
            client.settimeout(float(give_up))
            try:
                client.connect((address, int(port)))
                lab.say("connected", os.getpid())
            except TimeoutError:
                given_up.add()
        time.sleep(float(pause))


def connect_epoll(address, port):
    """Connects as an event loop does."""
    client = tcp(address)
    client.setblocking(False)
    outcome = client.connect_ex((address, int(port)))
    assert outcome == errno.EINPROGRESS, outcome
    poll = select.epoll()
    poll.register(client, select.EPOLLOUT)
    lab.say("ready", os.getpid())
    poll.poll()
    lab.say("outcome", client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    lab.sleep_out()


def attempt(address, port, times, pause):
    """Tries so many times (0: without end), whatever comes of it, and says with which error each of the first ended."""
    for number in range(1, int(times) + 1) if int(times) else iter(int, 1):
        with tcp(address) as client:
            outcome = client.connect_ex((address, int(port)))
        if number == 1 or int(times) == 0:
            lab.say("outcome", outcome)
        time.sleep(float(pause))
    lab.say("done", os.getpid())
    lab.sleep_out()


def idle(address, port, keepalive):
    """Connects, asks once, and then has nothing to ask; probes the silent peer every so often, if that is not 0."""
    client = connected(address, port)
    if int(keepalive):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(keepalive))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, int(keepalive))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 100)
    client.sendall(b"ask")
    client.recv(64)
    lab.say("connected", os.getpid())
    client.recv(64)
    lab.say("ended", os.getpid())
    lab.sleep_out()


def bulk(address, port, size, pause):
    """Sends so many bytes, without waiting for an answer, over and over."""
    client = connected(address, port)
    lab.say("connected", os.getpid())
    block = bytes(int(size))
    while True:
        client.sendall(block)
        time.sleep(float(pause))


def exchange(client, turns, pause):
    """Asks and waits for the answer, over and over."""
    while True:
        client.sendall(b"x" * 100)
        if not client.recv(100):
            raise ConnectionResetError
        turns.add()
        time.sleep(pause)


def request(address, port, pause):
    """One connection with requests and answers in turn."""
    client = connected(address, port)
    lab.say("connected", os.getpid())
    try:
        exchange(client, Tally("turn", 20), float(pause))
    except OSError as error:
        lab.say("broken", error.errno or 0)
    lab.sleep_out()


def request_each(port, pause, *addresses):
    """A connection to each of these, with requests and answers in turn; connects again a second after it broke."""

    def keep_asking(number, address):
        turns = Tally(f"turn_{number}", 5)
        while True:
            try:
                exchange(connected(address, port), turns, float(pause))
            except OSError as error:
                lab.say(f"broken_{number}", error.errno or 0)
            time.sleep(1)

    for number, address in enumerate(addresses):
        threading.Thread(target=keep_asking, args=(number, address), daemon=True).start()
    lab.sleep_out()


def hold(address, port, count, pause):
    """Opens so many connections and keeps them; then tries for another every so often, if that is not 0."""
    held = []
    for _ in range(int(count)):
        held.append(connected(address, port))
    lab.say("held", len(held))
    while float(pause):
        time.sleep(float(pause))
        client = tcp(address)
        outcome = client.connect_ex((address, int(port)))
        lab.say("outcome", outcome)
        client.close()
    lab.sleep_out()


def visit(address, port, pause, how):
    """Connects and is done with it, over and over: `close` at once, `reset` it, `leave` after an answer, or `wait` for
    the server to end it."""
    visits = Tally("visit", 20)
    while True:
        with connected(address, port) as client:
            try:
                if how == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
                elif how == "leave":
                    client.sendall(b"ask")
                    client.recv(64)
                elif how == "wait":
                    client.recv(64)
            except ConnectionError:
                pass
        visits.add()
        time.sleep(float(pause))


def visit_times(address, port, count):
    """Connects, says something and closes, so many times."""
    for _ in range(int(count)):
        with connected(address, port) as client:
            client.sendall(b"bye")
    lab.say("spent", int(count))
    lab.sleep_out()


def spend(address, port, count):
    """Opens and closes so many connections, each of which leaves a TIME_WAIT behind."""
    for _ in range(int(count)):
        with connected(address, port) as client:
            client.sendall(b"ask")
            client.recv(64)
    lab.say("spent", int(count))
    lab.sleep_out()


def half_close(address, port, count):
    """Opens connections, says on each that it has no more to ask, and reads what comes."""
    clients = [connected(address, port) for _ in range(int(count))]
    for client in clients:
        client.shutdown(socket.SHUT_WR)
    lab.say("closed", len(clients))
    while True:
        for client in select.select(clients, [], [])[0]:
            client.recv(4096)


def listen(address, port, backlog):
    """Listens and never accepts."""
    server = tcp(address)
    server.bind((address, int(port)))
    server.listen(int(backlog))
    lab.say("ready", os.getpid())
    lab.sleep_out()


def serve(address, port, how):
    """Serves every client: `echo`; `sink` what comes; `doze` a second of every three while it sinks; be `deaf`; `reset`
    or `close` at once; `reset-some` after the cue `flap`, each fifth, and echo for the others; `leak` what the client
    has closed; `stream` to it every second, whether it has closed its side or not."""
    server = tcp(address)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, int(port)))
    server.listen(128)
    lab.say("ready", os.getpid())
    poll, clients = select.epoll(), {}
    poll.register(server, select.EPOLLIN)
    next_stream = next_doze = time.monotonic()
    while True:
        if how == "doze" and time.monotonic() >= next_doze:
            time.sleep(1)
            next_doze = time.monotonic() + 2
        for fd, _ in poll.poll(1):
            if fd == server.fileno():
                welcome(server.accept()[0], how, poll, clients)
            else:
                answer(clients[fd], how, poll, clients)
        if how == "stream" and time.monotonic() >= next_stream:
            next_stream = time.monotonic() + 1
            for client in clients.values():
                client.sendall(b"news")


WELCOMED = itertools.count()


def welcome(client, how, poll, clients):
    some = how == "reset-some" and next(WELCOMED) % 5 == 0 and lab.has_cue("flap")
    how = {"reset-some": "reset" if some else "echo"}.get(how, how)
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    if how in ("reset", "close"):
        client.close()
        return
    clients[client.fileno()] = client
    if how != "deaf":
        poll.register(client, select.EPOLLIN)


def answer(client, how, poll, clients):
    try:
        data = client.recv(1 << 20)
        if data and how in ("echo", "reset-some"):
            client.sendall(data)
    except ConnectionError:
        data = b""
    if data:
        return
    poll.unregister(client)
    if how not in ("leak", "stream"):
        del clients[client.fileno()]
        client.close()


def name_server(address, how):
    """Answers every query on port 53 with `address` or that there is `no-such-name`."""
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    lab.say("ready", os.getpid())
    while True:
        query, client = server.recvfrom(512)
        # RFC 1035, section 4.1: the question ends with the name's empty label, type and class.
        end = query.index(b"\0", 12) + 5
        kind = query[end - 4 : end - 2]
        found = how == "address" and kind == b"\0\1"
        flags = 0x8183 if how == "no-such-name" else 0x8180
        reply = query[:2] + struct.pack(">HHHHH", flags, 1, int(found), 0, 0) + query[12:end]
        if found:
            reply += b"\xc0\x0c" + struct.pack(">HHIH4s", 1, 1, 1, 4, bytes([192, 0, 2, 1]))
        server.sendto(reply, client)


def resolve(pause):
    """Looks a name up over and over."""
    lab.say("ready", os.getpid())
    done = Tally("look_up", 20)
    while True:
        try:
            socket.getaddrinfo("leaf.lab.example", 80)
            lab.say("found", os.getpid())
        except socket.gaierror as error:
            lab.say("failed", error.errno)
        done.add()
        time.sleep(float(pause))


lab.main(
    {
        "connect": connect,
        "connect-impatient": connect_impatient,
        "connect-epoll": connect_epoll,
        "attempt": attempt,
        "idle": idle,
        "bulk": bulk,
        "request": request,
        "request-each": request_each,
        "hold": hold,
        "visit": visit,
        "visit-times": visit_times,
        "spend": spend,
        "half-close": half_close,
        "listen": listen,
        "serve": serve,
        "name-server": name_server,
        "resolve": resolve,
    }
)
