// Package cluster runs real clusters for tests and benchmarks, and breaks them: several processes of
// kvd or etcd, each on a network of its own, that can be killed, paused, cut off, slowed down, wiped
// and replaced while others go on.
//
// It knows processes, network namespaces and the few requests of the v2 API that a fault needs. It
// judges nothing: what clients were told is a matter of package history.
//
//	c, err := cluster.New(cluster.Config{Program: cluster.Etcd("/usr/bin/etcd"), Members: 3, Dir: t.TempDir()})
//	defer c.Close()
//	err = c.Start(ctx)
//	leader, err := c.Leader(ctx)
//	err = c.Cut(c.Around(leader)...)       // isolated from the other members, not from clients
//	err = c.Heal()
//
// With namespaces, each member has the ports 2379 and 2380 of its own address, and the caller reaches
// it through a switch that is a namespace as well. Everything hangs on processes that the kernel kills
// when their parent ends, so that an interrupted run leaves nothing behind, whatever interrupted it.
// Addresses are of 198.18.0.0/15, which is set apart for measurements, and an interface whose name
// belongs to the subnet claims it: runs side by side do not meet.
package cluster
