#!/usr/bin/env python3
"""A worker in Python that speaks to Rota as to ZooKeeper: with kazoo, and nothing else.

    pip install kazoo
    rota pool create work --buckets 8
    examples/kazoo_worker.py 127.0.0.1:2181 work w1

For pools whose buckets have one owner each. It counts in every bucket that it owns, ten times a second, and puts the count down as the
bucket's checkpoint. Whoever owns the bucket next, in whatever language, counts on from there.

What every worker must keep to:

* A bucket is its own while the row names it, as it joined this time, and it is connected. A worker
  that is cut off stops: its session may have ended, and the bucket may be another's.
* What it puts down goes with a check of the row's version, all or nothing. The row changes whenever
  the owner does, so an owner that does not know yet that it is one no more is refused.
* When the plan has the bucket moved away, it stops, then empties the row. The next owner begins.
"""
import functools
import json
import signal
import sys
import time

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import BadVersionError, KazooException, NodeExistsError, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError

PACE_S = 0.1


class Worker:
    def __init__(self, zk, pool, name):
        self.zk, self.root, self.name, self.joined = zk, f"/rota/pools/{pool}", name, None
        self.rows = {}  # by bucket: the owners, and the row's Stat
        self.moves = {}  # by bucket: the fence of the grant that is to end
        self.counts = {}  # by bucket: the fence, the count, and the version of the checkpoint's node
        self.ended = None

    def join(self):
        """Becomes a member, for as long as the session lives, and follows what the table says."""
        path, data = f"{self.root}/members/{self.name}", json.dumps({"address": "", "weight": 1})
        _, stat = self.zk.create(path, data.encode(), ephemeral=True, include_data=True)
        self.joined = stat.czxid
        self.zk.DataWatch(path, self.saw_member)
        self.zk.DataWatch(f"{self.root}/plan", self.saw_plan)
        self.zk.ChildrenWatch(f"{self.root}/buckets", self.saw_buckets)

    def saw_member(self, data, stat):
        if stat is None:
            self.ended = "no member any more: somebody took it out, or deleted the pool"

    def saw_plan(self, data, stat):
        moves = json.loads(data)["moves"] if data else []
        self.moves = {move["bucket"]: move["fence"] for move in moves if move.get("from") == self.name}

    def saw_buckets(self, buckets):
        for bucket in set(buckets) - set(self.rows):
            self.zk.DataWatch(f"{self.root}/buckets/{bucket}", functools.partial(self.saw_row, bucket))

    def saw_row(self, bucket, data, stat):
        if stat is None:
            self.rows.pop(bucket, None)
            return False  # ends the watch: saw_buckets begins another if the row comes back
        self.rows[bucket] = (json.loads(data)["owners"], stat)

    def work(self):
        """One round: a step in every bucket of our own, except where it is to be released."""
        for bucket, (owners, stat) in list(self.rows.items()):
            if not any(o["member"] == self.name and o["joined"] == self.joined for o in owners[:1]):
                self.counts.pop(bucket, None)
            elif self.moves.get(bucket) == stat.mzxid:
                self.release(bucket, stat)
            else:
                self.step(bucket, stat)

    def step(self, bucket, stat):
        fence, count, version = self.counts.pop(bucket, (None, 0, None))
        if fence != stat.mzxid:
            count, version = self.take(bucket)
        count += 1  # the work
        path, data = f"{self.root}/checkpoints/{bucket}", str(count).encode()
        both = self.zk.transaction()
        both.check(f"{self.root}/buckets/{bucket}", stat.version)
        if version is None:
            both.create(path, data)
        else:
            both.set_data(path, data, version)
        row, checkpoint = both.commit()
        if isinstance(checkpoint, Exception):  # whoever it was: before the next step, the checkpoint is read
            print("refused", bucket, type(row).__name__, type(checkpoint).__name__)
        else:
            self.counts[bucket] = (stat.mzxid, count, 0 if version is None else checkpoint.version)

    def take(self, bucket):
        """Where the former owner stopped, and the version of the node that says so."""
        try:
            data, stat = self.zk.get(f"{self.root}/checkpoints/{bucket}")
            count, version = int(data), stat.version
        except NoNodeError:
            count, version = 0, None
        print("took", bucket, "at", count)
        return count, version

    def release(self, bucket, stat):
        self.counts.pop(bucket, None)
        try:
            self.zk.set(f"{self.root}/buckets/{bucket}", b'{"owners":[]}', stat.version)
            print("released", bucket)
        except BadVersionError:
            pass  # that was us, a moment ago


def main(servers, pool, name, timeout_s="10"):
    zk = KazooClient(servers, timeout=float(timeout_s))
    worker = Worker(zk, pool, name)

    def saw_state(state):
        if state == KazooState.LOST:
            worker.ended = "the session has ended: the buckets are with others"

    def told_to_stop(*_):
        worker.ended = 0

    try:
        zk.start()
    except KazooTimeoutError:
        return f"nobody serves at {servers}"
    zk.add_listener(saw_state)
    signal.signal(signal.SIGTERM, told_to_stop)
    try:
        worker.join()
        while worker.ended is None:
            try:
                if zk.connected:
                    worker.work()
            except KazooException as error:  # cut off in the middle: see what was done when we are back
                print("interrupted:", type(error).__name__)
                worker.counts.clear()
            time.sleep(PACE_S)
        return worker.ended
    except NoNodeError:
        return f"there is no pool {pool}: rota pool create {pool} --buckets 8"
    except NodeExistsError:
        return f"{name} is a member already; one that was killed stays for as long as its session"
    finally:
        zk.stop()  # ends the session: what we still owned is granted to others at once


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(f"usage: {sys.argv[0]} HOST:PORT[,...] POOL NAME [TIMEOUT_S]")
    sys.exit(main(*sys.argv[1:]))
