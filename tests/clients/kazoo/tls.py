"""Clients with and without a certificate. Arguments: the servers with TLS, those without,
the authority, the client's certificate, its key, and the name in it."""
import sys

from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.security import make_acl

secure, plain, authority, certificate, key, name = sys.argv[1:]

own = KazooClient(secure, use_ssl=True, ca=authority, certfile=certificate, keyfile=key)
own.start()
own.create("/mine", b"secret", acl=[make_acl("x509", name, all=True)])
assert own.get("/mine")[0] == b"secret"
print("ok the certificate's name is an identity")

other = KazooClient(plain)
other.start()
try:
    other.get("/mine")
    sys.exit("a client without that certificate reads the node")
except NoAuthError:
    print("ok it is nobody else's")
other.stop()

stranger = KazooClient(secure, use_ssl=True, ca=authority, timeout=4)
try:
    stranger.start(timeout=4)
    sys.exit("a client without a certificate is let in")
except KazooTimeoutError:
    print("ok without a certificate nobody is let in")
stranger.stop()
own.stop()
