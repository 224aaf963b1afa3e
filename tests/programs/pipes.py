"""Pipes: pipes.py communicate | sibling-leak | slow-consumer | pager | undrained | ping | pong"""

import os
import pty
import subprocess
import time

import lab


def communicate():
    """Waits for the end of output that a background process keeps open."""
    child = subprocess.Popen(["sh", "-c", f"sleep {lab.SECONDS} & echo $!"], stdout=subprocess.PIPE)
    lab.say("holder", int(child.stdout.readline()))
    child.communicate()


def sibling_leak():
    """Reads the output of one child to its end, and a long-lived sibling inherited the write end."""
    read, write = os.pipe()
    os.dup2(write, 57, inheritable=True)
    os.close(write)
    sibling = subprocess.Popen(["sleep", str(lab.SECONDS)], close_fds=False)
    lab.say("holder", sibling.pid)
    worker = subprocess.Popen(["echo", "done"], stdout=57)
    os.close(57)
    worker.wait()
    while os.read(read, 4096):
        pass


def slow_consumer():
    """Drains 4 KiB of its standard input every 100 ms."""
    lab.say("ready", os.getpid())
    while os.read(0, 4096):
        time.sleep(0.1)


def pager():
    """`yes | less` on a terminal of its own, where nobody presses a key."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="vt100", LESS="", LESSSECURE="1")
        os.execvp("sh", ["sh", "-c", "yes | less"])
    lab.say("shell", child)
    while os.read(terminal, 4096):
        pass


def undrained():
    """Waits for a child and does not read what it writes."""
    child = subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE)
    lab.say("child", child.pid)
    child.wait()


def ping():
    """Sends a byte, waits for its return, rests, and again."""
    while os.write(1, b"x") and os.read(0, 1):
        time.sleep(0.01)


def pong():
    """Returns every byte."""
    while os.write(1, os.read(0, 1)):
        pass


lab.main(
    {
        "communicate": communicate,
        "sibling-leak": sibling_leak,
        "slow-consumer": slow_consumer,
        "pager": pager,
        "undrained": undrained,
        "ping": ping,
        "pong": pong,
    }
)
