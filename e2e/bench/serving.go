package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// runGet compares GETs of one key.
func runGet(ctx context.Context, b *bench) ([]table, error) {
	servers, stop, err := b.startAll(ctx, "get", true)
	defer stop()
	if err != nil {
		return nil, err
	}
	const key = "/bench/key"
	for _, s := range servers[:2] {
		if err := fill(ctx, s, 1, 1, func(int) string { return key }, strings.Repeat("v", 256)); err != nil {
			return nil, err
		}
	}
	canned, err := b.startCanned(ctx, servers[0].url+"/v2/keys"+key)
	defer canned.kill()
	if err != nil {
		return nil, err
	}
	servers = append(servers[:len(servers):len(servers)], canned)
	var tables []table
	for _, connections := range []int{64, 512} {
		work := fmt.Sprintf("GET, %d connections", connections)
		t, err := b.race(ctx, work, load{connections: connections, path: "/v2/keys" + key}, servers, target{"etcd", 2}, target{"nothing", 0.85}, target{"canned", 0})
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// runList compares GETs of a directory.
func runList(ctx context.Context, b *bench) ([]table, error) {
	servers, stop, err := b.startAll(ctx, "list", false)
	defer stop()
	if err != nil {
		return nil, err
	}
	const children = 1000
	for _, s := range servers {
		keyOf := func(i int) string { return fmt.Sprintf("/bench/dir/child-%04d", i) }
		if err := fill(ctx, s, children, 16, keyOf, strings.Repeat("v", 256)); err != nil {
			return nil, err
		}
	}
	quiet, err := b.race(ctx, "GET of 1,000 children, 64 connections", load{connections: 64, path: "/v2/keys/bench/dir"}, servers, target{"etcd", 3})
	if err != nil {
		return nil, err
	}
	return []table{quiet}, nil
}

// putScript overwrites keys in an order that looks random, so that neither store can profit from
// meeting the same one again.
const putScript = `
wrk.method = "PUT"
wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
local body = "value=" .. string.rep("v", 256)
local i = 0
request = function()
  i = (i + 7919) % 10000
  return wrk.format(nil, string.format("/v2/keys/bench/put/key-%05d", i), nil, body)
end
`

// runPut compares writes; it has no target.
func runPut(ctx context.Context, b *bench) ([]table, error) {
	servers, stop, err := b.startAll(ctx, "put", false)
	defer stop()
	if err != nil {
		return nil, err
	}
	script := filepath.Join(b.dir, "put.lua")
	if err := os.WriteFile(script, []byte(putScript), 0o644); err != nil {
		return nil, err
	}
	var tables []table
	for _, connections := range []int{1, 64} {
		work := fmt.Sprintf("PUT, %d connections", connections)
		t, err := b.race(ctx, work, load{connections: connections, script: script}, servers, target{"etcd", 0})
		if err != nil {
			return nil, err
		}
		t.Commands[0] = strings.Replace(t.Commands[0], script, "put.lua", 1)
		tables = append(tables, t)
	}
	return tables, nil
}

// startAll starts kvd, etcd and on request the do-nothing handler. The caller calls stop, also after
// an error.
func (b *bench) startAll(ctx context.Context, data string, nothing bool) (servers []*server, stop func(), err error) {
	stop = func() {
		for _, s := range servers {
			s.kill()
		}
	}
	starts := []func() (*server, error){
		func() (*server, error) { return b.startKVD(ctx, data+".kvd") },
		func() (*server, error) { return b.startEtcd(ctx, data+".etcd") },
	}
	if nothing {
		starts = append(starts, func() (*server, error) { return b.startNothing(ctx) })
	}
	for _, start := range starts {
		s, err := start()
		if err != nil {
			return servers, stop, err
		}
		servers = append(servers, s)
	}
	return servers, stop, nil
}
