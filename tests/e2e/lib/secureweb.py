"""What real tools talk to inside the test internet: a web server behind TLS that also speaks git's smart HTTP (by git's own
http-backend) and websockets, and an SSH server (dropbear). Threads of the test program, but for git and dropbear."""
import base64
import hashlib
import http.server
import os
import socketserver
import ssl
import subprocess
import threading

from . import proxies
from .proc import wait_until

WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args):
        pass

    def do_GET(self):
        if self.path == "/ip":
            return self._answer(f"{self.client_address[0]}\n".encode())
        if self.path == "/ws":
            return self._websocket()
        return self._git()

    def do_POST(self):
        return self._git()

    def _answer(self, body, status=200, headers=(("Content-Type", "text/plain"),)):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _git(self):
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        env = dict(os.environ, GIT_PROJECT_ROOT=self.server.repositories, GIT_HTTP_EXPORT_ALL="1", REMOTE_USER="test",
                   REQUEST_METHOD=self.command, PATH_INFO=path, QUERY_STRING=query, CONTENT_LENGTH=str(len(body)),
                   CONTENT_TYPE=self.headers.get("Content-Type", ""), HTTP_CONTENT_ENCODING=self.headers.get("Content-Encoding", ""),
                   GIT_PROTOCOL=self.headers.get("Git-Protocol", ""), HOME=self.server.repositories)
        said = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=False).stdout
        head, _, page = said.partition(b"\r\n\r\n")
        headers = [line.decode("latin-1").split(": ", 1) for line in head.split(b"\r\n") if b": " in line]
        status = next((int(v.split()[0]) for n, v in headers if n == "Status"), 200)
        self._answer(page, status, [h for h in headers if h[0] != "Status"])

    def _websocket(self):
        accept = base64.b64encode(hashlib.sha1(self.headers["Sec-WebSocket-Key"].encode() + WEBSOCKET_GUID).digest())
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        self.close_connection = True
        self.server.websockets.append(self)
        while text := read_frame(self.rfile):
            self.say(b"heard " + text)

    def say(self, text):
        self.wfile.write(bytes((0x81, len(text))) + text)


def read_frame(f):
    """The text of one short frame, masked or not; None at the end."""
    head = f.read(2)
    if len(head) < 2 or head[0] != 0x81:
        return None
    mask = f.read(4) if head[1] & 0x80 else bytes(4)
    return bytes(c ^ mask[i % 4] for i, c in enumerate(f.read(head[1] & 0x7f)))


def masked_frame(text):
    mask = os.urandom(4)
    return bytes((0x81, 0x80 | len(text))) + mask + bytes(c ^ mask[i % 4] for i, c in enumerate(text))


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def finish_request(self, request, client_address):
        """On the connection's own thread, so that one slow handshake holds up nobody."""
        self.RequestHandlerClass(self.tls.wrap_socket(request, server_side=True), client_address, self)

    def handle_error(self, request, client_address):
        pass


class SecureWeb:
    """https://WEB4/: /ip, /ws, and /NAME.git for each repository in .repositories."""

    def __init__(self, ns, workdir, port=443):
        self.dir = os.path.join(workdir, "secureweb")
        self.repositories = os.path.join(self.dir, "git")
        os.makedirs(self.repositories, exist_ok=True)
        self.host = ns.web4
        self.cert, self.key = proxies.make_certificate(self.dir, ns.web4)
        self.server = ns.call(lambda: _Server((ns.web4, port), _Handler))
        self.server.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.server.tls.load_cert_chain(self.cert, self.key)
        self.server.repositories = self.repositories
        self.server.websockets = []
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def websockets(self):
        return self.server.websockets

    def websocket(self, sock):
        """Speaks the handshake on a connected socket; returns (TLS socket, its reader)."""
        tls = ssl.create_default_context(cafile=self.cert).wrap_socket(sock, server_hostname=self.host)
        key = base64.b64encode(os.urandom(16))
        tls.sendall(b"GET /ws HTTP/1.1\r\nHost: " + self.host.encode() + b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Key: " + key + b"\r\nSec-WebSocket-Version: 13\r\n\r\n")
        f = tls.makefile("rb")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += f.readline() or b"\r\n\r\n"
        if base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest()) not in head:
            raise AssertionError(f"no websocket: {head!r}")
        return tls, f

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Dropbear:
    """An SSH server whose root lives in the test's directory, and the key that lets one in. Needs the machine's root."""

    def __init__(self, sup, ns, workdir, port=22):
        self.home = os.path.join(workdir, "ssh")
        os.makedirs(os.path.join(self.home, ".ssh"), mode=0o700, exist_ok=True)
        self.key, host_key = os.path.join(self.home, "id"), os.path.join(self.home, "host")
        for path in (self.key, host_key):
            made = subprocess.run(["dropbearkey", "-t", "ed25519", "-f", path], check=True, capture_output=True, text=True)
            if path == self.key:
                public = next(line for line in made.stdout.splitlines() if line.startswith("ssh-ed25519"))
        with open(os.path.join(self.home, ".ssh", "authorized_keys"), "w", encoding="ascii") as f:
            f.write(public + "\n")
        passwd = os.path.join(self.home, "passwd")
        with open(passwd, "w", encoding="ascii") as f:
            f.write(f"root:x:0:0:root:{self.home}:/bin/sh\n")
        script = 'mount --bind "$0" /etc/passwd && exec dropbear -F -E -m -s -r "$1" -p "$2"'
        self.proc = sup.start("dropbear", ["sh", "-c", script, passwd, host_key, f"{ns.web4}:{port}"], ns=ns)
        wait_until(lambda: proxies.listening(ns, ns.web4, port), "dropbear listens", alive=[self.proc])

    def stop(self):
        self.proc.stop()
