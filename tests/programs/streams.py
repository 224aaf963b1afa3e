"""Streams over TCP between one that sends and one that should read:
streams.py listen HOST BACKLOG | connect HOST PORT | sink HOST BYTES SECONDS | source HOST PORT SEND_BUFFER"""

import os
import socket
import time

import lab


def listener(host, backlog):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.create_server((host, 0), family=family, backlog=backlog)
    lab.say("port", server.getsockname()[1])
    lab.say("ready", os.getpid())
    return server


def listen(host, backlog):
    """Never accepts."""
    server = listener(host, int(backlog))
    lab.sleep_out()
    server.close()


def connect(host, port):
    """Connects without a timeout of its own, and stays."""
    lab.say("ready", os.getpid())
    client = socket.create_connection((host, int(port)))
    lab.say("connected", os.getpid())
    lab.sleep_out()
    client.close()


def sink(host, count, seconds):
    """Accepts one client and reads so many bytes every so often; none ever, if that is 0."""
    client, _ = listener(host, 8).accept()
    while int(count):
        time.sleep(float(seconds))
        left = int(count)
        while left > 0:
            part = client.recv(min(left, 1 << 16))
            if not part:
                return
            left -= len(part)
    lab.sleep_out()


def source(host, port, send_buffer):
    """Sends without end, from a send buffer of so many bytes, or of the kernel's choice if that is 0."""
    client = socket.create_connection((host, int(port)))
    if int(send_buffer):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, int(send_buffer))
    lab.say("connected", os.getpid())
    while True:
        client.sendall(bytes(4096))


lab.main({"listen": listen, "connect": connect, "sink": sink, "source": source})
