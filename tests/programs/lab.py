"""What every Python actor of the fault lab shares: a bounded life, and reports of facts."""

import os
import signal
import sys
import time

SECONDS = int(os.environ.get("RUNG_LAB_SECONDS", "900"))


def bound():
    """Ends this process after the lab's time, by the default SIGALRM. fork does not inherit it."""
    signal.alarm(SECONDS)


def say(key, value):
    """Reports `key value` to the stage in one write."""
    path = os.environ.get("RUNG_LAB_REPORT")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if path else os.dup(1)
    os.write(fd, f"{key} {value}\n".encode())
    os.close(fd)


def has_cue(cue):
    """Whether the stage has given the cue."""
    return os.path.exists(os.path.join(os.environ["RUNG_LAB_DIR"], cue))


def wait_for_cue(cue):
    """Waits until the stage gives the cue."""
    while not has_cue(cue):
        time.sleep(0.002)


def sleep_out():
    """Sleeps for the life of the case."""
    while True:
        time.sleep(SECONDS)


def fork(body, *args):
    """Runs `body` in a child with a bounded life of its own; returns the child's pid."""
    child = os.fork()
    if child:
        return child
    bound()
    try:
        body(*args)
    finally:
        os._exit(1)


def main(kinds):
    """Runs the kind that the command line names. Hang-ups are not ignored, whatever the caller does (nohup(1))."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    bound()
    kinds[sys.argv[1]](*sys.argv[2:])
