// Package clients is a test only: programs that were written for etcd's v2 API do their usual work
// against kvd, unchanged. Each has a script here that does all the client can do, prints it, and
// ends at the first wrong answer:
//
//	etcdctl.sh          etcdctl, the way it talks with ETCDCTL_API=2
//	etcdctl-auth.sh     etcdctl, users and roles
//	python.py           python-etcd, as Debian packages it
//	node/check.js       node-etcd, from npm
//
// The test runs each against a real etcd first, which proves the script right, and then against
// kvd; what is printed must be the same. By hand: sh e2e/clients/etcdctl.sh http://127.0.0.1:2379
package clients
