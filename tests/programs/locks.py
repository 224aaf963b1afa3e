"""File locks on files of the working directory:
locks.py hold KIND FILE | want KIND FILE | abba MINE THEIRS | short FILE | retry FILE
KIND is flock, fcntl or ofd."""

import errno
import fcntl
import os
import struct
import time

import lab


def opened(path):
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def lock(kind, fd):
    """Takes the exclusive lock, however long that takes."""
    if kind == "flock":
        fcntl.flock(fd, fcntl.LOCK_EX)
    elif kind == "fcntl":
        fcntl.lockf(fd, fcntl.LOCK_EX)
    else:
        # struct flock of the 64-bit ABI: type, whence, start, length, pid (0 for OFD locks).
        whole_file = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, whole_file)


def hold(kind, path):
    lock(kind, opened(path))
    lab.say("locked", os.getpid())
    lab.sleep_out()


def want(kind, path):
    lock(kind, opened(path))


def abba(mine, theirs):
    """One half of a deadlock across processes; flock(2) looks for no cycles."""
    lock("flock", opened(mine))
    lab.say("locked", os.getpid())
    lab.wait_for_cue("both")
    lock("flock", opened(theirs))


def short(path):
    """Short exclusive sections, over and over."""
    fd = opened(path)
    lab.say("ready", os.getpid())
    while True:
        lock("flock", fd)
        time.sleep(0.02)
        fcntl.flock(fd, fcntl.LOCK_UN)
        time.sleep(0.005)


def retry(path):
    """Tries without waiting, over and over."""
    fd = opened(path)
    tries = 0
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
            tries += 1
            if tries == 3:
                lab.say("ready", tries)
        time.sleep(0.05)


lab.main({"hold": hold, "want": want, "abba": abba, "short": short, "retry": retry})
