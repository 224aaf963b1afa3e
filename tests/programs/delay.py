"""A wire with a delay: delay.py NEAR FAR NEAR_TO_FAR_MS FAR_TO_NEAR_MS. What comes in at one TUN device goes out at the
other when its time has come. The stage moves the devices to where they belong; the descriptors stay here."""

import collections
import fcntl
import os
import select
import struct
import sys
import time

import lab

# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
# Packets under way in one direction; a full wire drops, as a router does.
FULL = 20_000


def open_device(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


class Lane:
    def __init__(self, source, sink, delay_ms):
        self.source, self.sink, self.delay, self.packets = source, sink, float(delay_ms) / 1000, collections.deque()

    def take(self):
        try:
            while True:
                packet = os.read(self.source, 65536)
                if len(self.packets) < FULL:
                    self.packets.append((time.monotonic() + self.delay, packet))
        except OSError:
            pass  # Nothing more, or the device is being moved and is down.

    def give(self):
        while self.packets and self.packets[0][0] <= time.monotonic():
            packet = self.packets.popleft()[1]
            try:
                os.write(self.sink, packet)
            except OSError:
                pass  # The device is down or full: the packet is lost.

    def due(self):
        return self.packets[0][0] if self.packets else None


def carry(near, far, there_ms, back_ms):
    near, far = open_device(near), open_device(far)
    lab.say("ready", os.getpid())
    lanes = [Lane(near, far, there_ms), Lane(far, near, back_ms)]
    while True:
        dues = [lane.due() for lane in lanes if lane.due() is not None]
        wait = max(0, min(dues) - time.monotonic()) if dues else None
        select.select([near, far], [], [], wait)
        for lane in lanes:
            lane.take()
            lane.give()


lab.bound()
carry(*sys.argv[1:])
