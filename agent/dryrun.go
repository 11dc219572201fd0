package agent

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/printable"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// snapshotMax is how long a dry run waits for one source.
const snapshotMax = 30 * time.Second

// pinger is a source that can say at once why it cannot be followed.
type pinger interface{ Ping(context.Context) error }

// dryRun prints, for what runs now, what Run would register and why the rest would not be. A source
// that is only looked for may be missing, as long as there is another one.
func dryRun(ctx context.Context, sources []Source, options Options, views []registry.View, w io.Writer) error {
	var seen []Seen
	found := 0
	var missing error
	for _, source := range sources {
		snapshot, err := firstSnapshot(ctx, source)
		if err != nil && (source.Expected || missing == nil && source.Name == SourceDocker) {
			missing = engineError(err)
		}
		if err != nil && source.Expected {
			return missing
		}
		if err == nil {
			found++
		}
		for _, workload := range snapshot.Workloads {
			seen = append(seen, Seen{Source: source.Name, Workload: workload})
		}
	}
	if found == 0 && missing != nil {
		return missing
	}
	offers, refusals := Offers(seen, options)
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	name, nameOf := "INSTANCE", func(r registry.Record) string { return r.Instance }
	if len(views) > 0 && !slices.Equal(views, []registry.View{{Prefix: registry.DefaultPrefix, Layout: registry.LayoutJSON}}) {
		name, nameOf = "KEY", func(r registry.Record) string { return keysText(r, views) }
	}
	fmt.Fprintf(table, "SOURCE\tWORKLOAD\tPORT\tSERVICE\t%s\tADDRESS\tRESULT\n", name)
	type port struct {
		source, workload string
		port             int
	}
	offered := map[port]bool{}
	for _, offer := range offers {
		offered[port{offer.Source, offer.Workload, offer.Port}] = true
		r := offer.Record
		row(table, offer.Source, offer.Workload, portText(offer.Port, r.Protocol), r.Service, nameOf(r), addressText(r.Address, r.Port), outcome(ctx, offer))
	}
	for _, refusal := range refusals {
		result := "no: " + refusal.Reason
		if offered[port{refusal.Source, refusal.Workload, refusal.Port}] {
			result = "but: " + refusal.Reason // it is registered without what is named
		}
		row(table, refusal.Source, refusal.Workload, portText(refusal.Port, ""), "", "", "", result)
	}
	return table.Flush()
}

// row writes a row of a table whose cells may hold what a container or a file says.
func row(table io.Writer, cells ...string) {
	for i, cell := range cells {
		cells[i] = printable.Line(cell)
	}
	fmt.Fprintln(table, strings.Join(cells, "\t"))
}

// keysText is where a record would be written once it is up.
func keysText(r registry.Record, views []registry.View) string {
	r.State = registry.StateUp
	var keys []string
	for _, view := range views {
		if key, err := view.Key(r); err == nil && key != "" {
			keys = append(keys, key)
		}
	}
	return cmp.Or(strings.Join(keys, ","), "-")
}

// outcome is what would become of an offer now.
func outcome(ctx context.Context, offer Offer) string {
	switch {
	case offer.State != workload.Running:
		return fmt.Sprintf("waits: it is %s", offer.State)
	case offer.Health != workload.HealthUnknown && offer.Health != workload.HealthHealthy:
		return fmt.Sprintf("waits: its HEALTHCHECK says %s", offer.Health)
	case offer.Monitor == nil:
		return "registered"
	}
	timeout := offer.Monitor.Timeout
	if timeout == 0 {
		timeout = health.DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := offer.Monitor.Check.Run(ctx); err != nil {
		return "waits: " + err.Error()
	}
	return "registered"
}

func portText(port int, protocol string) string {
	switch {
	case port == 0:
		return "-"
	case protocol == "":
		return strconv.Itoa(port)
	}
	return fmt.Sprintf("%d/%s", port, protocol)
}

func addressText(address string, port int) string {
	if port == 0 {
		return address
	}
	return net.JoinHostPort(address, strconv.Itoa(port))
}

// firstSnapshot runs a source until it has sent one snapshot.
func firstSnapshot(ctx context.Context, s Source) (workload.Snapshot, error) {
	source, err := s.Open()
	if err != nil {
		return workload.Snapshot{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, snapshotMax, fmt.Errorf("%s (%s) tells nothing", s.Name, s.Detail))
	defer cancel()
	if p, ok := source.(pinger); ok {
		if err := p.Ping(ctx); err != nil {
			return workload.Snapshot{}, err
		}
	}
	snapshots := make(chan workload.Snapshot)
	ended := make(chan error, 1)
	running, stop := context.WithCancel(ctx)
	defer stop()
	go func() { ended <- source.Run(running, snapshots) }()
	reason := func() error {
		if told, ok := source.(workload.Reporter); ok {
			if status := told.Status(); !status.Connected {
				return status.Err
			}
		}
		return nil
	}
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	var failing lasting
	for {
		select {
		case snapshot := <-snapshots:
			stop()
			<-ended
			return snapshot, nil
		case err := <-ended:
			return workload.Snapshot{}, cmp.Or(err, reason(), context.Cause(ctx))
		case now := <-look.C:
			if err := reason(); failing.isLong(err != nil, now) {
				stop()
				<-ended
				return workload.Snapshot{}, err
			}
		}
	}
}

const (
	// failureMax is how long a source may fail before who waits for its first snapshot gives up: longer
	// than a hiccup, and several attempts of the source.
	failureMax = 3 * time.Second

	lookInterval = 100 * time.Millisecond
)

// lasting finds out whether something fails for so long that there is no point in waiting.
type lasting struct{ since time.Time }

func (l *lasting) isLong(fails bool, now time.Time) bool {
	switch {
	case !fails:
		l.since = time.Time{}
	case l.since.IsZero():
		l.since = now
	}
	return fails && now.Sub(l.since) >= failureMax
}
