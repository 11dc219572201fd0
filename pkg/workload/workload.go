// Package workload is the vocabulary for what runs on a host: containers and units, as their
// engine reports them.
//
// It knows words and one small interface. The sources themselves live in the packages below it
// (docker, systemd); what a workload offers to others is pkg/registry's business, and whether it
// answers is pkg/health's.
package workload

import (
	"context"
	"time"
)

// State says where a workload stands in its life.
type State string

// The states, in the order in which a workload passes through them.
const (
	Starting State = "starting" // not yet to be used
	Running  State = "running"  // may be offered, once its checks pass
	Stopping State = "stopping" // was told to stop and may still answer: drain it
	Stopped  State = "stopped"  // ended, failed or gone
	Failed   State = "failed"   // ended by itself with an error, and kept in sight by a source that was asked to
)

// Health is what an engine itself says about a workload.
type Health string

// The verdicts of an engine. The zero value means that the engine does not check.
const (
	HealthUnknown   Health = ""
	HealthStarting  Health = "starting"
	HealthHealthy   Health = "healthy"
	HealthUnhealthy Health = "unhealthy"
)

// Port is one port of a workload.
type Port struct {
	Number     int    // inside the workload, 1 to 65535
	Protocol   string // "tcp" or "udp"
	HostIP     string // address of the host it is published on; "" when it is not published
	HostNumber int    // port it is published on; 0 when it is not published
}

// Workload is one container or unit at one moment. A Workload that was sent is shared and must
// not be changed.
type Workload struct {
	ID     string // "abcd…" of a container, "app.service" of a unit: stable over restarts
	Run    string // changes whenever the workload starts anew; "" when it does not run
	Name   string // for people
	Image  string // "" for a unit
	State  State
	Reason string // the engine's own words for State, "active/running"
	Health Health
	PID    int               // of the main process, 0 if there is none
	Labels map[string]string // untrusted unless Trusted: whoever starts the workload writes them
	Env    map[string]string // untrusted unless Trusted

	// Trusted says that who administers the host wrote Labels and Env, so that they may ask for what
	// reaches beyond the workload: commands as checks, addresses elsewhere.
	Trusted bool

	// Problems are mistakes that the source has found where Labels come from, a sentence each, which
	// Labels do not show. What is free of them is in Labels all the same.
	Problems []string

	// Unread are names of services that Labels may lack because of Problems, as far as they could be made out: for
	// who asks for one. Nothing else follows from them.
	Unread []string

	// The network. Addresses holds one address for each network, its IPv4 address where there is one;
	// Addresses6 the IPv6 addresses alone. Both are by network name, and empty for a unit.
	Addresses   map[string]string
	Addresses6  map[string]string
	HostNetwork bool   // it uses the host's network: its ports are the host's
	NetworkOf   string // ID of the workload whose network it uses, with that one's addresses; "" for its own
	Ports       []Port
}

// Snapshot is all that a source sees. A workload that is absent from it is Stopped.
type Snapshot struct {
	Workloads []Workload

	// Incomplete says that the engine has told nothing yet about some that run: that a workload is
	// absent is then no reason to remove what an earlier run has registered for it.
	Incomplete bool
}

// Source follows one engine.
type Source interface {
	// Run sends a full snapshot first and again after every change, at latest by its own period;
	// a snapshot replaces the one before, so that nothing is lost when several changes become
	// one. It keeps going when the engine does not answer, says so in its log, and sends nothing
	// meanwhile. It returns when ctx ends, with nil, or when it can never work, with the reason.
	Run(ctx context.Context, out chan<- Snapshot) error
}

// Status is how well a source knows its engine at one moment.
type Status struct {
	Connected bool          // its changes are told as they happen
	Since     time.Time     // since when Connected is what it is
	Err       error         // what went wrong last while it is not connected; nil if nothing did
	LastEvent time.Time     // when the latest change was told; zero: none was yet
	Lag       time.Duration // from the latest change, by the engine's clock, to its arrival, by ours
	Relists   int           // how often everything was compared with what the engine says
	Missed    int           // changes that only such a comparison found
	Dropped   int           // messages of the engine that could not be understood or taken in
}

// Reporter is a Source that says how it fares. Status is safe for concurrent use.
type Reporter interface {
	Status() Status
}
