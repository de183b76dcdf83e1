#!/usr/bin/env python3
"""Consumes one partition: the command that a worker runs for each bucket that it owns.

    rota worker --pool orders --name c1 --exec 'exec ./consumer.py consumed'

The worker says in the environment which partition it is, where, and how far it was consumed; it
takes the lines `checkpoint POSITION`, and it sends TERM when the partition is to pass on.

What is consumed is written first, then comes the checkpoint. So nothing is left out, whoever is
killed; what was written after the last checkpoint that got through, the next owner writes once more.
It writes to a file of its own: the fence in its name is larger than that of any former owner.
"""
import json
import os
import signal
import sys
import threading

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

WAIT_MS = 200  # for messages; TERM is seen after this at the latest
ANSWER_S = 2
BATCH = 100

stopped = threading.Event()


def consume(broker, key, position, file):
    while not stopped.is_set():
        try:
            streams = broker.xread({key: position}, count=BATCH, block=WAIT_MS)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            # If the broker stays away, its items go, and we are told to stop.
            print("progress waiting for the broker:", error, flush=True)
            stopped.wait(WAIT_MS / 1000)
            continue
        for _, messages in streams:
            file.writelines(f"{entry} {m['producer']} {m['number']}\n" for entry, m in messages)
            file.flush()
            position = messages[-1][0]
            print("checkpoint", position, flush=True)


def main(folder):
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    env = os.environ
    partition, fence, member = env["ROTA_BUCKET"], int(env["ROTA_FENCE"]), env["ROTA_MEMBER"]
    host, port = json.loads(env["ROTA_ITEM"])["address"].rsplit(":", 1)
    once = Retry(NoBackoff(), 0)
    broker = redis.Redis(host, int(port), decode_responses=True, socket_timeout=ANSWER_S, retry=once)
    position = env["ROTA_CHECKPOINT"] or "0-0"
    print("progress consuming from", position, flush=True)
    with open(f"{folder}/{partition}.{fence}.{member}", "a") as file:
        consume(broker, f"{env['ROTA_POOL']}:{partition}", position, file)


if __name__ == "__main__":
    if len(sys.argv) != 2 or "ROTA_ITEM" not in os.environ:
        sys.exit(f"usage: rota worker --pool TOPIC --exec 'exec {sys.argv[0]} FOLDER', in a pool of kind named")
    sys.exit(main(sys.argv[1]))
