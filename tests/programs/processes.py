"""Parents and children: processes.py manager KIND | init KIND | server | double-fork KIND | stopped-child | compute | wait-for-lock |
debugger"""

import ctypes
import os
import pty
import signal
import socket
import subprocess
import sys

import lab

PR_SET_CHILD_SUBREAPER = 36


def spin():
    while True:
        pass


def manager(kind):
    """A manager with one worker, who outlives the manager when that is killed."""
    worker = lab.fork({"holds-pipe": lab.sleep_out, "burns-cpu": spin, "holds-port": listen}[kind])
    lab.say("worker", worker)
    # The manager itself sleeps: it neither reads nor writes.
    lab.sleep_out()


def listen():
    """Listens, and accepts what nobody asks for."""
    socket.create_server(("127.0.0.1", 0)).accept()


def server():
    """A server by itself."""
    lab.say("worker", os.getpid())
    listen()


def init(kind):
    """Adopts orphans and reaps its children, as the init of a container does."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    command = {"manager": ["manager", "holds-port"], "server": ["server"]}[kind]
    child = subprocess.Popen([sys.executable, "-B", sys.argv[0], *command])
    lab.say("manager", child.pid)
    while True:
        os.wait()


def double_fork(kind):
    """Forks twice and leaves. A daemon takes a session and /dev/null; the careless one takes nothing."""
    if os.fork():
        # Waits for the intermediate child, as daemon(3) callers do.
        os.wait()
        sys.exit(0)
    if kind == "daemon":
        os.setsid()
    if os.fork():
        os._exit(0)
    lab.bound()
    server = socket.create_server(("127.0.0.1", 0))
    if kind == "daemon":
        os.chdir("/")
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
    lab.say("orphan", os.getpid())
    lab.say("port", server.getsockname()[1])
    if kind == "daemon":
        # What a daemon does: it serves.
        server.accept()
    lab.sleep_out()


def stopped_child():
    """Has a stopped job and does not wait for it."""
    child = lab.fork(lab.sleep_out)
    os.kill(child, signal.SIGSTOP)
    lab.say("child", child)
    lab.sleep_out()


def compute():
    """Waits for a child that computes."""
    child = lab.fork(spin)
    lab.say("child", child)
    os.waitpid(child, 0)


def wait_for_lock():
    """Waits for a child that waits for a file lock."""
    here = os.path.dirname(sys.argv[0])
    child = subprocess.Popen([sys.executable, "-B", f"{here}/locks.py", "want", "flock", "lab.lock"])
    lab.say("child", child.pid)
    child.wait()


def debugger():
    """A program stopped at its first instruction by gdb, at a terminal of its own."""
    gdb, terminal = pty.fork()
    if gdb == 0:
        os.environ.update(TERM="dumb", DEBUGINFOD_URLS="")
        command = ["gdb", "-q", "-nx", "-ex", "starti", "--args", "sleep", str(lab.SECONDS)]
        os.execvp("gdb", command)
    lab.say("gdb", gdb)
    while os.read(terminal, 4096):
        pass


lab.main(
    {
        "manager": manager,
        "init": init,
        "server": server,
        "double-fork": double_fork,
        "stopped-child": stopped_child,
        "compute": compute,
        "wait-for-lock": wait_for_lock,
        "debugger": debugger,
    }
)
