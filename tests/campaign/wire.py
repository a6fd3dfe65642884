#!/usr/bin/env python3
"""A wire between two TUN devices that loses, doubles, delays and reorders packets, or is cut.

    wire.py DEVICE DEVICE

Says `ready` when both devices are there. Each line of standard input sets what happens from then on: lost and doubled (of a
thousand), delay and jitter in milliseconds, 1 for a cut. Ends with its input.
"""

import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 1, 0x1000
# A queue as long as a slow router's; what comes on top is lost.
QUEUE_MAX = 2000


def device(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


def main():
    ends = [device(sys.argv[1]), device(sys.argv[2])]
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    print("ready", flush=True)
    lost = doubled = delay = jitter = cut = 0
    chance = random.Random(1)
    queue, serial, orders = [], 0, b""
    while True:
        wait = max(0.0, queue[0][0] - time.monotonic()) if queue else None
        readable, _, _ = select.select([0, *ends], [], [], wait)
        now = time.monotonic()
        if 0 in readable:
            more = os.read(0, 4096)
            if not more:
                return
            *lines, orders = (orders + more).split(b"\n")
            for line in lines:
                lost, doubled, delay, jitter, cut = map(int, line.split())
        for end in ends:
            if end not in readable:
                continue
            try:
                packet = os.read(end, 65536)
            except OSError:
                continue
            if cut or chance.randrange(1000) < lost or len(queue) > QUEUE_MAX:
                continue
            for _ in range(2 if chance.randrange(1000) < doubled else 1):
                serial += 1
                due = now + (delay + chance.random() * jitter) / 1000
                heapq.heappush(queue, (due, serial, other[end], packet))
        while queue and queue[0][0] <= now:
            _, _, to, packet = heapq.heappop(queue)
            if not cut:
                try:
                    os.write(to, packet)
                except OSError:
                    pass  # the device is down


main()
