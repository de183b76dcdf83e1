"""Takes one step of examples/kazoo_worker.py in a bucket, as an owner that knows the row by this version.

    stale_owner.py SERVERS POOL BUCKET VERSION        with the example's folder in PYTHONPATH
"""
import sys
from types import SimpleNamespace

from kazoo.client import KazooClient

from kazoo_worker import Worker

servers, pool, bucket, version = sys.argv[1:]
zk = KazooClient(servers)
zk.start()
worker = Worker(zk, pool, "late")
worker.step(bucket, SimpleNamespace(version=int(version), mzxid=1))
print("accepted" if bucket in worker.counts else "not accepted")
zk.stop()
zk.close()
