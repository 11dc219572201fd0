package ctl

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/pkg/agentstatus"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/printable"
)

const (
	waitMax = 30 * time.Second // for hosts to have everything, unless it is said
	// answerMax is how long hosts may take to say how far they are, when nobody waits for more.
	answerMax = 2 * time.Second
	// quietMax is how long a wait may last before it is said for whom.
	quietMax = time.Second
)

// fleet is what the hosts that render files from this store say of themselves.
type fleet struct {
	names  agentstatus.Names
	moment kv.Index // each host is asked whether it has everything up to there; 0: it could not be asked
	store  string   // whose index that is, as far as the store says
	hosts  map[string]agentstatus.Host
	lost   map[string]bool // whose record has expired since; those that have ended properly are forgotten
	broken map[string]error
}

func newFleet(prefix string) *fleet {
	return &fleet{names: agentstatus.NamesOf(prefix), hosts: map[string]agentstatus.Host{}, lost: map[string]bool{}, broken: map[string]error{}}
}

// ask makes a moment, so that each host says how far it is.
func (f *fleet) ask(ctx context.Context, c *session) error {
	result, err := c.client.Write(ctx, kv.Write{Op: kv.OpSet, Key: f.names.Moment(rand.Text()), TTL: agentstatus.MomentTTL})
	if err == nil {
		f.moment, f.store = result.Index, result.Cluster
	}
	return err
}

// take takes in what has changed.
func (f *fleet) take(changes kvclient.Changes) {
	for _, event := range changes.Events {
		host := f.names.HostOf(event.Node.Key)
		if host == "" {
			continue
		}
		_, known := f.hosts[host]
		delete(f.hosts, host)
		delete(f.lost, host)
		delete(f.broken, host)
		if event.Removes() {
			if known && event.Action == kv.ActionExpire {
				f.lost[host] = true
			}
			continue
		}
		record, err := agentstatus.Parse(event.Node.Value)
		if err != nil {
			f.broken[host] = err
			continue
		}
		f.hosts[host] = record
	}
}

// follow calls done after each change of what hosts say, until it returns true or ctx ends, whose error it
// then returns.
func (f *fleet) follow(ctx context.Context, c *session, done func() bool) error {
	follower := kvclient.Follow(c.client, f.names.Dir())
	defer follower.Close()
	for {
		changes, err := nextChanges(ctx, follower)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return err
		}
		f.take(changes)
		if done() {
			return nil
		}
	}
}

// isElsewhere reports whether a host speaks of another store than the one that was asked: of the one that was
// there before.
func (f *fleet) isElsewhere(h agentstatus.Host) bool {
	return f.store != "" && h.Cluster != "" && h.Cluster != f.store
}

// row is one host as it is shown.
type row struct {
	Host      string               `json:"host"`
	Index     kv.Index             `json:"index"`
	Converged bool                 `json:"converged"`
	Files     int                  `json:"files"`
	FilesLive int                  `json:"filesConverged"`
	Why       string               `json:"why,omitempty"`
	Behind    []agentstatus.Target `json:"behind,omitempty"`
}

// rows returns the hosts by name. is reports whether a host has what is waited for, and why not.
func (f *fleet) rows(only []string, is func(agentstatus.Host) (bool, string)) (rows []row) {
	wanted := func(host string) bool { return len(only) == 0 || slices.Contains(only, host) }
	for name, host := range f.hosts {
		if wanted(name) {
			converged, why := is(host)
			rows = append(rows, row{Host: name, Index: host.Index, Converged: converged, Files: host.Targets, FilesLive: host.Converged, Why: why, Behind: host.Behind})
		}
	}
	for name := range f.lost {
		if wanted(name) {
			rows = append(rows, row{Host: name, Why: "has vanished: its kvconfd does not run, or does not reach the store"})
		}
	}
	for name, err := range f.broken {
		if wanted(name) {
			rows = append(rows, row{Host: name, Why: err.Error()})
		}
	}
	for _, name := range only {
		if !slices.ContainsFunc(rows, func(r row) bool { return r.Host == name }) {
			rows = append(rows, row{Host: name, Why: "is not there: no kvconfd publishes its status under this name"})
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.Host, b.Host) })
	return rows
}

// whyBehind says what a host lacks for everything up to index.
func whyBehind(h agentstatus.Host, index kv.Index, behind []agentstatus.Target) string {
	var texts []string
	for _, t := range behind {
		texts = append(texts, t.Text())
	}
	if h.BehindMore > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", h.BehindMore))
	}
	texts = append(texts, h.Problems...)
	if len(texts) == 0 && h.Index < index {
		texts = append(texts, fmt.Sprintf("is at index %d", h.Index))
	}
	return strings.Join(texts, "; ")
}

// late returns the rows that are not as they should be.
func late(rows []row) []row {
	return slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return r.Converged })
}

// sentence says how the hosts stand, in one line.
func sentence(rows []row, index kv.Index) string {
	left := late(rows)
	text := fmt.Sprintf("%d of %d hosts run", len(rows)-len(left), len(rows))
	if len(rows) == 1 {
		text = fmt.Sprintf("%d of 1 host runs", len(rows)-len(left))
	}
	if index > 0 {
		text += fmt.Sprintf(" index %d", index)
	} else {
		text += " what they know"
	}
	for i, r := range left {
		if i == 3 {
			return text + fmt.Sprintf("; and %d more", len(left)-i)
		}
		text += fmt.Sprintf("; %s: %s", r.Host, shortened(r.Why))
	}
	return text
}

// elsewhere is why a host is not converged that follows a store which is not there any more.
const elsewhere = "has not noticed yet that the store was replaced"

// shortMax is how much of a reason is said where several are in one line.
const shortMax = 320

// exitStatus is between what a command was and what it has printed, in a reason.
var exitStatus = regexp.MustCompile(`: [^:;"]*: "[^"]*" failed: exit status \d+: `)

// shortened returns the beginning of a long text, without the words of a command that its output follows.
func shortened(text string) string {
	runes := []rune(exitStatus.ReplaceAllString(text, ": "))
	if len(runes) <= shortMax {
		return string(runes)
	}
	return string(runes[:shortMax]) + "..."
}

// convergedFlags are those of kvctl converged.
type convergedFlags struct {
	wait    bool
	timeout time.Duration
	only    []string
	prefix  string
}

func convergedCommand(s *settings) *cobra.Command {
	f := &convergedFlags{}
	cmd := &cobra.Command{
		Use: "converged", Short: "say whether every host runs what the store says", GroupID: groupTemplates, Args: cobra.NoArgs,
		Long: `say whether every host with a kvconfd runs what the store says.

It writes a moment to the store, which each kvconfd sees after everything that was written before, and
answers when all of that is live: rendered, checked, written, reloaded and confirmed. With --wait it waits
until this is so on all hosts.

Exit codes: 0 it is so, 6 there is no kvconfd, 7 it is not so, with who and why on the last line.`,
		Example: `  kvctl converged
  kvctl converged --wait --timeout 1m && echo everything is live
  kvctl converged --host edge1 --host edge2 -o json`,
		RunE: s.runUnbounded(func(ctx context.Context, c *session, args []string) error {
			if err := onlyFlags(args); err != nil {
				return err
			}
			return f.run(ctx, c)
		}),
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.wait, "wait", false, "wait until it is so")
	flags.DurationVar(&f.timeout, waitTimeoutFlag, waitMax, "longest `time` to wait; also --timeout")
	flags.StringSliceVar(&f.only, "host", nil, "only this `host`; may be repeated")
	flags.StringVar(&f.prefix, "status-prefix", agentstatus.DefaultPrefix, "`directory` in which kvconfd publishes its status")
	_ = cmd.RegisterFlagCompletionFunc("host", s.completeHost(f)) // the flag was defined above
	return cmd
}

// waitTimeoutFlag is what --timeout means where it is defined. Elsewhere that is etcdctl's for --dial-timeout.
const waitTimeoutFlag = "wait-timeout"

// waits reports whether a command has waitTimeoutFlag.
func waits(flags *pflag.FlagSet) (has bool) {
	flags.VisitAll(func(f *pflag.Flag) { has = has || f.Name == waitTimeoutFlag })
	return has
}

func onlyFlags(args []string) error {
	if len(args) > 0 {
		return &usageError{text: fmt.Sprintf("%q: this takes no arguments", args[0]), hint: "kvctl converged --host HOST asks about one host"}
	}
	return nil
}

// completeHost completes names of hosts.
func (s *settings) completeHost(f *convergedFlags) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		dir := kv.Clean(f.prefix) + "/"
		proposals, _ := s.completeKey(cmd, nil, dir+begun)
		for i := range proposals {
			proposals[i] = strings.TrimSuffix(strings.TrimPrefix(proposals[i], dir), "/")
		}
		return proposals, cobra.ShellCompDirectiveNoFileComp
	}
}

func (f *convergedFlags) run(ctx context.Context, c *session) error {
	fleet := newFleet(f.prefix)
	limit := answerMax
	if f.wait {
		limit = f.timeout
	}
	if limit <= 0 {
		return &usageError{text: fmt.Sprintf("--timeout %v: it has to be positive", limit)}
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := fleet.ask(bounded, c); kv.Is(err, kv.Denied) {
		fmt.Fprintf(c.env.Stderr, "note: this user may not write below %s, so hosts cannot be asked: what follows is what they have said last\n", fleet.names.Sync())
	} else if err != nil {
		return err
	}
	is := func(h agentstatus.Host) (bool, string) {
		if fleet.isElsewhere(h) {
			return false, elsewhere
		}
		return h.IsConverged(fleet.moment), whyBehind(h, fleet.moment, h.Behind)
	}
	seen := &waiting{c: c, began: time.Now()}
	err := fleet.follow(bounded, c, func() bool {
		rows := fleet.rows(f.only, is)
		if !f.wait {
			return !slices.ContainsFunc(rows, func(r row) bool { return r.Index < fleet.moment })
		}
		seen.tell(late(rows))
		return len(late(rows)) == 0
	})
	if err = explained(err, fleet.names); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return f.show(c, fleet, fleet.rows(f.only, is))
}

// explained adds to a refusal what has to be granted.
func explained(err error, names agentstatus.Names) error {
	if kv.Is(err, kv.Denied) {
		return &deniedError{err, fmt.Sprintf("a user who is to see how far hosts are needs to read %s and %s/*, and to ask them to write %s/*", names.Dir(), names.Dir(), names.Sync())}
	}
	return err
}

// deniedError is a refusal of the store, with what to do about it.
type deniedError struct {
	err  error
	hint string
}

func (e *deniedError) Error() string { return e.err.Error() }
func (e *deniedError) Unwrap() error { return e.err }

// show prints the hosts and returns the exit code.
func (f *convergedFlags) show(c *session, fleet *fleet, rows []row) error {
	if len(rows) == 0 {
		return &nobodyError{fmt.Sprintf("no kvconfd publishes its status below %s", fleet.names.Dir()),
			"does one run, with this store? kvconfd status on its host says how it does; --status-prefix names another directory"}
	}
	left := late(rows)
	if c.format == asJSON {
		_ = json.NewEncoder(c.out).Encode(map[string]any{"index": fleet.moment, "converged": len(left) == 0, "hosts": rows}) // a failing output shows in flush
	} else {
		c.out.WriteString(tableOf(rows))
		fmt.Fprintln(c.out, printable.Line(sentence(rows, fleet.moment)))
	}
	if len(left) > 0 {
		return &toldError{exitBehind}
	}
	return nil
}

func tableOf(rows []row) string {
	var b bytes.Buffer
	columns := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(columns, "HOST\tINDEX\tFILES\tSTATE")
	for _, r := range rows {
		state := "converged"
		if !r.Converged {
			state = r.Why
		}
		fmt.Fprintf(columns, "%s\t%d\t%d/%d\t%s\n", printable.Line(r.Host), r.Index, r.FilesLive, r.Files, printable.Line(state))
	}
	columns.Flush()
	return b.String()
}

// waiting says for whom is waited, when that takes long.
type waiting struct {
	c     *session
	began time.Time
	told  string
}

func (w *waiting) tell(left []row) {
	if len(left) == 0 || time.Since(w.began) < quietMax {
		return
	}
	text := fmt.Sprintf("waiting for %s: %s", left[0].Host, shortened(left[0].Why))
	if more := len(left) - 1; more > 0 {
		text += fmt.Sprintf(", and for %d more", more)
	}
	if text != w.told {
		fmt.Fprintln(w.c.env.Stderr, printable.Line(text))
	}
	w.told = text
}

// nobodyError says that there is nobody to wait for.
type nobodyError struct{ text, hint string }

func (e *nobodyError) Error() string { return e.text }

// liveFlags are those of commands that write and can wait until that is live.
type liveFlags struct {
	timeout time.Duration // 0: does not wait
	prefix  string
}

func (f *liveFlags) addTo(flags *pflag.FlagSet) {
	flags.DurationVar(&f.timeout, "wait-live", 0, "wait until every kvconfd that follows the key runs it, for this `time` at most; 30s if none is given")
	flags.Lookup("wait-live").NoOptDefVal = waitMax.String()
	flags.StringVar(&f.prefix, "status-prefix", agentstatus.DefaultPrefix, "with --wait-live: the `directory` in which kvconfd publishes its status")
}

// await waits until the write of key at index is live everywhere.
func (f *liveFlags) await(ctx context.Context, c *session, key string, index kv.Index) error {
	switch {
	case f.timeout == 0:
		return nil
	case f.timeout < 0:
		return &usageError{text: fmt.Sprintf("it was written, but --wait-live %v cannot be waited for: it is negative", f.timeout)}
	}
	_ = c.flush() // what was written is said before the wait; a failing output shows again in the end
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	fleet := newFleet(f.prefix)
	if err := fleet.ask(ctx, c); err != nil {
		return afterWrite(explained(err, fleet.names))
	}
	is := func(h agentstatus.Host) (bool, string) {
		if fleet.isElsewhere(h) {
			return false, elsewhere
		}
		behind := slices.DeleteFunc(slices.Clone(h.Behind), func(t agentstatus.Target) bool { return !(agentstatus.Host{Keys: t.Keys}).Covers(key) })
		why := agentstatus.Host{Index: h.Index, BehindMore: h.BehindMore}
		if len(behind) == 0 {
			why.Problems = h.Problems // of the host as a whole, as its files have none
		}
		return h.Has(key, fleet.moment), whyBehind(why, fleet.moment, behind)
	}
	concerned := func() []row {
		all := maps.Clone(fleet.hosts)
		defer func() { fleet.hosts = all }()
		maps.DeleteFunc(fleet.hosts, func(_ string, h agentstatus.Host) bool { return !h.Covers(key) })
		return fleet.rows(nil, is)
	}
	seen := &waiting{c: c, began: began}
	nobody := false
	err := fleet.follow(ctx, c, func() bool {
		rows := concerned()
		seen.tell(late(rows))
		nobody = len(rows) == 0
		return len(late(rows)) == 0
	})
	switch rows := concerned(); {
	case errors.Is(err, context.DeadlineExceeded):
		return &behindError{fmt.Sprintf("written at index %d, but not live after %v: %s", index, f.timeout, sentence(rows, fleet.moment)),
			"kvctl converged shows all hosts; on one of them kvconfd status and kvconfd explain say more"}
	case err != nil:
		return afterWrite(explained(err, fleet.names))
	case nobody:
		return &nobodyError{fmt.Sprintf("written at index %d; no kvconfd that publishes its status follows %s", index, key), "kvctl converged lists those that there are"}
	default:
		f.say(c, len(rows), index, time.Since(began))
		return nil
	}
}

// say tells for how many hosts and after which time something is live.
func (f *liveFlags) say(c *session, hosts int, index kv.Index, took time.Duration) {
	milliseconds := float64(took.Microseconds()) / 1000
	if c.format == asJSON {
		_ = json.NewEncoder(c.out).Encode(map[string]any{"live": true, "hosts": hosts, "index": index, "milliseconds": milliseconds})
		return
	}
	noun := "hosts"
	if hosts == 1 {
		noun = "host"
	}
	fmt.Fprintf(c.env.Stderr, "live on %d %s after %.0f ms\n", hosts, noun, milliseconds)
}

// afterWrite says that an error is about the wait, and not about the write.
func afterWrite(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("it was written, but it is not known whether it is live: %w", err)
}

// behindError is a write that is not live in time.
type behindError struct{ text, hint string }

func (e *behindError) Error() string { return e.text }
