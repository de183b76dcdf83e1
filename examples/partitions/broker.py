#!/usr/bin/env python3
"""Keeps a broker's partitions in the pool for as long as the broker answers.

    pip install kazoo redis
    rota pool create orders --kind named --strategy range
    redis-server --port 6379 &
    ./broker.py 127.0.0.1:2181 orders 127.0.0.1:6379 b1-0 b1-1 b1-2

It stands next to a Redis server, which knows nothing of Rota. Each partition is an item of the
pool, an ephemeral node that says where the partition is. When the broker is gone, so are its
items: producers send to the others, and consumers of its partitions stop. When it is back, its
items come again, and the partitions go on from their checkpoints. Should this process be the one
that dies, its items go when its session is over.
"""
import json
import signal
import sys
import threading

import redis
from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import KazooException, NodeExistsError, NoNodeError, RolledBackError
from kazoo.handlers.threading import KazooTimeoutError
from redis.backoff import NoBackoff
from redis.retry import Retry

PACE_S = 0.1
ANSWER_S = 2  # a broker that takes longer is as good as gone
SESSION_S = 5.0
AGAIN_S = 1

stopped = threading.Event()


def answers(broker):
    try:
        return broker.ping()
    except redis.RedisError:  # gone, or it is back and still reads what it had stored
        return False


def keep_registered(servers, topic, address, partitions, broker):
    """One life of the broker, in a session of its own: the items are there as long as that is."""
    zk, lost = KazooClient(servers, timeout=SESSION_S), threading.Event()
    zk.add_listener(lambda state: lost.set() if state == KazooState.LOST else None)
    try:
        zk.start()
        create_items(zk, topic, address, partitions)
        print("registered:", *partitions)
        while answers(broker) and not lost.is_set() and not stopped.wait(PACE_S):
            pass
    finally:
        zk.stop()  # ends the session, and the items with it
        zk.close()
    print("gone:", *partitions)


def create_items(zk, topic, address, partitions):
    """All or none: they appear in one moment, as they go in one, and there is one new plan for all."""
    item, all_of_them = json.dumps({"address": address}).encode(), zk.transaction()
    for partition in partitions:
        all_of_them.create(f"/rota/pools/{topic}/items/{partition}", item, ephemeral=True)
    for result in all_of_them.commit():
        if isinstance(result, KazooException) and not isinstance(result, RolledBackError):
            raise result


def main(servers, topic, address, *partitions):
    host, port = address.rsplit(":", 1)
    once = Retry(NoBackoff(), 0)
    broker = redis.Redis(host, int(port), socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S, retry=once)
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    while not stopped.wait(PACE_S):
        if not answers(broker):
            continue
        try:
            keep_registered(servers, topic, address, partitions, broker)
        except NoNodeError:
            return f"there is no pool {topic}: rota pool create {topic} --kind named --strategy range"
        except NodeExistsError:
            print("partitions of these names are there, trying again: items of a process that was killed"
                  " stay for as long as its session")
            stopped.wait(AGAIN_S)
        except (KazooException, KazooTimeoutError) as error:
            print("not registered, trying again:", type(error).__name__, error)
            stopped.wait(AGAIN_S)


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(f"usage: {sys.argv[0]} ZOOKEEPER-HOST:PORT[,...] TOPIC BROKER-HOST:PORT PARTITION...")
    sys.exit(main(*sys.argv[1:]))
