package ctl

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/printable"
	"github.com/kvd-io/kvd/pkg/registry"
)

// instanceJSON is the JSON form of an instance: its record, and what the store says of it.
type instanceJSON struct {
	registry.Record
	Key      string             `json:"key"`
	TTL      int64              `json:"ttl,omitempty"`   // seconds left; absent: it stays
	Lease    string             `json:"lease,omitempty"` // that it ends with
	Override *override.Override `json:"override,omitempty"`
}

func (i instance) json() instanceJSON {
	j := instanceJSON{Record: i.Record, Key: i.node.Key, TTL: i.node.TTL}
	if i.node.Lease != 0 {
		j.Lease = i.node.Lease.String()
	}
	if !i.override.IsZero() {
		j.Override = &i.override
	}
	return j
}

// overrideJSON is the JSON form of what is wanted of an instance.
type overrideJSON struct {
	Name  string `json:"instance"`
	State string `json:"state,omitempty"` // as it is registered; absent: it is not
	override.Override
}

func instanceTable(list []instance) string {
	rows := [][]string{{"INSTANCE", "STATE", "WEIGHT", "ADDRESS", "HOST", "TAGS", "EXPIRES", "WANTED"}}
	for _, i := range list {
		rows = append(rows, []string{
			i.name(), i.stateText(), weightText(i.Weight), addressText(i.Record), dash(i.Host), dash(strings.Join(i.Tags, ",")), i.expires(), dash(wishText(i.override)),
		})
	}
	return table(rows)
}

// details is all that is known of an instance, one thing a line.
func (i instance) details() string {
	machine, program := ownerText(i.Owner)
	rows := [][]string{
		{"Instance:", i.name()}, {"State:", i.stateText()}, {"Weight:", weightText(i.Weight)}, {"Address:", addressText(i.Record)}, {"Protocol:", i.Protocol},
		{"Host:", dash(i.Host)}, {"Tags:", dash(strings.Join(i.Tags, ","))},
		{"Machine:", machine}, {"Registered by:", program}, {"Expires:", i.expires()},
	}
	if i.node.Lease != 0 {
		rows = append(rows, []string{"Lease:", i.node.Lease.String()})
	}
	rows = append(rows, []string{"Wanted:", dash(wishText(i.override))})
	if !i.override.IsZero() {
		rows = append(rows, []string{"Wanted by:", dash(i.override.By)}, []string{"Wanted since:", sinceText(i.override.At)})
	}
	keys := make([]string, 0, len(i.Meta))
	for key := range i.Meta {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		rows = append(rows, []string{"Meta " + key + ":", i.Meta[key]})
	}
	return table(rows)
}

const keptText = " (kept, although it fails)"

func (i instance) stateText() string {
	if i.Kept {
		return i.State + keptText
	}
	return i.State
}

// expires is when the record goes unless it is renewed.
func (i instance) expires() string {
	if i.node.TTL == 0 && i.node.Expiration.IsZero() {
		return "never"
	}
	return (time.Duration(i.node.TTL) * time.Second).String()
}

func stateText(state string) string {
	if state == "" {
		return "not registered"
	}
	return state
}

func addressText(r registry.Record) string {
	if r.Port == 0 {
		return r.Address
	}
	return net.JoinHostPort(r.Address, strconv.Itoa(r.Port))
}

func weightText(weight int) string {
	if weight == 0 {
		return "-"
	}
	return strconv.Itoa(weight)
}

// wishText is what is wanted, "" for nothing.
func wishText(o override.Override) string {
	if o.IsZero() {
		return ""
	}
	return o.String()
}

func sinceText(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.UTC().Format(time.RFC3339)
}

// ownerText is who has registered an instance: the machine, and the program on it.
func ownerText(owner string) (machine, program string) {
	machine, rest, _ := strings.Cut(owner, "/")
	program, _, standing := strings.Cut(rest, "/")
	switch {
	case standing:
		program, _, _ = strings.Cut(program, "-") // one of several on the machine
	case program != "":
		program = "run " + program // of a program that ends with what it has registered
	}
	return dash(machine), dash(program)
}

// changedInstance prints that a record has changed; the zero one is not there.
func (c *session) changedInstance(before, now registry.Record) {
	one, state := now, now.State
	if now.Service == "" {
		one, state = before, "gone"
	}
	if c.format == asJSON {
		c.said("", struct {
			registry.Record
			Now string `json:"now"`
			Was string `json:"was,omitempty"`
		}{one, state, before.State})
		return
	}
	if before.State != "" && before.State != state {
		state = before.State + " -> " + state
	}
	if now.Kept {
		state += keptText
	}
	text := fmt.Sprintf("%s/%s %s %s", one.Service, one.Instance, state, addressText(one))
	if one.Weight != 0 {
		text += " weight " + strconv.Itoa(one.Weight)
	}
	if len(one.Tags) > 0 {
		text += " " + strings.Join(one.Tags, ",")
	}
	c.said(printable.Line(text), nil)
}
