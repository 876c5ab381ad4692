"""A small internet: web, echo and misbehaving TCP servers, UDP echo, a watched DNS server, and DNS over HTTPS (unbound).

All but unbound run as threads of the test program with sockets made inside the inet namespace, so tests can ask
what the servers saw.
"""
import hashlib
import os
import random
import socket
import struct
import subprocess
import threading
import time

from .net import run
from .proc import wait_until
from .proxies import listening

BLOCK = random.Random(20).randbytes(1 << 20)

WEB, ECHO, SINK, HALF_CLIENT_FIRST, HALF_SERVER_FIRST, RST_BODY, CLOSED = 80, 7, 9, 9010, 9011, 9012, 9999
UDP_ECHO = 9020


def blob_chunks(size):
    """A download of size bytes that repeats nowhere: each MiB block starts with its own number."""
    n = 0
    while size > 0:
        chunk = struct.pack(">Q", n) + BLOCK[8:]
        yield chunk[:size]
        size -= len(chunk)
        n += 1


def blob_sha256(size):
    h = hashlib.sha256()
    for chunk in blob_chunks(size):
        h.update(chunk)
    return h.hexdigest()


def close_with_rst(conn):
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


class Listener:
    """Accepts on one port, v4 and v6, one thread per connection; remembers who came."""

    def __init__(self, ns, port, handler, addrs):
        self.port, self.handler = port, handler
        self.seen = []  # peer address of each connection, in order
        self.socks = []
        for addr in addrs:
            self.socks.append(ns.call(lambda a=addr: self._listen(a)))
        for s in self.socks:
            threading.Thread(target=self._accept, args=(s,), daemon=True).start()

    def _listen(self, addr):
        s = socket.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((addr, self.port))
        s.listen(1024)
        return s

    def _accept(self, s):
        while True:
            try:
                conn, who = s.accept()
            except OSError:
                return
            self.seen.append(who[0])
            threading.Thread(target=self._serve, args=(conn, who), daemon=True).start()

    def _serve(self, conn, who):
        try:
            conn.settimeout(120)
            self.handler(conn, who)
        except OSError:
            pass
        finally:
            conn.close()

    def close(self):
        for s in self.socks:
            s.shutdown(socket.SHUT_RDWR)
            s.close()


def serve_echo(conn, _who):
    while data := conn.recv(65536):
        conn.sendall(data)
    conn.shutdown(socket.SHUT_WR)


def serve_sink(conn, _who):
    while conn.recv(1 << 18):
        pass


def serve_half_client_first(conn, _who):
    """Reads until the client's end of data, then says how much it was."""
    n = 0
    while data := conn.recv(65536):
        n += len(data)
    conn.sendall(b"got %d\n" % n)


class HalfServerFirst:
    """Ends its own half first, then counts what the client still sends."""

    def __init__(self):
        self.got = []

    def __call__(self, conn, _who):
        conn.sendall(b"goodbye\n")
        conn.shutdown(socket.SHUT_WR)
        n = 0
        while data := conn.recv(65536):
            n += len(data)
        self.got.append(n)


def serve_rst_body(conn, _who):
    """Sends some bytes, and a RST when the client has said a word more."""
    conn.recv(4096)
    conn.sendall(b"x" * 1000)
    conn.recv(4096)
    close_with_rst(conn)


def read_head(f):
    """(path, content length) of a request, or None at the end."""
    words = f.readline(8192).split()
    length = 0
    while (line := f.readline(8192)) not in (b"\r\n", b"\n", b""):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return (words[1].decode("latin-1"), length) if len(words) >= 2 else None


def respond(conn, body):
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def send_blob(conn, size, pause):
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    for chunk in blob_chunks(size):
        conn.sendall(chunk)
        if pause:
            time.sleep(pause)


def take_upload(conn, f, length):
    """Answers with the checksum of the body."""
    h = hashlib.sha256()
    while length > 0 and (data := f.read(min(length, 1 << 18))):
        h.update(data)
        length -= len(data)
    respond(conn, h.hexdigest().encode())


def serve_web(conn, who):
    """HTTP/1.1, one request after the other: /ip, /blob/BYTES, /slow/BYTES (a MiB every 100 ms), /upload, /hang."""
    f = conn.makefile("rb")
    while request := read_head(f):
        path, length = request
        if path == "/ip":
            respond(conn, f"{who[0]}\n".encode())
        elif path.startswith(("/blob/", "/slow/")):
            send_blob(conn, int(path.rsplit("/", 1)[1]), 0.1 if path.startswith("/slow/") else 0)
        elif path == "/upload":
            take_upload(conn, f, length)
        elif path == "/hang":
            f.read()
            return
        else:
            conn.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


class Dns:
    """A plain resolver on port 53 that answers any A question with one address and remembers all that was asked:
    the sentinel of tests that must see no question, or only certain ones."""

    def __init__(self, ns, addr, answer):
        self.asked = []  # (source address, name) of each query
        self.answer = answer
        self.sock = ns.call(lambda: self._bind(addr))
        threading.Thread(target=self._serve, daemon=True).start()

    @staticmethod
    def _bind(addr):
        s = socket.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET, socket.SOCK_DGRAM)
        s.bind((addr, 53))
        return s

    def _serve(self):
        while True:
            try:
                q, who = self.sock.recvfrom(4096)
            except OSError:
                return
            name, end = self._name(q)
            if name is None:
                continue
            self.asked.append((who[0], name))
            qtype = struct.unpack(">H", q[end:end + 2])[0]
            found = qtype == 1
            head = q[:2] + struct.pack(">HHHHH", 0x8180, 1, 1 if found else 0, 0, 0) + q[12:end + 4]
            if found:
                head += b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(self.answer)
            self.sock.sendto(head, who)

    @staticmethod
    def _name(q):
        labels, i = [], 12
        while i < len(q) and q[i]:
            labels.append(q[i + 1:i + 1 + q[i]].decode("latin-1"))
            i += 1 + q[i]
        return (".".join(labels), i + 1) if i + 5 <= len(q) else (None, 0)


LONG_TXT = [f"{i:03d}" + "x" * 247 for i in range(16)]  # 4 KB in one record


class Unbound:
    """DNS over HTTPS on 45.45.45.53:443 (HTTP/2), certificate by address, and on port 53 by UDP and TCP, with the names of the
    test internet. streams: how many questions a connection takes at once. Names below "silent" are of a server that says nothing.
    like: another one, beside which this is on its own port, with the same certificate and without port 53."""

    def __init__(self, sup, ns, workdir, port=443, streams=1000, like=None):
        self.ns, self.port, self.streams = ns, port, streams
        self.hole = ns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.hole.bind(("127.0.0.1", 0))
        self.dir = os.path.join(workdir, "unbound" if port == 443 else f"unbound{port}")
        os.makedirs(self.dir, exist_ok=True)
        self.cert, self.key = (like.cert, like.key) if like else (f"{self.dir}/cert.pem", f"{self.dir}/key.pem")
        if not like:
            run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                "-subj", "/CN=doh.test", "-addext", f"subjectAltName=IP:{ns.dns4},IP:{ns.dns6},DNS:doh.test",
                "-keyout", self.key, "-out", self.cert)
        self.log = f"{self.dir}/unbound.log"
        conf = f"{self.dir}/unbound.conf"
        with open(conf, "w", encoding="ascii") as f:
            f.write(self._conf())
        self.proc = sup.start("unbound", ["/usr/sbin/unbound", "-d", "-p", "-c", conf], ns=ns)
        wait_until(lambda: listening(ns, ns.dns4, port), "unbound listens", alive=[self.proc])

    def _conf(self):
        ns = self.ns
        port53 = f"  interface: {ns.dns4}@53\n  interface: {ns.dns6}@53" if self.port == 443 else ""
        return f"""
server:
  username: ""
  chroot: ""
  directory: "{self.dir}"
  pidfile: ""
  use-syslog: no
  logfile: "{self.log}"
  log-queries: yes
  num-threads: 1
  interface: {ns.dns4}@{self.port}
  interface: {ns.dns6}@{self.port}
{port53}
  incoming-num-tcp: 64
  http-max-streams: {self.streams}
  https-port: {self.port}
  tls-service-key: "{self.key}"
  tls-service-pem: "{self.cert}"
  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  do-not-query-localhost: no
  module-config: "iterator"
  local-zone: "example." static
  local-data: "web.example. A {ns.web4}"
  local-data: "web.example. AAAA {ns.web6}"
  local-data: "four.example. A {ns.web4}"
  local-data: "six.example. AAAA {ns.web6}"
  local-data: "example. 600 SOA ns.example. root.example. 1 3600 600 86400 30"
  local-data: "brief.example. 1 A {ns.web4}"
  local-data: 'long.example. TXT {" ".join(chr(34) + t + chr(34) for t in LONG_TXT)}'
  local-data: "h3.example. HTTPS 1 . alpn=h3,h2 ipv4hint={ns.web4} ipv6hint={ns.web6}"
  local-zone: "many.example." redirect
  local-data: "many.example. 300 A {ns.web4}"
  local-zone: "silent." transparent
  local-zone: "." refuse
forward-zone:
  name: "silent."
  forward-addr: 127.0.0.1@{self.hole.getsockname()[1]}
remote-control:
  control-enable: no
"""

    @property
    def url(self):
        return f"https://{self.ns.dns4}" + (f":{self.port}" if self.port != 443 else "") + "/dns-query"

    @property
    def tcp_url(self):
        return f"tcp://{self.ns.dns4}"

    @property
    def udp_url(self):
        return f"udp://{self.ns.dns4}"

    def asked(self):
        """The log's query lines: 'time unbound[..] info: SOURCE NAME TYPE CLASS'."""
        try:
            with open(self.log, encoding="utf-8", errors="replace") as f:
                return [line.split("info: ", 1)[1].split()[:3] for line in f if line.rstrip().endswith(" IN")]
        except FileNotFoundError:
            return []


class NoEdns:
    """Port 53 by UDP and TCP in front of unbound, as servers were before 1999: FORMERR to whatever has an OPT record (by UDP the
    bare header)."""

    def __init__(self, ns, addr):
        self.ns, self.addr = ns, addr
        self.refused = self.answered = 0
        self.udp = ns.call(lambda: self._bind(socket.SOCK_DGRAM))
        self.tcp = ns.call(lambda: self._bind(socket.SOCK_STREAM))
        self.tcp.listen(16)
        for f in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=f, daemon=True).start()

    def _bind(self, kind):
        s = socket.socket(socket.AF_INET, kind)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((self.addr, 53))
        return s

    def _answer(self, q, bare):
        if q[10:12] != b"\0\0":
            self.refused += 1
            if bare:
                return q[:2] + struct.pack(">5H", 0x8001, 0, 0, 0, 0)
            return q[:2] + struct.pack(">5H", 0x8001, 1, 0, 0, 0) + q[12:-11]  # its OPT has no options
        self.answered += 1
        s = self.ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with s:
            s.settimeout(5)
            s.sendto(q, (self.ns.dns4, 53))
            return s.recvfrom(65536)[0]

    def _serve_udp(self):
        while True:
            q, who = self.udp.recvfrom(4096)
            self.udp.sendto(self._answer(q, True), who)

    def _serve_tcp(self):
        while True:
            s, _ = self.tcp.accept()
            threading.Thread(target=self._serve_conn, args=(s,), daemon=True).start()

    def _serve_conn(self, s):
        with s, s.makefile("rb") as f:
            while len(head := f.read(2)) == 2:
                a = self._answer(f.read(struct.unpack(">H", head)[0]), False)
                s.sendall(struct.pack(">H", len(a)) + a)


class Internet:
    def __init__(self, ns):
        self.ns = ns
        addrs = (ns.web4, ns.web6)
        self.half_server_first = HalfServerFirst()
        self.web = Listener(ns, WEB, serve_web, addrs)
        self.echo = Listener(ns, ECHO, serve_echo, addrs)
        self.sink = Listener(ns, SINK, serve_sink, addrs)
        self.half_client = Listener(ns, HALF_CLIENT_FIRST, serve_half_client_first, addrs)
        self.half_server = Listener(ns, HALF_SERVER_FIRST, self.half_server_first, addrs)
        self.rst = Listener(ns, RST_BODY, serve_rst_body, addrs)
        self.udp_seen = []
        for a in addrs:
            s = ns.call(lambda a=a: self._udp(a))
            threading.Thread(target=self._udp_echo, args=(s,), daemon=True).start()

    @staticmethod
    def _udp(addr):
        s = socket.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET, socket.SOCK_DGRAM)
        s.bind((addr, UDP_ECHO))
        return s

    def _udp_echo(self, s):
        while True:
            data, who = s.recvfrom(65536)
            self.udp_seen.append(who[0])
            s.sendto(data, who)

    def all_seen(self):
        """Every address that any TCP or UDP server here has seen so far."""
        seen = set(self.udp_seen)
        for x in (self.web, self.echo, self.sink, self.half_client, self.half_server, self.rst):
            seen |= set(x.seen)
        return seen


def openssl_present():
    return subprocess.run(["openssl", "version"], capture_output=True).returncode == 0
