// Package workload is the vocabulary for what runs on a host: containers and units, as their
// engine reports them.
//
// It knows words and one small interface. The sources themselves live in the packages below it
// (docker, systemd); what a workload offers to others is pkg/registry's business, and whether it
// answers is pkg/health's.
package workload

import "context"

// State says where a workload stands in its life.
type State string

// The states, in the order in which a workload passes through them.
const (
	Starting State = "starting" // not yet to be used
	Running  State = "running"  // may be offered, once its checks pass
	Stopping State = "stopping" // was told to stop and may still answer: drain it
	Stopped  State = "stopped"  // ended, failed or gone
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
	ID        string // "abcd…" of a container, "app.service" of a unit: stable over restarts
	Run       string // changes whenever the workload starts anew; "" when it does not run
	Name      string // for people
	Image     string // "" for a unit
	State     State
	Reason    string // the engine's own words for State, "active/running"
	Health    Health
	PID       int               // of the main process, 0 if there is none
	Labels    map[string]string // untrusted: whoever starts the workload writes them
	Env       map[string]string // untrusted
	Addresses map[string]string // network name to IP address; empty for a unit
	Ports     []Port
}

// Snapshot is all that a source sees. A workload that is absent from it is Stopped.
type Snapshot struct {
	Workloads []Workload
}

// Source follows one engine.
type Source interface {
	// Run sends a full snapshot first and again after every change, at latest by its own period;
	// a snapshot replaces the one before, so that nothing is lost when several changes become
	// one. It keeps going when the engine does not answer, says so in its log, and sends nothing
	// meanwhile. It returns when ctx ends, with nil, or when it can never work, with the reason.
	Run(ctx context.Context, out chan<- Snapshot) error
}
