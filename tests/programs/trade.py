"""An exchange of bytes whose balance changes.

trade.py serve ADDRESS PORT |
         trade PORT EVERY BEFORE AFTER ADDRESS...

Ten times a second the client sends some bytes to each address and gets some back, OUT:IN in each of BEFORE and AFTER,
a comma between addresses. It goes over from BEFORE to AFTER at the cue `shift`, or to and fro EVERY so many seconds, if
that is not 0."""

import os
import socket
import struct
import sys
import threading
import time

import lab

PAUSE = 0.1
# Bytes that follow, and bytes that are to come back.
HEAD = struct.Struct("!II")
# Books are kept over so much time after the shift.
BOOKS_SECONDS = 5


def receive(connection, count):
    while count:
        data = connection.recv(min(count, 1 << 16))
        if not data:
            sys.exit("the peer is gone")
        count -= len(data)


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve(address, port):
    server = socket.socket(family(address), socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, int(port)))
    server.listen(16)
    lab.say("port", server.getsockname()[1])
    while True:
        client = server.accept()[0]
        threading.Thread(target=answer, args=(client,), daemon=True).start()


def answer(client):
    while True:
        head = client.recv(HEAD.size, socket.MSG_WAITALL)
        if len(head) < HEAD.size:
            return
        follow, back = HEAD.unpack(head)
        receive(client, follow)
        client.sendall(bytes(back))


class Plan:
    def __init__(self, every, before, after):
        self.every, self.plans = float(every), [self.parse(before), self.parse(after)]
        self.began, self.shifted = time.monotonic(), threading.Event()

    @staticmethod
    def parse(plan):
        return [tuple(map(int, peer.split(":"))) for peer in plan.split(",")]

    def phase(self):
        if self.every:
            return int((time.monotonic() - self.began) / self.every) % 2
        return int(self.shifted.is_set())

    def now(self, peer):
        return self.plans[self.phase()][peer]


def trade(port, every, before, after, *addresses):
    plan = Plan(every, before, after)
    books = [[0, 0] for _ in addresses]
    for peer, address in enumerate(addresses):
        client = socket.socket(family(address), socket.SOCK_STREAM)
        client.connect((address, int(port)))
        threading.Thread(target=keep_trading, args=(client, peer, plan, books), daemon=True).start()
    lab.say("trading", os.getpid())
    lab.wait_for_cue("books")
    keep_books("before", books)
    lab.wait_for_cue("shift")
    plan.shifted.set()
    keep_books("after", books)
    lab.sleep_out()


def keep_books(when, books):
    """Says how many kilobytes are sent to and received from each peer in a while."""
    first = [list(book) for book in books]
    time.sleep(BOOKS_SECONDS)
    for peer, (then, now) in enumerate(zip(first, books)):
        for way, was, is_now in zip(("sent", "received"), then, now):
            lab.say(f"{way}_{when}_{peer}", (is_now - was) // 1000)


def keep_trading(client, peer, plan, books):
    while True:
        out, back = plan.now(peer)
        client.sendall(HEAD.pack(out, back) + bytes(out))
        receive(client, back)
        books[peer][0] += out
        books[peer][1] += back
        time.sleep(PAUSE)


lab.main({"serve": serve, "trade": trade})
