#!/usr/bin/env python3
"""Sends messages to a topic's partitions in turn, whichever there are.

    ./producer.py 127.0.0.1:2181 orders p1 sent-by-p1

The pool's items are the partitions, in the order of their names. They are watched, so the list
in memory is as new as can be, and it stays when every coordinator is away.

A message has the producer's id and a running number. It is sent until a broker acknowledges it,
so it may be in two partitions: when a broker dies before it has answered, nobody can know whether
the message is in there. The last argument is a file, which gets a line for every attempt:

    acknowledged PARTITION STREAM-ID NUMBER
    unanswered   PARTITION -         NUMBER
"""
import json
import signal
import sys
import threading

import redis
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from kazoo.handlers.threading import KazooTimeoutError
from redis.backoff import NoBackoff
from redis.retry import Retry

PACE_S = 0.01
ANSWER_S = 2

stopped = threading.Event()


class Partitions:
    """The partitions that there are, and a connection to each that was used."""

    def __init__(self, zk, topic):
        self.zk, self.topic, self.items = zk, topic, f"/rota/pools/{topic}/items"
        self.addresses = []  # (partition, address of its broker), in order; replaced as a whole
        self.brokers = {}
        zk.ChildrenWatch(self.items, self.saw_items)

    def saw_items(self, names):
        found = []
        for name in sorted(names):
            try:
                data, _ = self.zk.retry(self.zk.get, f"{self.items}/{name}")
                found.append((name, json.loads(data)["address"]))
            except NoNodeError:
                pass  # it went meanwhile, and we are called again
        self.addresses = found
        print("partitions:", *(name for name, _ in found))

    def send(self, partition, address, message):
        """The entry's id in the partition's stream, "" if nobody knows whether it is there, or None."""
        try:
            if (partition, address) not in self.brokers:
                self.brokers[partition, address] = connect(address)
        except redis.RedisError:
            return None
        try:
            return self.brokers[partition, address].xadd(f"{self.topic}:{partition}", message)
        except (redis.ConnectionError, redis.TimeoutError):
            del self.brokers[partition, address]
            return ""


def connect(address):
    host, port = address.rsplit(":", 1)
    # Nothing is sent again behind our back: it would be in the stream twice, and nobody would say so.
    limits = {"socket_timeout": ANSWER_S, "socket_connect_timeout": ANSWER_S, "retry": Retry(NoBackoff(), 0)}
    # It connects at once, so that a broker that is not there is known from one that does not answer.
    return redis.Redis(host, int(port), decode_responses=True, single_connection_client=True, **limits)


def produce(partitions, producer, log):
    number, turn = 1, 0
    while not stopped.wait(PACE_S):
        addresses = partitions.addresses
        if not addresses:
            continue
        partition, address = addresses[turn % len(addresses)]
        turn += 1
        entry = partitions.send(partition, address, {"producer": producer, "number": number})
        if entry:
            log.write(f"acknowledged {partition} {entry} {number}\n")
            number += 1
        elif entry == "":
            log.write(f"unanswered {partition} - {number}\n")


def main(servers, topic, producer, log):
    zk = KazooClient(servers)
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        zk.start()
    except KazooTimeoutError:
        return f"nobody serves at {servers}"
    try:
        if not zk.exists(f"/rota/pools/{topic}"):
            return f"there is no pool {topic}: rota pool create {topic} --kind named --strategy range"
        with open(log, "a", buffering=1) as file:
            produce(Partitions(zk, topic), producer, file)
    finally:
        zk.stop()


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(f"usage: {sys.argv[0]} ZOOKEEPER-HOST:PORT[,...] TOPIC PRODUCER FILE")
    sys.exit(main(*sys.argv[1:]))
