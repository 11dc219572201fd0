package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// runClusterPut compares writes on leaders, and sees how long the disk takes for one sync.
func runClusterPut(ctx context.Context, b *bench) ([]table, error) {
	groups, stop, err := b.startGroups(ctx, "put")
	defer stop()
	if err != nil {
		return nil, err
	}
	script := filepath.Join(b.dir, "put.lua")
	if err := os.WriteFile(script, []byte(putScript), 0o644); err != nil {
		return nil, err
	}
	var tables []table
	for _, c := range []struct {
		connections int
		ratio       float64
	}{{1, 1.8}, {64, 3}, {512, 4}} {
		servers, err := leaders(ctx, groups)
		if err != nil {
			return nil, err
		}
		before, err := b.syncTime(ctx)
		if err != nil {
			return nil, err
		}
		work := fmt.Sprintf("three members, PUT, %d connections", c.connections)
		t, err := b.race(ctx, work, load{connections: c.connections, script: script}, servers, target{"etcd", c.ratio})
		if err != nil {
			return nil, err
		}
		after, err := b.syncTime(ctx)
		if err != nil {
			return nil, err
		}
		t.Commands[0] = strings.Replace(t.Commands[0], script, "put.lua", 1)
		sync := (millis(before) + millis(after)) / 2
		t.Claims = append(t.Claims, claim{What: "fdatasync of 4 KiB beside it, p50 ms", Value: sync})
		switch c.connections {
		case 1:
			t.Claims = append(t.Claims, claim{What: "kvd, p50 ms", Value: t.figure("kvd", "p50 ms"), Target: 4*sync + 0.3})
		case 512:
			t.Claims = append(t.Claims, claim{What: "p99 of kvd / p50 of etcd", Value: t.figure("kvd", "p99 ms") / t.figure("etcd", "p50 ms"), Target: 1})
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// runClusterQuorumGet compares linearizable reads.
func runClusterQuorumGet(ctx context.Context, b *bench) ([]table, error) {
	groups, stop, err := b.startGroups(ctx, "quorum")
	defer stop()
	if err != nil {
		return nil, err
	}
	const key = "/bench/key"
	var tables []table
	for _, c := range []struct {
		where   string
		servers func(context.Context, []*group) ([]*server, error)
	}{{"the leader", leaders}, {"a follower", followers}} {
		servers, err := c.servers(ctx, groups)
		if err != nil {
			return nil, err
		}
		for _, s := range servers {
			if err := fill(ctx, s, 1, 1, func(int) string { return key }, strings.Repeat("v", 256)); err != nil {
				return nil, err
			}
		}
		work := fmt.Sprintf("three members, quorum GET on %s, 64 connections", c.where)
		t, err := b.race(ctx, work, load{connections: 64, path: "/v2/keys" + key + "?quorum=true"}, servers, target{"etcd", 4})
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// refreshKeys are how many keys are refreshed in turn, and refreshScript refreshes them.
const (
	refreshKeys   = 1000
	refreshScript = `
wrk.method = "PUT"
wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
local i = 0
request = function()
  i = (i + 7919) % 1000
  return wrk.format(nil, string.format("/v2/keys/bench/refresh/key-%05d", i), nil, "ttl=600&refresh=true&prevExist=true")
end
`
)

// runRefresh compares renewals of TTLs, which no watcher is to hear of.
func runRefresh(ctx context.Context, b *bench) ([]table, error) {
	groups, stop, err := b.startGroups(ctx, "refresh")
	defer stop()
	if err != nil {
		return nil, err
	}
	script := filepath.Join(b.dir, "refresh.lua")
	if err := os.WriteFile(script, []byte(refreshScript), 0o644); err != nil {
		return nil, err
	}
	servers, err := leaders(ctx, groups)
	if err != nil {
		return nil, err
	}
	keyOf := func(i int) string { return fmt.Sprintf("/bench/refresh/key-%05d", i) }
	var told []claim
	var ends []func() int64
	for _, s := range servers {
		if err := fillForms(ctx, s, refreshKeys, 16, keyOf, func() string { return "value=v&ttl=600" }); err != nil {
			return nil, err
		}
		end, err := countEvents(ctx, s.url+"/v2/keys/bench/refresh?wait=true&recursive=true&stream=true")
		if err != nil {
			return nil, err
		}
		ends = append(ends, end)
	}
	t, err := b.race(ctx, "three members, PUT with refresh=true, 64 connections", load{connections: 64, script: script}, servers, target{"etcd", 3})
	for i, end := range ends {
		told = append(told, claim{What: servers[i].name + ", events that a watcher was told of", Value: float64(end())})
	}
	if err != nil {
		return nil, err
	}
	t.Commands[0] = strings.Replace(t.Commands[0], script, "refresh.lua", 1)
	t.Claims = append(t.Claims, told...)
	return []table{t}, nil
}

// countEvents watches until end is called, which returns how many events there were.
func countEvents(ctx context.Context, url string) (end func() int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	response, err := http.DefaultClient.Do(request) // the header comes when it watches
	if err != nil {
		cancel()
		return nil, err
	}
	var count atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer response.Body.Close()
		for decoder := json.NewDecoder(response.Body); ; count.Add(1) {
			var event json.RawMessage
			if decoder.Decode(&event) != nil {
				return
			}
		}
	}()
	return func() int64 {
		cancel()
		<-done
		return count.Load()
	}, nil
}
