"""A cable of some length: frames between two links of a namespace arrive later, in order, none lost. (netem would do, where the
kernel has it.) Offloaded frames pass as they are, with the header that says what is left to do."""
import collections
import select
import socket
import threading
import time

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 15, 23, 3
FRAME_MAX = 10 + 14 + 65535


class Wire:
    def __init__(self, ns, one, other, seconds):
        self.seconds, self.queue = seconds, collections.deque()
        self.ends = [ns.call(lambda dev=dev: self._open(dev)) for dev in (one, other)]
        threading.Thread(target=self._run, daemon=True).start()

    @staticmethod
    def _open(dev):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        s.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        s.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        s.bind((dev, ETH_P_ALL))
        s.setblocking(False)
        return s

    def _take(self, end):
        try:
            while True:
                self.queue.append((time.monotonic() + self.seconds, self.ends[1 - self.ends.index(end)], end.recv(FRAME_MAX)))
        except BlockingIOError:
            pass

    def _run(self):
        while True:
            wait = max(0.0, self.queue[0][0] - time.monotonic()) if self.queue else None
            for end in select.select(self.ends, [], [], wait)[0]:
                self._take(end)
            while self.queue and self.queue[0][0] <= time.monotonic():
                _, to, frame = self.queue.popleft()
                try:
                    to.send(frame)
                except OSError:  # a link that is down: nobody is there to hear it
                    pass
