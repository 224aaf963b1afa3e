"""Threads of Python: threads.py abba | queue"""

import queue
import select
import socket
import threading

import lab


def abba():
    """Two threads, two locks, opposite order; main joins both."""
    first, second = threading.Lock(), threading.Lock()
    both_hold = threading.Barrier(2)

    def half(key, mine, theirs):
        lab.say(key, threading.get_native_id())
        with mine:
            both_hold.wait()
            with theirs:
                pass

    threads = [
        threading.Thread(target=half, args=("tid_a", first, second)),
        threading.Thread(target=half, args=("tid_b", second, first)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def idle_queue():
    """Eight workers wait for jobs; main waits for clients."""
    jobs = queue.Queue()
    for _ in range(8):
        threading.Thread(target=jobs.get, daemon=True).start()
    server = socket.create_server(("127.0.0.1", 0))
    lab.say("ready", 1)
    while True:
        select.select([server], [], [])


lab.main({"abba": abba, "queue": idle_queue})
