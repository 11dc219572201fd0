package agent

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// wish is one registration that a workload asks for, in whichever of the two languages: labels of
// our own (ownlabels.go) or those of registrator (metadata.go). What it holds is valid.
type wish struct {
	language string // how the one who wrote it would name it: "kvd.web" or ""
	service  string
	instance string // "" means HOST_WORKLOAD_PORT
	port     workload.Port
	portless bool
	where    whereabouts
	tags     []string
	meta     map[string]string
	weight   int
	check    checkWish

	unhealthy string // of registrar.Offer
	keepLast  bool
	noDrain   bool // goes at the stop signal rather than draining
}

// whereabouts is what a wish says about the address to register.
type whereabouts struct {
	address string // "", addressInternal, addressPublished, or the address itself
	network string // whose address; "" means the first by name
	family  int    // 4 or 6; 0: either
}

// The words for an address.
const (
	addressInternal  = "internal"  // the workload's own
	addressPublished = "published" // the host's
)

// decision is being made about one workload.
type decision struct {
	seen     Seen
	owner    *workload.Workload // whose network it uses, if that is known
	options  Options
	offers   []Offer
	refusals []Refusal
	again    bool
}

// decide makes it.
func decide(s Seen, owner *workload.Workload, opts Options) *planned {
	d := decision{seen: s, owner: owner, options: opts}
	d.make()
	return &planned{seen: s, owner: owner, offers: d.offers, refusals: d.refusals, again: d.again}
}

func (d *decision) make() {
	for _, problem := range d.seen.Problems {
		d.mistake(0, problem)
	}
	own := readOwn(d.seen.Labels)
	said := readMetadata(d.seen.Env, d.seen.Labels)
	switch {
	case own.ignore:
		d.refuse(0, ownPrefix+".ignore is set")
		return
	case said.isTrue(keyIgnore) && len(own.services) == 0:
		d.refuse(0, metadataPrefix+keyIgnore+" is set")
		return
	case d.seen.State == workload.Stopped:
		d.refuse(0, "it does not run: "+cmp.Or(d.seen.Reason, "it has ended"))
		return
	}
	for _, problem := range own.problems {
		d.mistake(0, problem)
	}
	claimed := d.ownWishes(own)
	if d.seen.Source == SourceDocker && !said.isTrue(keyIgnore) {
		d.registratorWishes(said, claimed, len(own.services) > 0)
	}
}

func (d *decision) refuse(port int, reason string) {
	d.refusals = append(d.refusals, Refusal{Source: d.seen.Source, Workload: d.seen.Name, Port: port, Reason: reason})
}

func (d *decision) mistake(port int, reason string) {
	d.refusals = append(d.refusals, Refusal{Source: d.seen.Source, Workload: d.seen.Name, Port: port, Reason: reason, Mistake: true})
}

// grant turns a wish that can be granted into an offer, and says of another why it cannot.
func (d *decision) grant(w wish, found place) {
	record := registry.Record{
		Service: w.service, Instance: cmp.Or(w.instance, d.instance(w)), Protocol: w.port.Protocol,
		Address: found.host, Port: found.port,
		State: registry.StateUp, Weight: w.weight, Tags: d.tags(w), Meta: w.meta, Host: d.options.Host,
	}
	record.ID = cmp.Or(w.instance, d.registratorID(w))
	if err := record.Validate(); err != nil {
		d.mistake(w.port.Number, err.Error())
		return
	}
	offer := registrar.Offer{
		Record: record, Source: d.seen.Source, Workload: d.seen.Name, Run: d.seen.Run, State: d.seen.State,
		Unhealthy: w.unhealthy, KeepLast: w.keepLast, Address: found.rule,
	}
	if w.noDrain && d.seen.State == workload.Stopping {
		d.refuse(w.port.Number, "it was told to stop, and "+w.language+".drain is no")
		return
	}
	var err error
	if offer.Health, offer.Monitor, err = d.checks(w, found); err != nil {
		d.mistake(w.port.Number, err.Error())
	}
	d.offers = append(d.offers, Offer{Offer: offer, ID: d.seen.ID, Port: w.port.Number})
}

// instance is HOST_WORKLOAD_PORT, with "_udp" behind a udp port and nothing behind none. A host's name
// has no '_', so that no two of them can be the same.
func (d *decision) instance(w wish) string {
	name := d.options.Host + "_" + d.workloadName()
	if !w.portless {
		name = fmt.Sprintf("%s_%d", name, w.port.Number)
	}
	if w.port.Protocol != "tcp" && !w.portless {
		name += "_" + w.port.Protocol
	}
	return name
}

// registratorID is the name that registrator's layout has for an instance: HOST:WORKLOAD:PORT.
func (d *decision) registratorID(w wish) string {
	id := fmt.Sprintf("%s:%s:%d", d.options.Host, d.workloadName(), w.port.Number)
	if w.port.Protocol != "tcp" {
		id += ":" + w.port.Protocol
	}
	return id
}

func (d *decision) workloadName() string {
	return cleanName(strings.TrimSuffix(cmp.Or(d.seen.Name, d.seen.ID), ".service"))
}

// tags returns those of the wish and then those that everything gets, without repetition.
func (d *decision) tags(w wish) []string {
	more, later, err := d.options.Tags.of(d.seen.Workload)
	if err != nil {
		d.mistake(w.port.Number, err.Error())
	}
	d.again = d.again || later
	tags := slices.Clone(w.tags)
	for _, tag := range more {
		if !slices.Contains(tags, tag) && len(tags) < entriesMax {
			tags = append(tags, tag)
		}
	}
	return tags
}

// checkWish is what a wish says about checks. Zero fields leave it to the defaults.
type checkWish struct {
	kind              string // checkAuto, checkNone, checkEngine, or a form of health.Parse
	interval, timeout time.Duration
	rise, fall        int
}

// checks says what has to pass before the offer is registered. A check that cannot be used is replaced
// by the default one; err says so.
func (d *decision) checks(w wish, found place) (workload.Health, *health.Monitor, error) {
	kind := w.check.kind
	switch {
	case kind == checkEngine && d.seen.Health == workload.HealthUnknown:
		return workload.HealthUnknown, d.monitor(w, checkAuto, found), fmt.Errorf("check %q: it has no HEALTHCHECK; the port is asked instead", kind)
	case kind == checkEngine, kind == checkAuto && d.seen.Health != workload.HealthUnknown:
		return d.seen.Health, nil, nil
	case kind == checkNone:
		return workload.HealthUnknown, nil, nil
	}
	if !d.seen.Trusted || isCheckOfOwnPort(kind) {
		return workload.HealthUnknown, d.monitor(w, kind, found), nil
	}
	check, err := health.Parse(kind, found.hostPort())
	if err != nil {
		return workload.HealthUnknown, d.monitor(w, checkAuto, found), fmt.Errorf("%w; the port is asked instead", err)
	}
	if !health.Asks(check) {
		return d.seen.Health, nil, nil
	}
	return workload.HealthUnknown, w.check.monitor(check), nil
}

// monitor asks the workload's own port as kind says; nil if there is nothing that could be asked.
func (d *decision) monitor(w wish, kind string, found place) *health.Monitor {
	if w.portless || w.port.Protocol != "tcp" {
		return nil
	}
	if check := ownPort(d.seen.Workload, w.port.Number, kind, found); check != nil {
		return w.check.monitor(check)
	}
	return nil
}

func (c checkWish) monitor(check health.Check) *health.Monitor {
	return &health.Monitor{Check: check, Interval: c.interval, Timeout: c.timeout, Rise: c.rise, Fall: c.fall}
}
