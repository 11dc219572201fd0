package agent

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/workload"
)

// candidate is a port that others can reach and that nobody wants ignored.
type candidate struct {
	port  workload.Port
	said  metadata // about this port
	found place
}

// registratorWishes grants what the workload wishes in registrator's words, which may be nothing but a
// port that is published. Ports that its own labels are about are left to these. Who has such labels
// has said what is to be registered: other ports then need a name.
func (d *decision) registratorWishes(all metadata, claimed []workload.Port, named bool) {
	ports := byPort(d.seen.Ports)
	if d.owner != nil && len(ports) == 0 {
		return
	}
	ports = slices.DeleteFunc(ports, func(bindings []workload.Port) bool {
		return slices.ContainsFunc(claimed, func(p workload.Port) bool {
			return p.Number == bindings[0].Number && p.Protocol == bindings[0].Protocol
		})
	})
	candidates := d.candidates(all, ports, named)
	several := slices.ContainsFunc(candidates, func(c candidate) bool { return c.port.Number != candidates[0].port.Number })
	if d.options.Registrator {
		several = d.eligible(ports) > 1
	}
	for _, c := range candidates {
		d.wish(all, c, several)
	}
}

func (d *decision) candidates(all metadata, ports [][]workload.Port, named bool) []candidate {
	var list []candidate
	for _, bindings := range ports {
		c := candidate{port: bindings[0], said: all.forPort(bindings[0].Number)}
		number := c.port.Number
		switch {
		case c.said.isTrue(keyIgnore):
			d.refuse(number, fmt.Sprintf("%s%d_%s is set", metadataPrefix, number, keyIgnore))
			continue
		case d.options.Explicit && c.said[keyName] == "":
			d.refuse(number, fmt.Sprintf("it has no %s%s, which --explicit asks for", metadataPrefix, keyName))
			continue
		case named && c.said[keyName] == "":
			d.refuse(number, fmt.Sprintf("the %s labels say nothing about it", ownPrefix))
			continue
		}
		found, lost, mistake := d.locate(c.port, whereabouts{})
		switch {
		case lost != "" && mistake:
			d.mistake(number, lost)
		case lost != "":
			d.refuse(number, lost)
		default:
			c.found = found
			list = append(list, c)
		}
	}
	return list
}

// eligible counts the ports by which registrator decides whether names get one: of tcp and udp each, also
// those that are ignored then.
func (d *decision) eligible(ports [][]workload.Port) (n int) {
	for _, bindings := range ports {
		if d.options.Internal || d.seen.NetworkOf != "" || len(d.bindings(bindings[0])) > 0 {
			n++
		}
	}
	return n
}

// wish grants a candidate unless it has no usable name. What else cannot be used is left out and named.
func (d *decision) wish(all metadata, c candidate, several bool) {
	number := c.port.Number
	service, err := d.serviceName(all, number, several)
	if err != nil {
		d.mistake(number, err.Error())
		return
	}
	w := wish{language: metadataPrefix + "*", service: service, instance: c.said[keyID], port: c.port}
	if w.instance != "" && !isID(w.instance) {
		d.mistake(number, fmt.Sprintf("%s%s=%.80q: %s", metadataPrefix, keyID, w.instance, idRule))
		return
	}
	var tagProblems, metaProblems, checkProblems []string
	w.tags, tagProblems = c.said.tags()
	if d.options.Registrator && c.port.Protocol == "udp" {
		w.tags = append(w.tags, "udp")
	}
	w.meta, metaProblems = c.said.meta()
	w.weight, err = c.said.weight()
	if err != nil {
		tagProblems = append(tagProblems, err.Error())
	}
	w.check, checkProblems = c.said.check()
	for _, problem := range slices.Concat(tagProblems, metaProblems, checkProblems) {
		d.mistake(number, problem)
	}
	d.grant(w, c.found)
}

// The keys about checks, as registrator passes them on to Consul.
const (
	keyCheckHTTP       = "CHECK_HTTP"
	keyCheckHTTPS      = "CHECK_HTTPS"
	keyCheckCommand    = "CHECK_CMD"
	keyCheckScript     = "CHECK_SCRIPT"
	keyCheckTTL        = "CHECK_TTL"
	keyCheckTCP        = "CHECK_TCP"
	keyCheckGRPC       = "CHECK_GRPC"
	keyCheckGRPCTLS    = "CHECK_GRPC_USE_TLS"
	keyCheckSkipVerify = "CHECK_TLS_SKIP_VERIFY"
	keyCheckInterval   = "CHECK_INTERVAL"
	keyCheckTimeout    = "CHECK_TIMEOUT"
	keyCheckMethod     = "CHECK_HTTP_METHOD"
	keyCheckMethodTLS  = "CHECK_HTTPS_METHOD"
	keyCheckInitial    = "CHECK_INITIAL_STATUS"
	keyCheckDeregister = "CHECK_DEREGISTER_AFTER"
)

// checkKeys are all of them. They are no meta entries.
func checkKeys() []string {
	return []string{keyCheckHTTP, keyCheckHTTPS, keyCheckCommand, keyCheckScript, keyCheckTTL, keyCheckTCP, keyCheckGRPC, keyCheckGRPCTLS,
		keyCheckSkipVerify, keyCheckInterval, keyCheckTimeout, keyCheckMethod, keyCheckMethodTLS, keyCheckInitial, keyCheckDeregister}
}

// check returns what SERVICE_CHECK asks for, else the first of registrator's checks in registrator's
// order. What cannot be used counts as absent, and the problems say so.
func (m metadata) check() (c checkWish, problems []string) {
	leaveOut := func(key, why string) {
		problems = append(problems, fmt.Sprintf("%s%s=%.80q: %s; left out", metadataPrefix, key, m[key], why))
	}
	span := func(key string, least, most time.Duration) time.Duration {
		d, err := readDuration(strings.TrimSpace(m[key]), least, most)
		if err != nil {
			leaveOut(key, err.Error())
		}
		return d
	}
	c.interval, c.timeout = span(keyCheckInterval, intervalMin, intervalMax), span(keyCheckTimeout, timeoutMin, timeoutMax)
	for _, key := range []string{keyCheckMethod, keyCheckMethodTLS} {
		if method := strings.ToUpper(m[key]); method != "" && !slices.Contains(methods(), method) {
			leaveOut(key, "checks ask with "+strings.Join(methods(), ", "))
		}
	}
	if kind := strings.TrimSpace(m[keyCheck]); kind != "" {
		if c.kind = kind; !isCheckOfOwnPort(kind) {
			leaveOut(keyCheck, checkRule)
			c.kind = checkAuto
		}
		return c, problems
	}
	switch {
	case m[keyCheckHTTP] != "":
		c.kind = m.path(keyCheckHTTP, keyCheckMethod, "http", leaveOut)
	case m[keyCheckHTTPS] != "":
		scheme := "https"
		if m.isTrue(keyCheckSkipVerify) {
			scheme = "https+insecure"
		}
		c.kind = m.path(keyCheckHTTPS, keyCheckMethodTLS, scheme, leaveOut)
	case m[keyCheckCommand] != "":
		leaveOut(keyCheckCommand, notRun)
	case m[keyCheckScript] != "":
		leaveOut(keyCheckScript, notRun)
	case m[keyCheckTTL] != "":
		leaveOut(keyCheckTTL, "nobody can report to kvagent that a container is well; it asks the port instead")
	case m[keyCheckTCP] != "":
		c.kind = checkTCP
	case m[keyCheckGRPC] != "":
		c.kind = m.grpc()
	}
	return c, problems
}

// notRun is why commands in labels are not run.
const notRun = "whoever starts a container must not run commands on its host; use a HEALTHCHECK, SERVICE_CHECK=http:/PATH, or exec: in a file or unit of this host"

// path returns the check of an HTTP path, checkAuto if it is none.
func (m metadata) path(key, methodKey, scheme string, leaveOut func(key, why string)) string {
	path := m[key]
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	kind := scheme + ":" + path
	if method := strings.ToUpper(m[methodKey]); method != "GET" && slices.Contains(methods(), method) {
		kind += " method=" + method
	}
	if !isCheckOfOwnPort(kind) {
		leaveOut(key, "must be the path of a URL, like /healthz")
		return checkAuto
	}
	return kind
}

// methods are those that checks ask with.
func methods() []string { return []string{"GET", "HEAD", "OPTIONS"} }

func (m metadata) grpc() string {
	switch {
	case m.isTrue(keyCheckGRPCTLS) && m.isTrue(keyCheckSkipVerify):
		return "grpcs+insecure"
	case m.isTrue(keyCheckGRPCTLS):
		return "grpcs"
	}
	return "grpc"
}

// byPort groups the entries of each port, by number and protocol.
func byPort(ports []workload.Port) [][]workload.Port {
	ports = slices.SortedFunc(slices.Values(ports), func(a, b workload.Port) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Protocol, b.Protocol),
			cmp.Compare(a.HostIP, b.HostIP), cmp.Compare(a.HostNumber, b.HostNumber))
	})
	var groups [][]workload.Port
	for _, port := range ports {
		last := len(groups) - 1
		if last >= 0 && groups[last][0].Number == port.Number && groups[last][0].Protocol == port.Protocol {
			groups[last] = append(groups[last], port)
		} else {
			groups = append(groups, []workload.Port{port})
		}
	}
	return groups
}
