"""A proxy whose every move a test writes down: runs as threads of the test program, on a port of the proxy namespace.

Scripted(ns, script) calls script(conn, session) for each connection. What clients sent is kept (requests, bytes), so a
test can say that a destination was never asked for, or credentials were sent only once.
"""
import ipaddress
import socket
import struct
import threading

SUCCESS4 = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"


class Session:
    """What one client connection sent."""

    def __init__(self):
        self.raw = b""
        self.methods = self.user = self.password = self.target = None
        self.ended = False


class Scripted:
    scheme = "socks5"

    def __init__(self, ns, script, port=1090, scheme="socks5", rcvbuf=0, patience=120):
        self.ns, self.script, self.port, self.scheme, self.rcvbuf = ns, script, port, scheme, rcvbuf
        self.patience = patience  # seconds of silence that it bears
        self.sessions = []
        self.open = 0
        self._lock = threading.Lock()
        self._conns = set()
        self._sock = ns.call(self._listen)
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, credentials=None):
        c = f"{credentials}@" if isinstance(credentials, str) else ""
        return f"{self.scheme}://{c}{self.ns.ip4}:{self.port}"

    def sources(self):
        return {self.ns.ip4, self.ns.ip6}

    def targets(self):
        return [s.target for s in self.sessions if s.target]

    def close(self):
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        with self._lock:
            conns = list(self._conns)
        for c in conns:
            try:
                c.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def open_to(self, target):
        """Open connections that asked for target: the node has others of its own (DNS, checks)."""
        with self._lock:
            return sum(1 for s in self.sessions if s.target == target and not s.ended)

    def _listen(self):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.rcvbuf:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.rcvbuf)
        s.bind((self.ns.ip4, self.port))
        s.listen(1024)
        return s

    def _accept(self):
        while True:
            try:
                conn, _ = self._sock.accept()
            except OSError:
                return
            session = Session()
            with self._lock:
                self.sessions.append(session)
                self._conns.add(conn)
                self.open += 1
            threading.Thread(target=self._run, args=(conn, session), daemon=True).start()

    def _run(self, conn, session):
        try:
            conn.settimeout(self.patience)
            self.script(conn, session)
        except OSError:
            pass
        finally:
            with self._lock:
                self.open -= 1
                session.ended = True
                self._conns.discard(conn)
            conn.close()


def take(conn, session, n):
    data = b""
    while len(data) < n:
        more = conn.recv(n - len(data))
        if not more:
            raise ConnectionError("the client left")
        data += more
        session.raw += more
    return data


def socks_greeting(conn, session):
    """Reads the greeting; answers no authentication, or asks for and accepts any password when only that is offered."""
    _, n = take(conn, session, 2)
    session.methods = take(conn, session, n)
    if b"\x00" in session.methods:
        conn.sendall(b"\x05\x00")
    else:
        conn.sendall(b"\x05\x02")
        socks_password(conn, session)
        conn.sendall(b"\x01\x00")


def socks_password(conn, session):
    _, n = take(conn, session, 2)
    session.user = take(conn, session, n)
    session.password = take(conn, session, take(conn, session, 1)[0])


def socks_request(conn, session):
    """Reads the request and returns (host, port)."""
    head = take(conn, session, 4)
    if head[3] == 1:
        host = socket.inet_ntoa(take(conn, session, 4))
    elif head[3] == 4:
        host = str(ipaddress.IPv6Address(take(conn, session, 16)))
    else:
        host = take(conn, session, take(conn, session, 1)[0]).decode("latin-1")
    port = struct.unpack(">H", take(conn, session, 2))[0]
    session.target = (host, port)
    return session.target


def http_head(conn, session):
    """Reads a CONNECT request's head and returns it as text."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += take(conn, session, 1)
    words = head.split(b" ")
    if words[0] == b"CONNECT":
        host, port = words[1].decode("latin-1").rsplit(":", 1)
        session.target = (host.strip("[]"), int(port))
    return head.decode("latin-1")


def echo(conn):
    while data := conn.recv(65536):
        conn.sendall(data)


def dial(ns, target):
    """A connection from ns."""
    up = ns.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
    up.settimeout(120)
    up.connect(target)
    return up


def relay(up, conn):
    """Pumps both ways until both sides have ended; half-close is passed on. It bears silence as long as its client's connection does."""
    up.settimeout(conn.gettimeout())

    def pump(a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        except OSError:  # a reset of one side is the end of both
            for s in (a, b):
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
    t = threading.Thread(target=pump, args=(up, conn), daemon=True)
    t.start()
    pump(conn, up)
    t.join()
    up.close()


def honest(ns):
    """A script that behaves: SOCKS5 that connects, says how that went, and relays."""
    def script(conn, session):
        socks_greeting(conn, session)
        target = socks_request(conn, session)
        try:
            up = dial(ns, target)
        except OSError:
            conn.sendall(b"\x05\x05" + SUCCESS4[2:])
            return
        conn.sendall(SUCCESS4)
        relay(up, conn)
    return script


def hang(conn, session):
    """Accepts and never answers."""
    while data := conn.recv(4096):
        session.raw += data


def refuse_with(rep):
    def script(conn, session):
        socks_greeting(conn, session)
        socks_request(conn, session)
        conn.sendall(b"\x05" + bytes([rep]) + SUCCESS4[2:])
    return script
