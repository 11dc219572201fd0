package agent

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/workload"
)

// connectTimeout bounds a connection to a workload's own address. It is on this host and takes no time
// at all, so that one which takes longer is behind a packet filter.
const connectTimeout = 250 * time.Millisecond

// The kinds of check that are no form of health.Parse.
const (
	checkAuto   = ""       // the workload's HEALTHCHECK, else tcp
	checkNone   = "none"   // register as soon as it runs
	checkEngine = "docker" // the workload's HEALTHCHECK
	checkTCP    = "tcp"    // the port accepts a connection
)

// isCheckOfOwnPort accepts the checks that an untrusted workload may ask for: those of its own port. A
// label must never make the agent run a command or connect to somewhere else.
func isCheckOfOwnPort(kind string) bool {
	switch kind {
	case checkAuto, checkTCP, checkNone, checkEngine:
		return true
	}
	check, err := health.ParseOwn(kind, anyAddress)
	return err == nil && health.Asks(check) && len(kind) <= tagBytesMax && isPrintable(kind)
}

// anyAddress is one that a check may be read with to see whether it can be.
const anyAddress = "127.0.0.1:1"

// ownPort returns the check that asks a port of the workload. The workload itself is asked where it can
// be reached: at a published address the engine's proxy accepts connections before the workload does.
// An address that a label made up is never asked. nil: there is nothing that could be asked.
func ownPort(w workload.Workload, port int, kind string, found place) health.Check {
	if kind == checkAuto {
		kind = checkTCP
	}
	at := func(address string) health.Check {
		check, err := health.Parse(kind, address)
		if err != nil {
			check = health.TCP{Address: address}
		}
		return check
	}
	if !found.published && !found.claimed {
		return at(found.hostPort())
	}
	var own []health.Check
	for _, address := range ownAddresses(w) {
		own = append(own, at(net.JoinHostPort(address, strconv.Itoa(port))))
	}
	switch {
	case found.claimed && len(own) == 0:
		return nil
	case found.claimed:
		return nearest{own: own}
	case len(own) == 0:
		return at(found.hostPort())
	}
	return nearest{own: own, published: at(found.hostPort())}
}

// nearest is a check of one port at several addresses: what is said at the workload's own counts, and
// only when none of these can be reached is the published one asked.
type nearest struct {
	own       []health.Check
	published health.Check // nil: nothing else may be asked
}

// Run returns nil if the port answers and otherwise why not.
func (c nearest) Run(ctx context.Context) error {
	_, err := c.Ask(ctx)
	return err
}

// Ask is Run, with what was seen.
func (c nearest) Ask(ctx context.Context) (string, error) {
	var problems []error
	reached := false
	for _, check := range c.own {
		seen, err := askOwn(ctx, check)
		if err == nil {
			return seen, nil
		}
		reached = reached || !isUnreachable(err)
		problems = append(problems, err)
	}
	if reached || c.published == nil {
		return "", errors.Join(problems...)
	}
	return ask(ctx, c.published)
}

func ask(ctx context.Context, check health.Check) (string, error) {
	if talker, ok := check.(health.Talker); ok {
		return talker.Ask(ctx)
	}
	return "", check.Run(ctx)
}

func (c nearest) String() string {
	texts := make([]string, 0, len(c.own)+1)
	for _, check := range c.own {
		texts = append(texts, check.String())
	}
	if c.published != nil {
		texts = append(texts, "published "+c.published.String())
	}
	return strings.Join(texts, ", ")
}

// askOwn leaves time to ask somewhere else.
func askOwn(ctx context.Context, check health.Check) (string, error) {
	limit := connectTimeout
	if _, ok := check.(health.TCP); !ok {
		limit = health.DefaultTimeout / 2
		if deadline, ok := ctx.Deadline(); ok {
			limit = time.Until(deadline) / 2
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return ask(ctx, check)
}

// isUnreachable reports whether err says something about the way rather than about its end.
func isUnreachable(err error) bool {
	for _, way := range []error{context.DeadlineExceeded, syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EPERM, syscall.EACCES} {
		if errors.Is(err, way) {
			return true
		}
	}
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// ownAddresses returns the workload's addresses, by network and IPv4 first.
func ownAddresses(w workload.Workload) []string {
	var list []string
	for _, addresses := range []map[string]string{w.Addresses, w.Addresses6} {
		for _, network := range sortedKeys(addresses) {
			if address := addresses[network]; !slices.Contains(list, address) {
				list = append(list, address)
			}
		}
	}
	return list
}
