"""A host whose own stack is in the tailnet: traffic of its kernel, and what `ip` shows of it."""
import fcntl
import hashlib
import os
import re
import select
import socket
import struct
import subprocess
import time

from .inet import blob_chunks
from .proc import Failure, expect


def tun_possible():
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
        return True
    except OSError:
        return False


def listing(ns):
    """Links, addresses, rules and all routes of a namespace, for comparison. Left out: lifetimes, and what link-local addresses
    the kernel is still trying out."""
    out = []
    for args in (("-o", "link"), ("-o", "addr"), ("rule",), ("-6", "rule"), ("route", "show", "table", "all"),
                 ("-6", "route", "show", "table", "all")):
        text = subprocess.run(["ip", "-n", ns.name, *args], capture_output=True, text=True, check=True).stdout
        text = re.sub(r"expires \d+sec|qlen \d+|\\ +valid_lft.*", "", text)
        out.append("$ ip " + " ".join(args) + "\n" + "\n".join(line.rstrip() for line in sorted(text.splitlines()) if "fe80" not in line))
    return "\n".join(out)


def checksum(data):
    s = sum(struct.unpack(f">{len(data) // 2}H", data))
    while s >> 16:
        s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff


def ping(ns, to, timeout=10, size=56):
    """One echo of the host's own kernel; true when it came back."""
    v6 = ":" in to
    s = ns.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP)
    ident, body = os.getpid() & 0xffff, bytes(size)
    deadline, seq = time.monotonic() + timeout, 0
    with s:
        while time.monotonic() < deadline:
            seq += 1
            head = struct.pack(">BBHHH", 128 if v6 else 8, 0, 0, ident, seq)
            if not v6:
                head = head[:2] + struct.pack(">H", checksum(head + body)) + head[4:]
            s.sendto(head + body, (to, 0))
            while select.select([s], [], [], 1)[0]:
                p = s.recv(65536)
                p = p if v6 else p[(p[0] & 15) * 4:]
                if p[0] == (129 if v6 else 0) and p[4:6] == head[4:6] and p[8:] == body:
                    return True
    return False


def inject(ns, src, dst):
    """A packet for somebody else out of a TUN device of our own, as a node would write it that let one through."""
    def open_tun():
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", b"bait0", 0x1001))  # TUNSETIFF, IFF_TUN | IFF_NO_PI
        return fd

    fd = ns.call(open_tun)
    try:
        ns.ip("link", "set", "bait0", "up")
        ns.ip("route", "add", f"{src}/32", "dev", "bait0")
        udp = struct.pack(">HHHH", 4000, 4001, 12, 0) + b"bait"
        head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 32, 1, 0, 64, 17, 0, socket.inet_aton(src), socket.inet_aton(dst))
        os.write(fd, head[:10] + struct.pack(">H", checksum(head)) + head[12:] + udp)
        time.sleep(0.1)
    finally:
        os.close(fd)


def serve_blobs(conn, _who):
    """`get N\\n`: sends N bytes. `put N\\n`: reads N bytes and answers with their checksum."""
    f = conn.makefile("rb")
    words = f.readline(100).split()
    size = int(words[1])
    if words[0] == b"get":
        for chunk in blob_chunks(size):
            conn.sendall(chunk)
        return
    h = hashlib.sha256()
    while size > 0 and (data := f.read(min(size, 1 << 18))):
        h.update(data)
        size -= len(data)
    conn.sendall(h.hexdigest().encode())


def connect(ns, host, port, timeout=20):
    s = ns.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.settimeout(timeout)
    try:
        s.connect((host, port))
    except OSError:
        s.close()
        raise
    return s


def get(ns, host, port, size, timeout=120):
    """The checksum of a download."""
    h = hashlib.sha256()
    with connect(ns, host, port) as s:
        s.settimeout(timeout)
        s.sendall(b"get %d\n" % size)
        while data := s.recv(1 << 18):
            h.update(data)
    return h.hexdigest()


def put(ns, host, port, size, timeout=120):
    """The checksum that the server made of an upload."""
    with connect(ns, host, port) as s:
        s.settimeout(timeout)
        s.sendall(b"put %d\n" % size)
        for chunk in blob_chunks(size):
            s.sendall(chunk)
        out = b""
        while data := s.recv(4096):
            out += data
    return out.decode()


def udp_echo(ns, host, port, sizes, timeout=20):
    """Each size there and back; a lost datagram is sent again."""
    with ns.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((host, port))
        s.settimeout(1)
        for size in sizes:
            data = os.urandom(size)
            deadline = time.monotonic() + timeout
            while time.monotonic() < deadline:
                s.send(data)
                try:
                    if s.recv(65536) == data:
                        break
                except (TimeoutError, ConnectionRefusedError):
                    pass
            else:
                raise Failure(f"no UDP echo of {size} bytes from {host}")


def expect_same(before, after, what):
    if before == after:
        return
    old, new = before.splitlines(), after.splitlines()
    gone, came = [l for l in old if l not in new], [l for l in new if l not in old]
    expect(False, f"{what}: gone {gone}; new {came}")
