"""A client that asks for much, takes none of it for longer than its session may be
silent, and pings meanwhile: its session lives, and all its answers come. Arguments:
HOST:PORT, then for TLS the authority, the client's certificate and its key."""
import socket
import ssl
import struct
import sys

TIMEOUT_MS = 2_000
PING, CREATE, GET, EXISTS = 11, 1, 4, 3
XID_PING = -2
ANSWERS = 64
DATA = b"x" * 900_000
PATIENCE = 30


def text(path):
    return struct.pack(">i", len(path)) + path.encode()


def frame(body):
    return struct.pack(">i", len(body)) + body


class Client:
    def __init__(self, address, tls):
        host, port = address.split(":")
        self.socket = socket.socket()
        # What the system keeps for a reader that does not read is little.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        self.socket.connect((host, int(port)))
        if tls:
            authority, certificate, key = tls
            context = ssl.create_default_context(cafile=authority)
            context.load_cert_chain(certificate, key)
            self.socket = context.wrap_socket(self.socket, server_hostname=host)
        self.socket.settimeout(PATIENCE)
        hello = struct.pack(">iqiqi", 0, 0, TIMEOUT_MS, 0, 16) + bytes(17)
        self.socket.sendall(frame(hello))
        greeting = self.packet()
        self.timeout_ms, self.session = struct.unpack(">iq", greeting[4:16])
        assert self.session, "no session"

    def send(self, xid, op, body=b""):
        self.socket.sendall(frame(struct.pack(">ii", xid, op) + body))

    def packet(self):
        (length,) = struct.unpack(">i", self.bytes(4))
        return self.bytes(length)

    def bytes(self, length):
        got = bytearray()
        while len(got) < length:
            part = self.socket.recv(length - len(got))
            if not part:
                raise EOFError("the server closed the connection")
            got += part
        return bytes(got)

    def answer(self):
        """Its xid and error."""
        packet = self.packet()
        xid, _, error = struct.unpack(">iqi", packet[:16])
        return xid, error, len(packet)


address, *tls = sys.argv[1:]
slow = Client(address, tls)
open_acl = struct.pack(">ii", 1, 31) + text("world") + text("anyone")
path = f"/slow-{'tls' if tls else 'plain'}"
slow.send(1, CREATE, text(path) + struct.pack(">i", len(DATA)) + DATA + open_acl + struct.pack(">i", 0))
assert slow.answer()[:2] == (1, 0), "no node"
for xid in range(2, 2 + ANSWERS):
    slow.send(xid, GET, text(path) + b"\0")

# One that says nothing measures the time: its session ends, and so does its connection.
for _ in range(2):
    silent = Client(address, tls)
    assert silent.timeout_ms == TIMEOUT_MS, silent.timeout_ms
    silent.socket.settimeout(TIMEOUT_MS / 1000 / 5)
    pings = 0
    while True:
        try:
            assert silent.socket.recv(1) == b"", "an answer to nothing"
            break
        except TimeoutError:
            slow.send(XID_PING, PING)
            pings += 1
            assert pings < 100, "a silent session does not end"
print("ok the time of a session is over, twice")

slow.send(2 + ANSWERS, EXISTS, text(path) + b"\0")
due = 2
while due <= 2 + ANSWERS:
    xid, error, length = slow.answer()
    if xid == XID_PING:
        continue
    assert (xid, error) == (due, 0), (xid, error, due)
    assert due == 2 + ANSWERS or length > len(DATA), length
    due += 1
    slow.send(XID_PING, PING)
print("ok every answer came, in order")
