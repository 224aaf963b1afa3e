"""Unix sockets and a TCP port, in the working directory:
sockets.py listen BACKLOG ACCEPT_SECONDS | connect | connect-often | deaf | send | deaf-dgram | send-dgram |
           request-server | request-client | idle-client"""

import os
import socket
import time

import lab

PATH = os.path.abspath("lab.socket")


def listener(backlog):
    server = socket.socket(socket.AF_UNIX)
    server.bind(PATH)
    server.listen(backlog)
    lab.say("ready", os.getpid())
    return server


def listen(backlog, accept_seconds):
    """Accepts one client every so often; never, if that is 0."""
    server = listener(int(backlog))
    while float(accept_seconds) > 0:
        time.sleep(float(accept_seconds))
        server.accept()[0].close()
    lab.sleep_out()


def connect():
    """Connects once and stays."""
    client = socket.socket(socket.AF_UNIX)
    lab.say("ready", os.getpid())
    client.connect(PATH)
    lab.say("connected", os.getpid())
    lab.sleep_out()


def connect_often():
    """Connects, waits for the server to close, and again."""
    lab.say("ready", os.getpid())
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(PATH)
            client.recv(1)


def deaf():
    """Accepts one client and never reads."""
    client, _ = listener(8).accept()
    lab.sleep_out()
    client.close()


def send():
    """Sends without end."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(PATH)
    while True:
        client.send(bytes(4096))


def deaf_dgram():
    """Binds a datagram socket and never reads."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(PATH)
    lab.say("ready", os.getpid())
    lab.sleep_out()


def send_dgram():
    """Sends datagrams without end."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    while True:
        client.sendto(b"x", PATH)


def request_server():
    """Accepts one client and waits for its request."""
    client, _ = listener(8).accept()
    client.recv(1)


def request_client():
    """Connects and waits for the server to speak first."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(PATH)
    client.recv(1)


def idle_client():
    """Connects and has nothing to ask for the time being."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(PATH)
    lab.say("connected", os.getpid())
    lab.sleep_out()


lab.main(
    {
        "listen": listen,
        "connect": connect,
        "connect-often": connect_often,
        "deaf": deaf,
        "send": send,
        "deaf-dgram": deaf_dgram,
        "send-dgram": send_dgram,
        "request-server": request_server,
        "request-client": request_client,
        "idle-client": idle_client,
    }
)
