#!/usr/bin/python3
"""What python-etcd does, at the server whose URL is given.

    python.py http://127.0.0.1:2379

Prints what it does and ends with an error at the first wrong answer.
"""

import sys
import threading
from urllib.parse import urlparse

import etcd
import etcd.auth

server = urlparse(sys.argv[1])


def connect(**options):
    return etcd.Client(host=server.hostname, port=server.port, **options)


def equal(what, got, want):
    print(what, got)
    if got != want:
        sys.exit(f"FAILED: {what}: {got!r}, expected {want!r}")


def raises(what, error, act, *arguments, **options):
    print(what, "raises", error.__name__)
    try:
        got = act(*arguments, **options)
    except error:
        return
    sys.exit(f"FAILED: {what}: {got!r}, expected {error.__name__}")


def later(act, *arguments):
    """Does act in another thread, which is bounded by the time-outs of its client."""
    thread = threading.Thread(target=act, args=arguments, daemon=True)
    thread.start()
    return thread


client = connect(read_timeout=20)

print("== keys")
made = client.write("/p/a", "1")
equal("a new key", (made.action, made.key, made.value, made.newKey), ("set", "/p/a", "1", True))
equal("read", client.read("/p/a").value, "1")
equal("get", client.get("/p/a").value, "1")
equal("in", "/p/a" in client, True)
equal("not in", "/p/none" in client, False)
equal("set", client.set("/p/a", "2").value, "2")
client.write("/p/a", "ü <&> \u2028")
equal("a value of all sorts", client.read("/p/a").value, "ü <&> \u2028")
raises("read of nothing", etcd.EtcdKeyNotFound, client.read, "/p/none")
raises("a value for a directory", etcd.EtcdNotFile, client.write, "/p", "x")
raises("a key below a key", etcd.EtcdNotDir, client.write, "/p/a/b", "x")
raises("the root", etcd.EtcdRootReadOnly, client.write, "/", "x")
equal("quorum read", client.read("/p/a", quorum=True).key, "/p/a")

print("== comparing")
client.write("/p/c", "one")
equal("test_and_set", client.test_and_set("/p/c", "two", "one").action, "compareAndSwap")
raises("test_and_set of another value", etcd.EtcdCompareFailed, client.test_and_set, "/p/c", "three", "one")
index = client.read("/p/c").modifiedIndex
equal("prevIndex", client.write("/p/c", "three", prevIndex=index).value, "three")
raises("old prevIndex", etcd.EtcdCompareFailed, client.write, "/p/c", "four", prevIndex=index)
raises("prevExist=False", etcd.EtcdAlreadyExist, client.write, "/p/c", "x", prevExist=False)
equal("prevExist=True", client.write("/p/c", "four", prevExist=True).action, "update")
raises("prevExist=True of nothing", etcd.EtcdKeyNotFound, client.write, "/p/none", "x", prevExist=True)
result = client.read("/p/c")
result.value = "five"
equal("update", client.update(result).value, "five")
raises("update of what has changed", etcd.EtcdCompareFailed, client.update, result)
raises("delete of another value", etcd.EtcdCompareFailed, client.delete, "/p/c", prevValue="x")
equal("delete by value", client.delete("/p/c", prevValue="five").action, "compareAndDelete")
client.write("/p/c", "x")
equal("pop", client.pop("/p/c").value, "x")

print("== directories")
equal("mkdir", client.write("/p/d", None, dir=True).dir, True)
client.write("/p/d/x", "1")
client.write("/p/d/e/y", "2")
equal("leaves", sorted(n.key for n in client.read("/p/d", recursive=True).leaves), ["/p/d/e/y", "/p/d/x"])
equal("children", [n.key for n in client.read("/p/d", sorted=True).children], ["/p/d/e", "/p/d/x"])
equal("subtree", sorted(n.key for n in client.read("/p/d", recursive=True).get_subtree()), ["/p/d", "/p/d/e", "/p/d/e/y", "/p/d/x"])
raises("delete of a directory", etcd.EtcdNotFile, client.delete, "/p/d")
raises("delete of a full directory", etcd.EtcdDirNotEmpty, client.delete, "/p/d", dir=True)
equal("recursive delete", client.delete("/p/d", recursive=True).action, "delete")
first = client.write("/p/q", "first", append=True)
second = client.write("/p/q", "second", append=True)
equal("in-order keys", [n.value for n in client.read("/p/q", recursive=True, sorted=True).leaves], ["first", "second"])
equal("in-order names", first.key < second.key and len(first.key), len("/p/q/") + 20)

print("== time to live")
equal("ttl", client.write("/p/t", "1", ttl=300).ttl, 300)
equal("refresh", client.refresh("/p/t", 500).ttl, 500)
equal("refresh keeps the value", client.read("/p/t").value, "1")
raises("refresh of nothing", etcd.EtcdKeyNotFound, client.refresh, "/p/none", 10)
brief = client.write("/p/brief", "1", ttl=1)
equal("expiry", client.watch("/p/brief", index=brief.modifiedIndex + 1, timeout=15).action, "expire")
raises("an expired key", etcd.EtcdKeyNotFound, client.read, "/p/brief")

print("== watching")
past = client.write("/p/w", "1")
client.write("/p/w", "2")
equal("watch of the past", client.watch("/p/w", index=past.modifiedIndex).value, "1")
raises("a watch that sees nothing", etcd.EtcdWatchTimedOut, client.watch, "/p/w", timeout=1)
last = client.read("/p/w").modifiedIndex
writer = later(lambda: [connect().write(f"/p/s/{i}", str(i)) for i in range(3)])
seen = []
for event in client.eternal_watch("/p/s", index=last + 1, recursive=True):
    seen.append(event.value)
    if len(seen) == 3:
        break
writer.join(20)
equal("eternal watch", seen, ["0", "1", "2"])
for i in range(1001):
    client.write("/p/many", str(i))
raises("a watch of what is forgotten", etcd.EtcdEventIndexCleared, client.watch, "/p/w", index=past.modifiedIndex, timeout=15)

print("== locks")
mine, theirs = etcd.Lock(client, "one"), etcd.Lock(connect(read_timeout=20), "one")
equal("acquire", mine.acquire(blocking=True, lock_ttl=60), True)
equal("is acquired", mine.is_acquired, True)
equal("the other must wait", theirs.acquire(blocking=False), False)
waiting = later(lambda: theirs.acquire(blocking=True, lock_ttl=60, timeout=15))
mine.release()
waiting.join(20)
equal("the other has it now", theirs.is_acquired, True)
theirs.release()
with etcd.Lock(client, "two") as lock:
    equal("with", lock.is_acquired, True)
equal("after with", lock.is_acquired, False)

print("== the cluster")
machines = client.machines
equal("machines", [urlparse(m).port == server.port for m in machines], [True])
members = client.members
equal("members", [sorted(m) for m in members.values()], [["clientURLs", "id", "name", "peerURLs"]])
leader = client.leader
equal("the leader is a member", leader["id"] in members, True)
equal("its statistics", client.stats["id"] == leader["id"] and client.stats["state"], "StateLeader")
equal("leader statistics", client.leader_stats["leader"] == leader["id"], True)
equal("store statistics", client.store_stats["setsSuccess"] > 1000, True)
equal("version", (client.version[:2], client.cluster_version[:2]), ("3.", "3."))
again = connect(allow_reconnect=True, read_timeout=20)
equal("with a list of machines", again.read("/p/a").key, "/p/a")

print("== users and roles")
auth = etcd.auth.Auth(client)
equal("active", auth.active, False)
root = etcd.auth.EtcdUser(client, "root")
root.password = "secret"
root.write()
role = etcd.auth.EtcdRole(client, "worker")
role.grant("/tasks/*", "RW")
role.grant("/open/*", "R")
role.write()
role.read()
equal("a role", sorted(role.acls.items()), [("/open/*", "R"), ("/tasks/*", "RW")])
role.revoke("/open/*", "R")
role.write()
role.read()
equal("less of it", role.acls, {"/tasks/*": "RW"})
user = etcd.auth.EtcdUser(client, "ann")
user.password = "pass"
user.roles = ["worker"]
user.write()
auth.active = True
equal("active", auth.active, True)
boss = connect(username="root", password="secret")
ann = connect(username="ann", password="pass")
guest = etcd.auth.EtcdRole(boss, "guest")
guest.read()
equal("guest", guest.acls, {"/*": "RW"})
guest.acls = {}
guest.write()
equal("ann writes", ann.write("/tasks/a", "1").value, "1")
raises("ann reads what is not hers", etcd.EtcdInsufficientPermissions, ann.read, "/p/a")
raises("nobody reads", etcd.EtcdInsufficientPermissions, client.read, "/tasks/a")
raises("a wrong password", etcd.EtcdInsufficientPermissions, connect(username="ann", password="no").read, "/tasks/a")
raises("ann reads a role", etcd.EtcdInsufficientPermissions, etcd.auth.EtcdRole(ann, "worker").read)
equal("root reads", boss.read("/p/a").key, "/p/a")
equal("names", sorted(r["role"] for r in role.__class__(boss, "x").names), ["guest", "root", "worker"])
etcd.auth.EtcdUser(boss, "ann").delete()
etcd.auth.EtcdRole(boss, "worker").delete()
etcd.auth.Auth(boss).active = False
equal("active", auth.active, False)
print("== done")
