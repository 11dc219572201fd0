package agent

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/spelling"
	"github.com/kvd-io/kvd/pkg/workload"
)

// ownPrefix begins the labels of our own: kvd.SERVICE.OPTION=VALUE.
const ownPrefix = "kvd"

// servicesMax bounds how many services one workload may have by its own labels.
const servicesMax = 64

// The options of a service.
const (
	optionPort      = "port"
	optionID        = "id"
	optionProtocol  = "protocol"
	optionAddress   = "address"
	optionNetwork   = "network"
	optionFamily    = "family"
	optionTags      = "tags"
	optionWeight    = "weight"
	optionCheck     = "check"
	optionInterval  = "check-interval"
	optionTimeout   = "check-timeout"
	optionRise      = "check-rise"
	optionFall      = "check-fall"
	optionUnhealthy = "unhealthy"
	optionKeepLast  = "keep-last"
	optionDrain     = "drain"
	optionMeta      = "meta" // meta.KEY
)

// options lists them all.
func allOptions() []string {
	return []string{optionPort, optionID, optionProtocol, optionAddress, optionNetwork, optionFamily, optionTags, optionWeight,
		optionCheck, optionInterval, optionTimeout, optionRise, optionFall, optionUnhealthy, optionKeepLast, optionDrain}
}

// own is what a workload says in labels of our own.
type own struct {
	ignore   bool
	services []ownService // by name
	problems []string
}

// ownService is one service as it was written down: nothing in it is checked but its name.
type ownService struct {
	name    string
	options map[string]string
	meta    map[string]string
}

// readOwn sorts the labels of our own by service. The name of a service may contain dots: the option
// is behind the last one.
func readOwn(labels map[string]string) (o own) {
	services := map[string]*ownService{}
	known := allOptions()
	for _, label := range sortedKeys(labels) {
		rest, isOwn := strings.CutPrefix(label, ownPrefix+".")
		if !isOwn {
			continue
		}
		if rest == "ignore" {
			o.ignore = isOn(labels[label])
			continue
		}
		name, option, metaKey := splitOption(rest)
		switch {
		case len(o.problems) > problemsMax:
			o.problems = append(o.problems, "and more of the kind; the rest of its labels is left out")
			return o.sorted(services)
		case !isName(name):
			o.problems = append(o.problems, fmt.Sprintf("label %.80q: must be %s.SERVICE.OPTION, and a service's name has at most %d letters, digits, '.', '-' and '_'", label, ownPrefix, nameBytesMax))
			continue
		case metaKey == "" && !slices.Contains(known, option):
			o.problems = append(o.problems, unknownOption(label, option, known))
			continue
		case services[name] == nil && len(services) == servicesMax:
			o.problems = append(o.problems, fmt.Sprintf("more than %d services: %.80q and the rest are left out", servicesMax, name))
			return o.sorted(services)
		}
		if services[name] == nil {
			services[name] = &ownService{name: name, options: map[string]string{}, meta: map[string]string{}}
		}
		if metaKey != "" {
			services[name].meta[metaKey] = labels[label]
		} else {
			services[name].options[option] = strings.TrimSpace(labels[label])
		}
	}
	return o.sorted(services)
}

func (o own) sorted(services map[string]*ownService) own {
	for _, name := range slices.Sorted(maps.Keys(services)) {
		o.services = append(o.services, *services[name])
	}
	return o
}

// splitOption parts SERVICE.OPTION, or SERVICE.meta.KEY.
func splitOption(text string) (service, option, metaKey string) {
	if service, key, found := strings.Cut(text, "."+optionMeta+"."); found {
		return service, optionMeta, key
	}
	dot := strings.LastIndexByte(text, '.')
	if dot < 0 {
		return "", text, ""
	}
	return text[:dot], text[dot+1:], ""
}

func unknownOption(label, option string, known []string) string {
	if meant := spelling.Meant(option, known); meant != "" {
		return fmt.Sprintf("label %.80q: there is no option %.40q; did you mean %s?", label, option, meant)
	}
	return fmt.Sprintf("label %.80q: there is no option %.40q; there are %s and meta.KEY", label, option, strings.Join(known, ", "))
}

// ownWishes grants what the workload wishes in labels of our own, and returns the ports that these are
// about.
func (d *decision) ownWishes(o own) (claimed []workload.Port) {
	for _, service := range o.services {
		r := reader{service: service}
		w := r.wish(d.seen.Workload)
		w.language = ownPrefix + "." + service.name
		if !w.portless && w.port.Number != 0 {
			claimed = append(claimed, workload.Port{Number: w.port.Number, Protocol: w.port.Protocol})
		}
		if len(r.fatal) > 0 {
			d.mistake(w.port.Number, service.name+": "+strings.Join(r.fatal, "; "))
			continue
		}
		for _, problem := range r.problems {
			d.mistake(w.port.Number, service.name+": "+problem)
		}
		found, lost, mistake := d.locate(w.port, w.where)
		if w.portless {
			found.port = 0
		}
		switch {
		case lost != "" && mistake:
			d.mistake(w.port.Number, service.name+": "+lost)
		case lost != "":
			d.refuse(w.port.Number, service.name+": "+lost)
		default:
			d.grant(w, found)
		}
	}
	return claimed
}

// reader turns the options of a service into a wish.
type reader struct {
	service  ownService
	fatal    []string // why the service cannot be registered
	problems []string // what is left out of it
}

func (r *reader) fail(option, rule string) {
	r.fatal = append(r.fatal, fmt.Sprintf("%s=%.80q: %s", option, r.service.options[option], rule))
}

func (r *reader) leaveOut(option, rule string) {
	r.problems = append(r.problems, fmt.Sprintf("%s=%.80q: %s; left out", option, r.service.options[option], rule))
}

func (r *reader) wish(of workload.Workload) wish {
	o := r.service.options
	w := wish{service: r.service.name}
	r.port(of, &w)
	if w.instance = o[optionID]; w.instance != "" && !isID(w.instance) {
		r.fail(optionID, idRule)
	}
	r.where(&w)
	var problems []string
	w.tags, problems = readTags(o[optionTags])
	r.problems = append(r.problems, problems...)
	w.meta, problems = readMeta(r.service.meta, func(key string) string { return optionMeta + "." + key })
	r.problems = append(r.problems, problems...)
	w.weight = r.number(optionWeight, 0, 0, registry.WeightMax)
	r.checks(of.Trusted, &w)
	r.life(&w)
	return w
}

// port reads port and protocol. Without a port the only one that the workload has is meant.
func (r *reader) port(of workload.Workload, w *wish) {
	text, protocol, found := strings.Cut(r.service.options[optionPort], "/")
	if !found {
		protocol = r.service.options[optionProtocol]
	}
	w.port.Protocol = protocol
	if protocol == "" {
		w.port.Protocol = "tcp"
	} else if protocol != "tcp" && protocol != "udp" {
		r.fatal = append(r.fatal, fmt.Sprintf("protocol %.40q: must be tcp or udp", protocol))
	}
	number, err := strconv.Atoi(text)
	switch {
	case text == "none":
		w.portless = true
	case text == "":
		ports := byPort(of.Ports)
		if len(ports) != 1 {
			r.fatal = append(r.fatal, fmt.Sprintf("it has %d ports: %s.%s.port=NUMBER says which one is meant", len(ports), ownPrefix, r.service.name))
			return
		}
		w.port.Number, w.port.Protocol = ports[0][0].Number, ports[0][0].Protocol
	case err != nil || number < 1 || number > 65535:
		r.fail(optionPort, "must be a number from 1 to 65535, or none")
	default:
		w.port.Number = number
	}
}

func (r *reader) where(w *wish) {
	o := r.service.options
	w.where.address, w.where.network = o[optionAddress], o[optionNetwork]
	if len(w.where.address) > nameBytesMax || !isPrintable(w.where.address) {
		r.fail(optionAddress, "must be internal, published or an address")
	}
	if !isPrintable(w.where.network) {
		r.fail(optionNetwork, "must be the name of a network")
	}
	if w.where.network != "" && w.where.address == addressPublished {
		r.fail(optionNetwork, "is about the container's own address, and address=published is not")
	}
	switch strings.ToLower(o[optionFamily]) {
	case "":
	case "4", "ipv4", "inet":
		w.where.family = 4
	case "6", "ipv6", "inet6":
		w.where.family = 6
	default:
		r.fail(optionFamily, "must be ipv4 or ipv6")
	}
}

func (r *reader) checks(trusted bool, w *wish) {
	w.check.kind = r.service.options[optionCheck]
	if !isCheckOfOwnPort(w.check.kind) && !trusted {
		r.leaveOut(optionCheck, checkRule)
		w.check.kind = checkAuto
	}
	w.check.interval = r.duration(optionInterval, intervalMin, intervalMax)
	w.check.timeout = r.duration(optionTimeout, timeoutMin, timeoutMax)
	w.check.rise = r.number(optionRise, 0, 1, thresholdMax)
	w.check.fall = r.number(optionFall, 0, 1, thresholdMax)
}

// Bounds of what an untrusted workload may ask of checks.
const (
	intervalMin  = time.Second
	intervalMax  = time.Hour
	timeoutMin   = 10 * time.Millisecond
	timeoutMax   = time.Minute
	thresholdMax = 1000
)

const checkRule = "a container may ask for " + health.OwnForms + ", all of its own port; commands and other addresses are for files and units of this host"

func (r *reader) life(w *wish) {
	o := r.service.options
	switch o[optionUnhealthy] {
	case "", registrar.UnhealthyRemove, registrar.UnhealthyMark:
		w.unhealthy = o[optionUnhealthy]
	default:
		r.leaveOut(optionUnhealthy, "must be remove or mark")
	}
	w.keepLast = r.yes(optionKeepLast, false)
	w.noDrain = !r.yes(optionDrain, true) // for how long is not ours to say: until the workload has ended
}

// yes reads a switch.
func (r *reader) yes(option string, otherwise bool) bool {
	switch strings.ToLower(r.service.options[option]) {
	case "":
		return otherwise
	case "1", "true", "yes", "on":
		return true
	case "0", "false", "no", "off":
		return false
	}
	r.leaveOut(option, "must be yes or no")
	return otherwise
}

func (r *reader) number(option string, otherwise, least, most int) int {
	text := r.service.options[option]
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		r.leaveOut(option, fmt.Sprintf("must be a number from %d to %d", least, most))
		return otherwise
	}
	return n
}

// duration reads "10s", or "10" for seconds.
func (r *reader) duration(option string, least, most time.Duration) time.Duration {
	d, err := readDuration(r.service.options[option], least, most)
	if err != nil {
		r.leaveOut(option, err.Error())
	}
	return d
}

func readDuration(text string, least, most time.Duration) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	if strings.Trim(text, "0123456789") == "" {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		return 0, fmt.Errorf("must be a time from %v to %v", least, most)
	}
	return d, nil
}

// isOn reads a switch as people write it: anything but these words turns it on.
func isOn(text string) bool {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "", "0", "false", "no", "off":
		return false
	}
	return true
}
