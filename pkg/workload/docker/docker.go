// Package docker is a workload.Source for the containers of one Docker engine.
//
// It knows the few requests of the engine's API that it needs, the gaps of its event stream and how
// a container begins to stop. It refuses to know what a service, the meaning of a label or a store is.
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
//	             With Config.FailedHold one that has failed is Failed for that long.
//	Health       the verdict of its HEALTHCHECK, unknown when it has none
//	Addresses    of every network it is attached to, IPv4 where there is one
//	Addresses6   the IPv6 addresses of these
//	Ports        one entry for each address a port is published on, one for a port that is only
//	             exposed. With the host's network every exposed port is published as it is.
//	             A protocol that is neither tcp nor udp is left out.
//	NetworkOf    with --network container:ID that container, whose addresses it has; of its own
//	             exposed ports those are published that the other one publishes
//
// What is known is compared with the engine's list on every connection and each minute; between
// these, events say which containers to look at again. A container whose line in the list shows
// nothing new is asked about only now and then, so that many at rest cost little.
//
// Podman's compatible API is understood as well. It announces neither the stop of a container nor
// which signal one was sent: there a container goes from Running to gone, or is found Stopping by
// chance.
package docker
