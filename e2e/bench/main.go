// Command bench measures kvd beside Debian's etcd and net/http handlers that do nothing, on this machine.
//
//	go run ./e2e/bench                      every scenario, as a table
//	go run ./e2e/bench -run get,list        only these
//	go run ./e2e/bench -json FILE           the figures, for programs
//	go run ./e2e/bench -doc docs/explanation/performance.md
//
// It builds kvd, starts each server with fresh data on loopback and loads them in turn, A B C
// A B C, so that a machine that is slow for a while is slow for all of them; a figure is the median
// of the rounds. It knows how to start, load and watch servers from outside, and nothing of their
// insides. It judges nothing: a target that is missed is printed, and the exit code is still 0.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// scenario is one piece of work that is measured. Its result names what was run.
type scenario struct {
	name  string
	about string
	run   func(ctx context.Context, b *bench) ([]table, error)
}

// scenarios are all there are, in the order of the report.
var scenarios = []scenario{
	{"get", "GET of one key with a value of 256 bytes", runGet},
	{"list", "GET of a directory with 1,000 children of 256 bytes", runList},
	{"put", "PUT of values of 256 bytes; each answer waits for an fsync", runPut},
	{"watchers", "15,000 connections that watch, of which one write wakes 1,500", runWatchers},
	{"expiry", "100,000 keys due in the same second, while others write", runExpiry},
	{"keys", "1,000,000 keys of 40 bytes with values of 100 bytes: memory and restart", runKeys},
	{"cluster-put", "three members: PUT of values of 256 bytes on the leader", runClusterPut},
	{"cluster-quorum-get", "three members: quorum GET of one key, on the leader and on a follower", runClusterQuorumGet},
	{"refresh", "three members: PUT with refresh=true, of keys that are watched", runRefresh},
	{"leases", "three members: 100,000 keys under 100 leases that are kept alive every 3 s", runLeases},
	{"failover", "three members: how long nobody can write when the leader goes", runFailover},
	{"snapshot", "three members with 1,000,000 keys: writes while a snapshot is written", runSnapshot},
	{"registration", "a container starts, passes its check and stops: until the store shows it", runRegistration},
	{"registered", "1,000 containers at rest: what kvagent and the leader use", runRegistered},
	{"proxied", "a change of one of 100 services, until HAProxy serves it; CONFD=PATH measures confd as well", runProxied},
	{"rendered", "a change of one of 5,000 services, until the file is there", runRendered},
	{"burst", "1,000 writes in a second: reloads, and when the last one is live", runBurst},
	{"idle", "200 resources and 100,000 keys at rest: what kvconfd uses", runIdle},
	{"join", "1,000,000 keys for a new member: how long it takes, and writes meanwhile", runJoin},
}

// bench is what scenarios work with.
type bench struct {
	kvd, etcd, kvagent string // programs
	kvconfd            string // "" until a scenario has needed it
	self               string // this program, which is the do-nothing handlers as well
	dir                string // of this run; removed at its end
	log                io.Writer

	duration time.Duration // of one load
	rounds   int
	keys     int // of the scenario of that name
	expiring int // keys of the scenario expiry
	watchers int // of the scenario of that name
	kills    int // of the scenario failover

	registrations int  // runs of the scenario registration
	containers    int  // of the scenario registered
	real          bool // they are an engine's and not only told of by one

	edits    int // of the scenarios proxied and rendered
	services int // of the scenario rendered
	followed int // keys of the scenario idle
}

func main() {
	if serveFloor(os.Args[1:]) {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, log io.Writer) error {
	b := &bench{log: log}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(log)
	names := flags.String("run", "", "scenarios, separated by commas; all if empty: "+scenarioNames())
	flags.DurationVar(&b.duration, "duration", 5*time.Second, "of one load")
	flags.IntVar(&b.rounds, "rounds", 5, "loads of each server")
	flags.IntVar(&b.keys, "keys", 1_000_000, "keys of the scenarios keys, snapshot and join; a tenth of them in leases")
	flags.IntVar(&b.expiring, "expiring", 100_000, "keys of the scenario expiry")
	flags.IntVar(&b.watchers, "watchers", 15_000, "connections of the scenario of that name; this process needs as many descriptors")
	flags.IntVar(&b.kills, "kills", 20, "kills of a leader in the scenario failover")
	flags.IntVar(&b.registrations, "registrations", 100, "runs of the scenario registration")
	flags.IntVar(&b.containers, "containers", 1000, "of the scenario registered")
	flags.BoolVar(&b.real, "real", false, "the containers of the scenario registered run; otherwise an engine only tells of them")
	flags.IntVar(&b.edits, "changes", 100, "of the scenarios proxied and rendered")
	flags.IntVar(&b.services, "services", 5000, "of the scenario rendered")
	flags.IntVar(&b.followed, "followed", 100_000, "keys of the scenario idle")
	short := flags.Bool("short", false, "100 ms, one round, few keys and watchers: shows that it works, says nothing about speed")
	flags.StringVar(&b.kvd, "kvd", "", "kvd to measure; built from this module if empty")
	flags.StringVar(&b.kvagent, "kvagent", "", "kvagent to measure; built from this module if empty")
	flags.StringVar(&b.kvconfd, "kvconfd", "", "kvconfd to measure; built from this module if empty")
	flags.StringVar(&b.etcd, "etcd", "etcd", "etcd to compare with")
	jsonFile := flags.String("json", "", "write the report to this file")
	docFile := flags.String("doc", "", "put the tables between the bench marks of this Markdown file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *short {
		b.duration, b.rounds, b.keys, b.watchers, b.expiring, b.kills = 100*time.Millisecond, 1, 2000, 200, 500, 1
		b.registrations, b.containers = 2, 20
		b.edits, b.services, b.followed = 2, 50, 1000
	}
	chosen, err := choose(*names)
	if err != nil {
		return err
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "kvd-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	for program, path := range map[string]*string{"kvd": &b.kvd, "kvagent": &b.kvagent} {
		if *path == "" {
			*path = filepath.Join(b.dir, program)
			if err := build(ctx, program, *path); err != nil {
				return err
			}
		}
	}
	report := report{Machine: b.describeMachine(ctx), Args: args}
	for _, s := range chosen {
		fmt.Fprintf(log, "%s: %s\n", s.name, s.about)
		tables, err := s.run(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		for i := range tables {
			tables[i].Scenario = s.name
			tables[i].Claims = slices.DeleteFunc(tables[i].Claims, claim.unmeasured)
		}
		report.Tables = append(report.Tables, tables...)
	}
	report.writeText(out)
	if *jsonFile != "" {
		encoded, err := json.MarshalIndent(report, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(*jsonFile, append(encoded, '\n'), 0o644); err != nil {
			return err
		}
	}
	if *docFile != "" {
		return report.writeDoc(*docFile)
	}
	return nil
}

func scenarioNames() string {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

// choose returns the scenarios of a list of names, all for an empty one.
func choose(names string) ([]scenario, error) {
	if names == "" {
		return scenarios, nil
	}
	var chosen []scenario
	for name := range strings.SplitSeq(names, ",") {
		found := false
		for _, s := range scenarios {
			if s.name == name {
				chosen, found = append(chosen, s), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no scenario %q; there are %s", name, scenarioNames())
		}
	}
	return chosen, nil
}

// build compiles a program as a release is compiled.
func build(ctx context.Context, program, target string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", target, "github.com/kvd-io/kvd/cmd/"+program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", program, err, output)
	}
	return nil
}
