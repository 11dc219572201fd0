package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/printable"
	"github.com/kvd-io/kvd/pkg/registry"
)

// acceptLastInstance is the value of --accept-risk.
const acceptLastInstance = "last-instance"

// serviceFlags are those of all commands of service.
type serviceFlags struct{ prefix string }

func serviceCommand(s *settings) *cobra.Command {
	var f serviceFlags
	cmd := &cobra.Command{
		Use: "service COMMAND", Short: "show registered services, and take instances out and back", GroupID: groupServices,
		Long: `Show registered services, and take instances out and back.

An INSTANCE is named SERVICE/INSTANCE, as service ls shows it. What is wanted of one stays in the store
until service ready: over restarts of the instance, of its host and of who registers it. It does not say
what is, but what whoever registers the instance is to do; --wait waits until that is done.

To take out the last instance of a service that is up is refused, unless --accept-risk=last-instance is given.`,
		Example: `  kvctl service ls web
  kvctl service drain web/h1_shop_80 --reason "kernel update" --wait
  kvctl service maintenance --host h1
  kvctl service weight web/h2_shop_80 10
  kvctl service ready --host h1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&f.prefix, "prefix", registry.DefaultPrefix, "`directory` of all services")
	cmd.AddCommand(
		&cobra.Command{Use: "ls [SERVICE]", Short: "list the instances of all services, or of one", ValidArgsFunction: s.completeInstance(&f), RunE: s.run(f.list)},
		&cobra.Command{Use: "get INSTANCE", Short: "show all that is known of an instance", ValidArgsFunction: s.completeInstance(&f), RunE: s.run(f.get)},
		&cobra.Command{
			Use: "watch [SERVICE]", Short: "print the instances of all services or of one, and then each change, until a signal (exit 0)",
			ValidArgsFunction: s.completeInstance(&f), RunE: s.runUnbounded(f.watch),
		},
		f.wishCommand(s, "drain", "let an instance finish what it has begun, and take nothing new", override.Drain),
		f.wishCommand(s, "maintenance", "take an instance out, whatever its checks say", override.Maintenance),
		f.wishCommand(s, "ready", "put an instance back: nothing is wanted of it any more", override.Ready),
		f.weightCommand(s),
		&cobra.Command{Use: "overrides", Short: "list what is wanted of instances, also of those that are not there", RunE: s.run(f.overrides)},
	)
	return cmd
}

// instance is a record in the store, and what is wanted of it.
type instance struct {
	registry.Record
	node     *kv.Node
	override override.Override
}

func (i instance) name() string { return i.Service + "/" + i.Instance }

// known is what the store says about services at one moment.
type known struct {
	instances []instance // in order of their names
	wishes    map[string]override.Override
	strange   []string // what is wrong with keys that hold something else
}

// read reads all records below the prefix and all overrides.
func (f *serviceFlags) read(ctx context.Context, c *session) (known, error) {
	k := known{wishes: map[string]override.Override{}}
	if err := registry.ValidatePrefix(f.prefix); err != nil {
		return k, &usageError{text: "--" + err.Error()}
	}
	wishes, err := c.below(ctx, override.Directory(f.prefix))
	if err != nil {
		return k, err
	}
	for _, node := range wishes {
		wish, err := override.Decode(node.Value)
		if err != nil {
			k.strange = append(k.strange, fmt.Sprintf("%s: %v", node.Key, err))
			continue
		}
		k.wishes[strings.TrimPrefix(node.Key, override.Directory(f.prefix)+"/")] = wish
	}
	records, err := c.below(ctx, f.prefix)
	if err != nil {
		return k, err
	}
	for _, node := range records {
		record, err := recordOf(node, f.prefix)
		if err != nil {
			k.strange = append(k.strange, fmt.Sprintf("%s: %v", node.Key, err))
			continue
		}
		one := instance{Record: record, node: node}
		one.override = k.wishes[one.name()]
		k.instances = append(k.instances, one)
	}
	return k, nil
}

// below returns the keys below a directory that hold values, in their order; none if there is no directory.
func (c *session) below(ctx context.Context, directory string) ([]*kv.Node, error) {
	result, err := c.client.Read(ctx, kv.Read{Key: directory, Recursive: true, Sorted: true, Quorum: true})
	if kv.Is(err, kv.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []*kv.Node
	var walk func(node *kv.Node)
	walk = func(node *kv.Node) {
		if !node.Dir {
			found = append(found, node)
		}
		for _, child := range node.Nodes {
			walk(child)
		}
	}
	walk(result.Node)
	return found, nil
}

// recordOf returns the record at a key, if that is where it says that it is.
func recordOf(node *kv.Node, prefix string) (registry.Record, error) {
	record, err := registry.Decode(node.Value)
	if err != nil {
		return record, err
	}
	if err := record.Validate(); err != nil {
		return record, err
	}
	if record.Key(kv.Clean(prefix)) != node.Key {
		return record, errors.New("it names itself " + record.Service + "/" + record.Instance)
	}
	return record, nil
}

// tellStrange says which keys are left out.
func (k known) tellStrange(w io.Writer) {
	const most = 5
	for i, text := range k.strange {
		if i == most {
			fmt.Fprintf(w, "and %d more keys that are left out\n", len(k.strange)-most)
			return
		}
		fmt.Fprintf(w, "left out: %s\n", printable.Line(text))
	}
}

func (k known) find(name string) (instance, bool) {
	at := slices.IndexFunc(k.instances, func(i instance) bool { return i.name() == name })
	if at < 0 {
		return instance{}, false
	}
	return k.instances[at], true
}

func (f *serviceFlags) list(ctx context.Context, c *session, args []string) error {
	if err := noMoreWords(args, 1); err != nil {
		return err
	}
	k, err := f.read(ctx, c)
	if err != nil {
		return err
	}
	k.tellStrange(c.env.Stderr)
	shown := k.instances
	if len(args) == 1 {
		shown = slices.DeleteFunc(slices.Clone(shown), func(i instance) bool { return i.Service != args[0] })
		if len(shown) == 0 {
			return &kv.Error{Op: "service ls", Kind: kv.NotFound, Cause: fmt.Sprintf("no instance of %s is registered below %s", args[0], f.prefix)}
		}
	}
	if len(shown) == 0 && c.format != asJSON {
		return nil
	}
	list := []instanceJSON{}
	for _, i := range shown {
		list = append(list, i.json())
	}
	c.said(instanceTable(shown), struct {
		Instances []instanceJSON `json:"instances"`
	}{list})
	return nil
}

func (f *serviceFlags) get(ctx context.Context, c *session, args []string) error {
	names, err := instanceNames(args)
	if err != nil {
		return err
	}
	if len(names) != 1 {
		return &usageError{text: "one instance required", hint: "SERVICE/INSTANCE; kvctl service ls shows them"}
	}
	k, err := f.read(ctx, c)
	if err != nil {
		return err
	}
	one, found := k.find(names[0])
	if !found {
		k.tellStrange(c.env.Stderr)
		cause := fmt.Sprintf("%s is not registered below %s", names[0], f.prefix)
		if wish, wanted := k.wishes[names[0]]; wanted {
			cause += "; wanted of it: " + wishText(wish)
		}
		return &kv.Error{Op: "service get", Kind: kv.NotFound, Cause: cause}
	}
	c.said(one.details(), one.json())
	return nil
}

// watch prints what there is, and then what changes.
func (f *serviceFlags) watch(ctx context.Context, c *session, args []string) error {
	if err := noMoreWords(args, 1); err != nil {
		return err
	}
	if err := registry.ValidatePrefix(f.prefix); err != nil {
		return &usageError{text: "--" + err.Error()}
	}
	was := map[string]registry.Record{}
	follower := kvclient.Follow(c.client, f.prefix)
	defer follower.Close()
	opening, cancel := c.bound(ctx) // only the first answer has a limit
	defer cancel()
	changes, err := follower.Next(opening)
	for ; ; changes, err = nextChanges(ctx, follower) {
		if err != nil {
			return unlessEnded(ctx, err)
		}
		for _, event := range changes.Events {
			before, wasThere := was[event.Node.Key]
			delete(was, event.Node.Key)
			if event.Removes() {
				if wasThere {
					c.changedInstance(before, registry.Record{})
				}
				continue
			}
			record, err := recordOf(event.Node, f.prefix)
			if err != nil {
				fmt.Fprintf(c.env.Stderr, "left out: %s\n", printable.Line(event.Node.Key+": "+err.Error()))
				if wasThere {
					c.changedInstance(before, registry.Record{})
				}
				continue
			}
			if len(args) == 1 && args[0] != record.Service && args[0] != record.Service+"/"+record.Instance {
				continue
			}
			was[event.Node.Key] = record
			c.changedInstance(before, record)
		}
		if err := c.flush(); err != nil {
			return err
		}
	}
}

// nextChanges waits for the next changes, however long the store is away, until ctx ends.
func nextChanges(ctx context.Context, follower *kvclient.Follower) (kvclient.Changes, error) {
	var retry backoff.Backoff
	for {
		changes, err := follower.Next(ctx)
		if err == nil || !kv.Temporary(err) || retry.Wait(ctx) != nil {
			return changes, err
		}
	}
}

// instanceNames checks arguments that are SERVICE/INSTANCE.
func instanceNames(args []string) ([]string, error) {
	for _, arg := range args {
		service, name, two := strings.Cut(arg, "/")
		if !two {
			return nil, &usageError{text: fmt.Sprintf("%q is no instance", arg), hint: "an instance is named SERVICE/INSTANCE; kvctl service ls shows them"}
		}
		if err := override.ValidateNames(service, name); err != nil {
			return nil, &usageError{text: fmt.Sprintf("%q is no instance: %v", arg, err)}
		}
	}
	return args, nil
}

// wishFlags are those of the commands that want something.
type wishFlags struct {
	host   string
	reason string
	risk   string
	wait   bool
}

func (f *serviceFlags) wishCommand(s *settings, name, short string, mode override.Mode) *cobra.Command {
	var w wishFlags
	cmd := &cobra.Command{
		Use: name + " [INSTANCE]...", Short: short, ValidArgsFunction: s.completeInstance(f),
		RunE: s.run(func(ctx context.Context, c *session, args []string) error {
			return f.want(ctx, c, args, w, func(o *override.Override) { o.Mode = mode })
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&w.host, "host", "", "every instance of the host with this `name`")
	flags.BoolVar(&w.wait, "wait", false, "wait until it is done, no longer than --total-timeout")
	if mode != override.Ready {
		flags.StringVar(&w.reason, "reason", "", "`text` for whoever asks why")
		flags.StringVar(&w.risk, "accept-risk", "", "`last-instance` does it although no instance of the service is up then")
	}
	return cmd
}

func (f *serviceFlags) weightCommand(s *settings) *cobra.Command {
	var w wishFlags
	cmd := &cobra.Command{
		Use: "weight INSTANCE N", Short: fmt.Sprintf("give an instance another weight, 1 to %d; 0: its own again", registry.WeightMax), ValidArgsFunction: s.completeInstance(f),
		RunE: s.run(func(ctx context.Context, c *session, args []string) error {
			if len(args) < 2 {
				return &usageError{text: "instance and weight required", hint: "kvctl service weight SERVICE/INSTANCE 10"}
			}
			if err := noMoreWords(args, 2); err != nil {
				return err
			}
			weight, err := strconv.Atoi(args[1])
			if err != nil || weight < 0 || weight > registry.WeightMax {
				return &usageError{text: fmt.Sprintf("%q is no weight", args[1]), hint: fmt.Sprintf("1 to %d, or 0 for the instance's own", registry.WeightMax)}
			}
			return f.want(ctx, c, args[:1], w, func(o *override.Override) { o.Weight = weight })
		}),
	}
	cmd.Flags().StringVar(&w.reason, "reason", "", "`text` for whoever asks why")
	cmd.Flags().BoolVar(&w.wait, "wait", false, "wait until it is done, no longer than --total-timeout")
	return cmd
}

// want changes what is wanted of instances.
func (f *serviceFlags) want(ctx context.Context, c *session, args []string, w wishFlags, change func(*override.Override)) error {
	names, err := instanceNames(args)
	switch {
	case err != nil:
		return err
	case w.host != "" && len(names) > 0:
		return &usageError{text: "--host names the instances already", hint: "leave out one of them"}
	case w.host == "" && len(names) == 0:
		return &usageError{text: "instance required", hint: "SERVICE/INSTANCE, or --host for every instance of a host; kvctl service ls shows them"}
	case w.risk != "" && w.risk != acceptLastInstance:
		return &usageError{text: fmt.Sprintf("--accept-risk %s: there is no such risk", w.risk), hint: "the only one is " + acceptLastInstance}
	}
	k, err := f.read(ctx, c)
	if err != nil {
		return err
	}
	if w.host != "" {
		if names = k.ofHost(w.host); len(names) == 0 {
			return &kv.Error{Op: "service", Kind: kv.NotFound, Cause: fmt.Sprintf("no instance of host %s is registered below %s%s", w.host, f.prefix, k.unmatched())}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	wishes := make([]wish, len(names))
	for i, name := range names {
		wishes[i] = wish{name: name, override: k.wishes[name]}
		change(&wishes[i].override)
		o := &wishes[i].override
		if o.Mode == override.Ready { // as if nothing had ever been wanted
			*o = override.Override{Mode: override.Ready}
		} else if !o.IsZero() {
			o.By, o.At = c.who(), time.Now().UTC().Truncate(time.Second)
			if w.reason != "" {
				o.Reason = w.reason
			}
		}
		if err := o.Validate(); err != nil {
			return &usageError{text: err.Error()}
		}
	}
	if lost := k.lastOnes(wishes); lost != "" {
		fmt.Fprintln(c.env.Stderr, printable.Line(lost))
		if w.risk == "" {
			return &refusedError{"not done: " + lost, "put another instance of it back first; with --accept-risk=" + acceptLastInstance + " it is done all the same"}
		}
	}
	var lines []string
	for _, one := range wishes {
		service, name, _ := strings.Cut(one.name, "/")
		if err := override.Write(ctx, c.client, f.prefix, service, name, one.override); err != nil {
			return err
		}
		if _, there := k.find(one.name); !there && !one.override.IsZero() {
			fmt.Fprintf(c.env.Stderr, "%s is not registered now: this counts when it is\n", printable.Line(one.name))
		}
		lines = append(lines, printable.Line(one.text()))
	}
	if w.wait {
		if err := f.await(ctx, c, wishes); err != nil {
			return err
		}
	}
	done := struct {
		Overrides []overrideJSON `json:"overrides"`
	}{}
	for _, one := range wishes {
		done.Overrides = append(done.Overrides, overrideJSON{Name: one.name, Override: one.override})
	}
	c.said(strings.Join(lines, "\n"), done)
	return nil
}

// who names the person at the keyboard, for others.
func (c *session) who() string {
	name, _, _ := strings.Cut(c.config.Username, ":") // behind it may be the password
	if name == "" {
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}

// ofHost returns the names of all instances of a host.
func (k known) ofHost(host string) (names []string) {
	for _, i := range k.instances {
		if i.Host == host {
			names = append(names, i.name())
		}
	}
	return names
}

// unmatched names the instances that something is wanted of and that are not there, for a sentence.
func (k known) unmatched() string {
	var names []string
	for name := range k.wishes {
		if _, there := k.find(name); !there {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return "; something is wanted of " + strings.Join(names, ", ") + ", which are not there either"
}

// lastOnes says which services have no instance that is up when wishes come true, "" if all keep one.
func (k known) lastOnes(wishes []wish) string {
	up, left := map[string]int{}, map[string]int{}
	for _, i := range k.instances {
		if i.State != registry.StateUp {
			continue
		}
		up[i.Service]++
		goes := slices.ContainsFunc(wishes, func(w wish) bool { return w.name == i.name() && w.takesOut() })
		isGoing := i.override.Mode == override.Drain || i.override.Mode == override.Maintenance // somebody else has asked for it a moment ago
		if !goes && !isGoing {
			left[i.Service]++
		}
	}
	var sentences []string
	for _, w := range wishes {
		service, _, _ := strings.Cut(w.name, "/")
		one, there := k.find(w.name)
		if w.takesOut() && there && one.State == registry.StateUp && left[service] == 0 && up[service] > 0 {
			sentences = append(sentences, fmt.Sprintf("%s is the last instance of %s that is up: nobody would serve it", w.name, service))
			if n := slices.IndexFunc(wishes, func(o wish) bool { return strings.HasPrefix(o.name, service+"/") && o.name != w.name }); n >= 0 {
				sentences[len(sentences)-1] = fmt.Sprintf("that takes out every instance of %s that is up: nobody would serve it", service)
			}
		}
	}
	return strings.Join(slices.Compact(sentences), "; ")
}

func (f *serviceFlags) overrides(ctx context.Context, c *session, args []string) error {
	if err := noMoreWords(args, 0); err != nil {
		return err
	}
	k, err := f.read(ctx, c)
	if err != nil {
		return err
	}
	k.tellStrange(c.env.Stderr)
	names := make([]string, 0, len(k.wishes))
	for name := range k.wishes {
		names = append(names, name)
	}
	slices.Sort(names)
	rows := [][]string{{"INSTANCE", "WANTED", "WEIGHT", "STATE", "SINCE", "BY", "REASON"}}
	list := struct {
		Overrides []overrideJSON `json:"overrides"`
	}{[]overrideJSON{}}
	for _, name := range names {
		o, state := k.wishes[name], ""
		if one, there := k.find(name); there {
			state = one.State
		}
		rows = append(rows, []string{name, string(o.Mode), weightText(o.Weight), stateText(state), sinceText(o.At), dash(o.By), dash(o.Reason)})
		list.Overrides = append(list.Overrides, overrideJSON{Name: name, State: state, Override: o})
	}
	if len(names) > 0 || c.format == asJSON {
		c.said(table(rows), list)
	}
	return nil
}

// refusedError is something that is not done because of what it would do.
type refusedError struct{ text, hint string }

func (e *refusedError) Error() string { return e.text }
