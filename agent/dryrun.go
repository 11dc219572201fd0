package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"text/tabwriter"

	"github.com/kvd-io/kvd/pkg/workload"
)

// dryRun prints, for what runs now, what Run would register and why the rest would not be.
func dryRun(ctx context.Context, source workload.Source, options Options, w io.Writer) error {
	snapshot, err := firstSnapshot(ctx, source)
	if err != nil {
		return err
	}
	offers, refusals := Offers(snapshot.Workloads, options)
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "CONTAINER\tPORT\tSERVICE\tINSTANCE\tADDRESS\tRESULT")
	type containerPort struct {
		container string
		port      int
	}
	offered := map[containerPort]bool{}
	for _, offer := range offers {
		offered[containerPort{offer.Workload.Name, offer.Port}] = true
		result := "registered"
		if !offer.Checks.empty() {
			if err := offer.Checks.run(ctx); err != nil {
				result = "waits: " + err.Error()
			}
		}
		r := offer.Record
		fmt.Fprintf(table, "%s\t%d/%s\t%s\t%s\t%s\t%s\n", offer.Workload.Name, offer.Port, r.Protocol, r.Service, r.Instance, net.JoinHostPort(r.Address, strconv.Itoa(r.Port)), result)
	}
	for _, refusal := range refusals {
		port := "-"
		if refusal.Port != 0 {
			port = strconv.Itoa(refusal.Port)
		}
		result := "no: " + refusal.Reason
		if offered[containerPort{refusal.Container, refusal.Port}] {
			result = "but: " + refusal.Reason // it is registered without what is named
		}
		fmt.Fprintf(table, "%s\t%s\t\t\t\t%s\n", refusal.Container, port, result)
	}
	return table.Flush()
}

// firstSnapshot runs source until it has sent one snapshot.
func firstSnapshot(ctx context.Context, source workload.Source) (workload.Snapshot, error) {
	ctx, cancel := context.WithCancel(ctx)
	snapshots := make(chan workload.Snapshot)
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx, snapshots) }()
	select {
	case snapshot := <-snapshots:
		cancel()
		<-ended
		return snapshot, nil
	case err := <-ended:
		cancel()
		if err == nil {
			err = ctx.Err()
		}
		return workload.Snapshot{}, err
	}
}
