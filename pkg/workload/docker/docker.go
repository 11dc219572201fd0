// Package docker is a workload.Source for the containers of one Docker engine.
//
// It knows the engine's API, the gaps of its event stream and how a container begins to stop, and
// it is the only package that imports the engine's client. It refuses to know what a service, the
// meaning of a label or a store is.
//
//	source, err := docker.New(docker.Config{Host: "unix:///var/run/docker.sock"})
//	snapshots := make(chan workload.Snapshot)
//	go source.Run(ctx, snapshots)
//
// How a container becomes a workload:
//
//	ID, Name     the container's full ID; its name without the leading slash
//	Run          the time of its start: another one after every start
//	State        Running while it runs; Starting while it is paused (Reason "paused"); Stopping
//	             from its stop signal or a SIGKILL on. A container that does not run is left out.
//	Health       the verdict of its HEALTHCHECK, unknown when it has none
//	Addresses    of every network it is attached to, IPv4 where there is one
//	Ports        one entry for each address a port is published on, one for a port that is only
//	             exposed. With the host's network every exposed port is published as it is.
//	             A protocol that is neither tcp nor udp is left out.
package docker
