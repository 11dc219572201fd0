package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/workload"
)

// These bound one attempt. A connection to an address on this host takes no time at all,
// so that one which takes longer is behind a packet filter.
const (
	connectTimeout = 250 * time.Millisecond
	checkTimeout   = 2 * time.Second // of a check that asks more than a connection
)

// Checks tell whether a port answers. The zero value needs no answer.
type Checks struct {
	Own       []health.Check // at the container's own addresses: what they say counts
	Published health.Check   // at the host's; asked only when none of Own can be reached; may be nil
}

func (c Checks) empty() bool { return len(c.Own) == 0 && c.Published == nil }

func (c Checks) equal(other Checks) bool { return slices.Equal(c.texts(), other.texts()) }

func (c Checks) texts() []string {
	var texts []string
	for _, check := range c.Own {
		texts = append(texts, check.String())
	}
	if c.Published != nil {
		texts = append(texts, "published "+c.Published.String())
	}
	return texts
}

// run returns nil if the port answers and otherwise why not. The container itself is asked where
// it can be reached: at a published address the engine's proxy accepts connections before the
// container does.
func (c Checks) run(ctx context.Context) error {
	var problems []error
	reached := false
	for _, check := range c.Own {
		err := runCheck(ctx, check)
		if err == nil {
			return nil
		}
		reached = reached || !isUnreachable(err)
		problems = append(problems, err)
	}
	if reached || c.Published == nil {
		return errors.Join(problems...)
	}
	return runCheck(ctx, c.Published)
}

func runCheck(ctx context.Context, check health.Check) error {
	timeout := checkTimeout
	if _, ok := check.(health.TCP); ok {
		timeout = connectTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return check.Run(ctx)
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

// The values of SERVICE_CHECK that are not a form of health.Parse.
const (
	checkAuto = ""     // the container's HEALTHCHECK, else tcp
	checkTCP  = "tcp"  // the port accepts a connection
	checkNone = "none" // register as soon as it runs
)

// checksOf says what has to answer before the port is registered, or why it is not healthy now.
// A SERVICE_CHECK that cannot be used counts as absent; err says so.
func checksOf(w workload.Workload, c candidate) (checks Checks, unhealthy string, err error) {
	kind := strings.TrimSpace(c.said[keyCheck])
	if !isCheckOfOwnPort(kind) {
		err = fmt.Errorf("%s%s=%.80q: must be tcp, http:/PATH, https:/PATH, https+insecure:/PATH or none; ignored", metadataPrefix, keyCheck, kind)
		kind = checkAuto
	}
	if kind == checkAuto && w.Health != workload.HealthUnknown {
		if w.Health != workload.HealthHealthy {
			return Checks{}, fmt.Sprintf("its HEALTHCHECK says %s", w.Health), err
		}
		return Checks{}, "", err
	}
	if kind == checkNone || c.port.Protocol != "tcp" {
		return Checks{}, "", err
	}
	if kind == checkAuto {
		kind = checkTCP
	}
	parse := func(address string) health.Check {
		check, parseErr := health.Parse(kind, address)
		if parseErr != nil && err == nil {
			err = fmt.Errorf("%s%s: %w; ignored", metadataPrefix, keyCheck, parseErr)
		}
		if parseErr != nil {
			check = health.TCP{Address: address}
		}
		return check
	}
	address := parse(c.endpoint.address.String())
	if !c.endpoint.published {
		return Checks{Own: []health.Check{address}}, "", err
	}
	checks.Published = address
	for _, network := range sortedNetworks(w) {
		checks.Own = append(checks.Own, parse(net.JoinHostPort(w.Addresses[network], strconv.Itoa(c.port.Number))))
	}
	return checks, "", err
}

// isCheckOfOwnPort accepts the checks that a container may ask for: those of its own port. A label
// must never make the agent run a command or connect to somewhere else.
func isCheckOfOwnPort(kind string) bool {
	switch kind {
	case checkAuto, checkTCP, checkNone:
		return true
	}
	scheme, path, found := strings.Cut(kind, ":")
	isHTTP := scheme == "http" || scheme == "https" || scheme == "https+insecure"
	return found && isHTTP && strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") && len(path) <= tagBytesMax && isPrintable(path)
}
