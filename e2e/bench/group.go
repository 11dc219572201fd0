package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/e2e/cluster"
)

// clusterSize is how many members every cluster has.
const clusterSize = 3

// group is a cluster under measurement.
type group struct {
	*cluster.Cluster
	name string // "kvd" or "etcd"
}

// startGroup starts a cluster on loopback with fresh data. The caller closes it, unless there is an error.
func (b *bench) startGroup(ctx context.Context, name, data string) (*group, error) {
	program, args := cluster.Etcd(b.etcd), []string(nil)
	if name == "kvd" {
		program, args = cluster.KVD(b.kvd), []string{"--log-level", "warn"}
	}
	dir := filepath.Join(b.dir, data+"."+name+"3")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	c, err := cluster.New(cluster.Config{Program: program, Members: clusterSize, Dir: dir, Args: args, Loopback: true})
	if err != nil {
		return nil, err
	}
	if err := c.Start(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("a cluster of %s: %w", name, err)
	}
	return &group{c, name}, nil
}

// startGroups starts one of kvd and one of etcd. The caller calls stop, also after an error.
func (b *bench) startGroups(ctx context.Context, data string) (groups []*group, stop func(), err error) {
	stop = func() {
		for _, g := range groups {
			g.Close()
		}
	}
	for _, name := range []string{"kvd", "etcd"} {
		g, err := b.startGroup(ctx, name, data)
		if err != nil {
			return groups, stop, err
		}
		groups = append(groups, g)
	}
	return groups, stop, nil
}

// at returns the group as a server that is asked through m. Its processor time is that of all members.
func (g *group) at(m *cluster.Member) *server {
	return &server{name: g.name, url: m.ClientURL, of: g.Members()}
}

// leaders returns each group as a server that is asked through its leader.
func leaders(ctx context.Context, groups []*group) ([]*server, error) {
	return through(ctx, groups, func(_ *group, leader *cluster.Member) *cluster.Member { return leader })
}

// followers does the same with a member that follows.
func followers(ctx context.Context, groups []*group) ([]*server, error) {
	return through(ctx, groups, func(g *group, leader *cluster.Member) *cluster.Member { return g.Others(leader)[0] })
}

func through(ctx context.Context, groups []*group, member func(g *group, leader *cluster.Member) *cluster.Member) ([]*server, error) {
	var servers []*server
	for _, g := range groups {
		leader, err := g.Leader(ctx)
		if err != nil {
			return nil, err
		}
		servers = append(servers, g.at(member(g, leader)))
	}
	return servers, nil
}

// figure returns one number of a table's row.
func (t table) figure(subject, name string) float64 {
	for _, r := range t.Rows {
		for _, f := range r.Figures {
			if r.Subject == subject && f.Name == name {
				return f.Value
			}
		}
	}
	return 0
}

// syncTime returns the median of what the disk takes for a write of 4 KiB and its fdatasync, one after
// the other into a file that has its blocks.
func (b *bench) syncTime(ctx context.Context) (time.Duration, error) {
	const block, blocks = 4 << 10, 1 << 10
	file, err := os.Create(filepath.Join(b.dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err := file.Write(make([]byte, block*blocks)); err != nil {
		return 0, err
	}
	if err := file.Sync(); err != nil {
		return 0, err
	}
	var took []time.Duration
	for end := time.Now().Add(min(b.duration, time.Second)); time.Now().Before(end) && ctx.Err() == nil; {
		begun := time.Now()
		if _, err := file.WriteAt(make([]byte, block), int64(len(took)%blocks*block)); err != nil {
			return 0, err
		}
		if err := syscall.Fdatasync(int(file.Fd())); err != nil {
			return 0, err
		}
		took = append(took, time.Since(begun))
	}
	if len(took) == 0 {
		return 0, ctx.Err()
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// timed is one write.
type timed struct {
	begun time.Time
	took  time.Duration
}

// between returns how long the writes took that were begun in a span of time.
func between(writes []timed, from, to time.Time) []time.Duration {
	var took []time.Duration
	for _, w := range writes {
		if w.begun.After(from) && w.begun.Before(to) {
			took = append(took, w.took)
		}
	}
	return took
}
