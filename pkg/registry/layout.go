package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Layout is a form in which records are written.
type Layout string

// The layouts. Each puts one record at PREFIX/SERVICE/NAME.
const (
	// LayoutJSON is the canonical one: the record as JSON, by its instance name. It alone knows states.
	LayoutJSON Layout = "json"
	// LayoutRegistrator is "address:port" by Record.ID, as registrator writes to etcd.
	LayoutRegistrator Layout = "registrator"
	// LayoutSkyDNS is the JSON that SkyDNS and the etcd plugin of CoreDNS read.
	LayoutSkyDNS Layout = "skydns"
	// LayoutCoreOS is the JSON of CoreOS' sidekick examples: host, port, version and what else Meta holds.
	LayoutCoreOS Layout = "coreos"
)

// View says where and how records are written.
type View struct {
	Prefix string // directory of all services, see ValidatePrefix
	Layout Layout
}

// skydnsRoot is where SkyDNS and CoreDNS look: one segment, then the labels of a name from its end.
const skydnsRoot = "/skydns"

// skydnsTTLSeconds is how long a resolver may keep an answer.
const skydnsTTLSeconds = 10

// ParseView reads LAYOUT:DIRECTORY, as in "json:/services", or "skydns:DOMAIN": "skydns:dom.ain" is the
// view below /skydns/ain/dom.
func ParseView(text string) (View, error) {
	layout, where, _ := strings.Cut(text, ":")
	view := View{Prefix: where, Layout: Layout(layout)}
	if view.Layout == LayoutSkyDNS {
		prefix, err := domainPrefix(where)
		if err != nil {
			return View{}, fmt.Errorf("layout %q: %w", text, err)
		}
		view.Prefix = prefix
	}
	if err := view.validate(); err != nil {
		return View{}, fmt.Errorf("layout %q: %w", text, err)
	}
	return view, nil
}

// String returns what ParseView reads.
func (v View) String() string {
	where := v.Prefix
	if v.Layout == LayoutSkyDNS {
		labels := strings.Split(strings.TrimPrefix(v.Prefix, skydnsRoot+"/"), "/")
		slices.Reverse(labels)
		where = strings.Join(labels, ".")
	}
	return string(v.Layout) + ":" + where
}

func (v View) validate() error {
	switch v.Layout {
	case LayoutJSON, LayoutRegistrator, LayoutCoreOS:
	case LayoutSkyDNS:
		if !kv.Below(v.Prefix, skydnsRoot) {
			return fmt.Errorf("prefix %q: names are below %s, with a domain of at least one label", v.Prefix, skydnsRoot)
		}
	default:
		return fmt.Errorf("%q is no layout; there are %s, %s, %s and %s, as in json:%s or skydns:services.example",
			string(v.Layout), LayoutJSON, LayoutRegistrator, LayoutSkyDNS, LayoutCoreOS, DefaultPrefix)
	}
	return ValidatePrefix(v.Prefix)
}

// ValidateViews reports whether the views can be written together: no directory of one may be that
// of another, nor lie in it, lest a key of the one be taken for a record of the other.
func ValidateViews(views []View) error {
	var problems []error
	for i, view := range views {
		problems = append(problems, view.validate())
		for _, other := range views[:i] {
			problems = append(problems, view.collides(other))
		}
	}
	return errors.Join(problems...)
}

func (v View) collides(other View) error {
	switch {
	case v == other:
		return fmt.Errorf("layout %s is given twice", v)
	case v.Prefix == other.Prefix:
		return fmt.Errorf("layouts %s and %s share the directory %s: their keys would be taken for each other's; choose another directory for one of them", other, v, v.Prefix)
	case kv.Below(v.Prefix, other.Prefix), kv.Below(other.Prefix, v.Prefix):
		return fmt.Errorf("of the layouts %s and %s one lies in the directory of the other: its keys would be taken for records; choose another directory for one of them", other, v)
	}
	return nil
}

// domainPrefix returns the directory of a domain.
func domainPrefix(domain string) (string, error) {
	labels := strings.Split(strings.TrimSuffix(strings.ToLower(domain), "."), ".")
	for _, label := range labels {
		if !isLabel(label) {
			return "", fmt.Errorf("%q is no domain name, like services.example", domain)
		}
	}
	slices.Reverse(labels)
	return skydnsRoot + "/" + strings.Join(labels, "/"), nil
}

// hasStates reports whether a record that is not up has a key.
func (v View) hasStates() bool { return v.Layout == LayoutJSON }

// namesOwner reports whether values say whose they are.
func (v View) namesOwner() bool { return v.Layout != LayoutRegistrator }

// Key returns the key of a record, "" if it has none in this view, such as one that is not up in a layout
// without states. An error says why it cannot be written here.
func (v View) Key(r Record) (string, error) {
	if err := r.Validate(); err != nil {
		return "", err
	}
	return v.key(r)
}

// key returns the key of a record, "" if it has none in this view. An error says why it cannot be
// written here. If the record is not valid, the key is not to be used.
func (v View) key(r Record) (string, error) {
	service, name := r.Service, r.Instance
	switch {
	case r.State != StateUp && !v.hasStates():
		return "", nil
	case v.Layout == LayoutRegistrator && r.Port == 0:
		return "", nil
	case v.Layout == LayoutRegistrator && r.ID != "":
		name = r.ID
	case v.Layout == LayoutSkyDNS:
		label, err := skydnsName(service, name)
		if err != nil {
			return "", err
		}
		name = label
	}
	return v.Prefix + "/" + service + "/" + name, nil
}

// value returns what the key of a valid record holds.
func (v View) value(r Record) string {
	switch v.Layout {
	case LayoutRegistrator:
		return net.JoinHostPort(r.Address, strconv.Itoa(r.Port))
	case LayoutSkyDNS:
		return skydnsValue(r)
	case LayoutCoreOS:
		return coreosValue(r)
	}
	return r.encode()
}

// skydnsName returns the label of an instance. Names of services are taken as they are: changed, one
// could become another's.
func skydnsName(service, instance string) (string, error) {
	if !isLabel(service) {
		return "", fmt.Errorf("service name %q: is no DNS label of lower-case letters, digits, dashes and underscores, at most %d", service, labelBytesMax)
	}
	label := toLabel(instance)
	switch {
	case label == "":
		return "", fmt.Errorf("instance name %q: has no letter or digit for a DNS label", instance)
	case service == "dns" && (label == "ns" || label == "apex"):
		return "", fmt.Errorf("instance name %q: in a service called dns it means something else to CoreDNS", instance)
	}
	return label, nil
}

func skydnsValue(r Record) string {
	value := struct {
		Host   string `json:"host"`
		Port   int    `json:"port,omitempty"`
		Weight int    `json:"weight,omitempty"` // absent: the default; 0 would be that as well, not a drain
		TTL    int    `json:"ttl"`
		Owner  string `json:"owner,omitempty"`
	}{r.Address, r.Port, r.Weight, skydnsTTLSeconds, r.Owner}
	if r.Port == 0 {
		value.Port = -1 // no SRV record
	}
	return mustJSON(value)
}

// coreosValue holds Meta too, as fields that cannot take the place of the others.
func coreosValue(r Record) string {
	value := make(map[string]any, len(r.Meta)+3)
	for key, text := range r.Meta {
		if !strings.EqualFold(key, "host") && !strings.EqualFold(key, "port") && !strings.EqualFold(key, "owner") {
			value[key] = text
		}
	}
	value["host"], value["port"], value["owner"] = r.Address, r.Port, r.Owner
	return mustJSON(value)
}

// mustJSON encodes what consists of strings and numbers.
func mustJSON(value any) string {
	data, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("registry: strings and numbers cannot be encoded: %v", err))
	}
	return string(data)
}

// owner returns the owner that a value names, "" for none.
func (v View) owner(value string) string {
	if !v.namesOwner() || len(value) > valueBytesMax {
		return ""
	}
	var named struct{ Owner string }
	if json.Unmarshal([]byte(value), &named) != nil {
		return ""
	}
	return named.Owner
}

// endpoint returns the address and port that a value names, "" for none.
func (v View) endpoint(value string) (address string, port int) {
	if len(value) > valueBytesMax {
		return "", 0
	}
	var named struct {
		Host, Address string
		Port          int
	}
	switch v.Layout {
	case LayoutRegistrator:
		host, text, err := net.SplitHostPort(value)
		if err != nil {
			return "", 0
		}
		named.Host = host
		named.Port, _ = strconv.Atoi(text) // no number is no port of ours
	default:
		if json.Unmarshal([]byte(value), &named) != nil {
			return "", 0
		}
	}
	if v.Layout == LayoutJSON {
		return named.Address, named.Port
	}
	return named.Host, max(named.Port, 0)
}

const labelBytesMax = 63

// isLabel reports whether text is one label of a DNS name as resolvers ask for it.
func isLabel(text string) bool {
	ok := text != "" && len(text) <= labelBytesMax && text[0] != '-' && text[len(text)-1] != '-'
	for i := range len(text) {
		ok = ok && (isLabelByte(text[i]) || text[i] == '-' || text[i] == '_')
	}
	return ok
}

func isLabelByte(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// toLabel returns a label of a host name for text: in lower case, with dashes for what cannot be in
// one. A long text ends with a digest of the whole. "" if nothing is left.
func toLabel(text string) string {
	label := []byte(strings.ToLower(text))
	for i, c := range label {
		if !isLabelByte(c) {
			label[i] = '-'
		}
	}
	name := strings.Trim(string(label), "-")
	if len(name) > labelBytesMax {
		sum := digest(text)
		name = strings.TrimRight(name[:labelBytesMax-1-len(sum)], "-") + "-" + sum
	}
	return name
}
