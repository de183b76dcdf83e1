"""A pytest plugin: kazoo's own test suite against servers that run already.

The suite would start ZooKeeper by itself. With this plugin it gets whoever started
pytest to do that, who says by environment variables what there is:

    SUITE_SERVERS          host:port,...  where the servers serve clients
    SUITE_REPORT           a file to append what became of each test to, one JSON object a line
    SUITE_CONTROL          a Unix socket: a line `stop N` or `run N` on a connection of its own stops or
                           starts server N, counted from 1, and is answered by a line when that is done.
                           Without it, a test that stops a server fails
    SUITE_SECURE_SERVERS, SUITE_CLIENT_KEY, SUITE_CLIENT_CERT, SUITE_CA_CERT
                           where the servers serve clients with TLS, and PEM files for a client.
                           Without them, tests of TLS are skipped, and say so
"""
import json
import os
import socket

import pytest

import kazoo.testing.harness as harness

# The TLS client's files, by the names that kazoo has for them.
TLS_FILES = {"client_key": "SUITE_CLIENT_KEY", "client_cert": "SUITE_CLIENT_CERT", "ca_cert": "SUITE_CA_CERT"}
WITHOUT_TLS = "the servers have no TLS: SUITE_SECURE_SERVERS is not set"


class Server:
    """One server, as kazoo's tests see a ManagedZooKeeper."""

    def __init__(self, number, address, secure_address):
        self.number, self.address, self.secure_address = number, address, secure_address
        self.running = True

    def stop(self):
        if self.running:
            self._control("stop")
            self.running = False

    def run(self):
        if not self.running:
            self._control("run")
            self.running = True

    def _control(self, verb):
        path = os.environ.get("SUITE_CONTROL")
        if path is None:
            raise RuntimeError("this part of the suite shares its servers with others: it cannot stop them")
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(path)
            control.sendall(f"{verb} {self.number}\n".encode())
            answer = control.makefile().readline()
        if answer != "done\n":
            raise RuntimeError(f"{verb} {self.number}: {answer or 'no answer'}")


class Cluster:
    """All servers, as kazoo's tests see a ZookeeperCluster."""

    def __init__(self, servers):
        self.servers = servers

    def __getitem__(self, index):
        return self.servers[index]

    def __iter__(self):
        return iter(self.servers)

    def start(self):
        for server in self.servers:
            server.run()

    def terminate(self):
        """The servers stay, for the next test."""

    def get_logs(self):
        """Whoever started the servers has them."""
        return []

    def get_ssl_client_configuration(self):
        def read(variable):
            with open(os.environ[variable], "rb") as file:
                return file.read()

        return {name: read(variable) for name, variable in TLS_FILES.items()}


def addresses(variable, default=""):
    return os.environ.get(variable, default).split(",")


SERVERS = os.environ["SUITE_SERVERS"]
CLUSTER = Cluster(
    [
        Server(number, *pair)
        for number, pair in enumerate(zip(addresses("SUITE_SERVERS"), addresses("SUITE_SECURE_SERVERS", SERVERS)), 1)
    ]
)
harness.get_global_cluster = lambda: CLUSTER


def pytest_collection_modifyitems(items):
    if "SUITE_SECURE_SERVERS" not in os.environ:
        for item in items:
            if "TestSSLClient" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=WITHOUT_TLS))


class Report:
    """Writes down what became of each test: a test has passed when all its phases have."""

    def __init__(self, file):
        self.file = file
        self.outcome, self.why = "passed", ""

    def pytest_runtest_logreport(self, report):
        if not report.passed and self.outcome == "passed":
            self.outcome, self.why = report.outcome, report.longreprtext.strip()
        if report.when == "teardown":
            entry = {"test": report.nodeid, "outcome": self.outcome, "why": self.why}
            self.file.write(json.dumps(entry) + "\n")
            self.file.flush()
            self.outcome, self.why = "passed", ""


def pytest_configure(config):
    config.pluginmanager.register(Report(open(os.environ["SUITE_REPORT"], "a", encoding="utf-8")))
