package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits on a record. They keep one careless host from filling the store, and every name short
// enough to become part of a DNS name or of a line in a proxy's configuration.
const (
	nameBytesMax  = 253
	valueBytesMax = 64 << 10
	tagsMax       = 64
	metaMax       = 64
	ttlMin        = time.Second
	ttlMax        = 24 * time.Hour
)

// WeightMax is the highest Weight of a Record: no more than every proxy understands.
const WeightMax = 256

// Key returns the record's key below prefix: PREFIX/SERVICE/INSTANCE. The record must be valid.
func (r Record) Key(prefix string) string { return prefix + "/" + r.Service + "/" + r.Instance }

// Validate reports everything that is wrong with the record, nil if nothing is.
func (r Record) Validate() error {
	states := []string{StateUp, StateDraining, StateMaintenance, StateUnhealthy}
	problems := []error{validateName("service name", r.Service), validateName("instance name", r.Instance)}
	if r.ID != "" {
		problems = append(problems, validateName("id", r.ID))
	}
	if err := validateAddress(r.Address); err != nil {
		problems = append(problems, err)
	}
	if r.Port < 0 || r.Port > 65535 {
		problems = append(problems, fmt.Errorf("port %d: must be 1 to 65535, or 0 for a service without a port", r.Port))
	}
	if r.Protocol != "tcp" && r.Protocol != "udp" {
		problems = append(problems, fmt.Errorf("protocol %q: must be tcp or udp", r.Protocol))
	}
	if !slices.Contains(states, r.State) {
		problems = append(problems, fmt.Errorf("state %q: must be one of %s", r.State, strings.Join(states, ", ")))
	}
	if r.Weight < 0 || r.Weight > WeightMax {
		problems = append(problems, fmt.Errorf("weight %d: must be 1 to %d, or 0 for no weight", r.Weight, WeightMax))
	}
	if len(r.Tags) > tagsMax {
		problems = append(problems, fmt.Errorf("%d tags: at most %d are allowed", len(r.Tags), tagsMax))
	}
	for _, tag := range r.Tags {
		problems = append(problems, validateText("tag", tag))
	}
	if len(r.Meta) > metaMax {
		problems = append(problems, fmt.Errorf("%d meta entries: at most %d are allowed", len(r.Meta), metaMax))
	}
	for key, value := range r.Meta {
		problems = append(problems, validateText("meta key", key), validateBytes("meta value", value))
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	if size := len(r.encode()); size > valueBytesMax {
		return fmt.Errorf("record of %d bytes: at most %d are allowed; shorten its meta entries", size, valueBytesMax)
	}
	return nil
}

// ValidateTTL reports whether a publisher can keep keys alive with this TTL.
func ValidateTTL(ttl time.Duration) error {
	if ttl < ttlMin || ttl > ttlMax || ttl%time.Second != 0 {
		return fmt.Errorf("ttl %v: must be whole seconds from %v to %v", ttl, ttlMin, ttlMax)
	}
	return nil
}

// ValidatePrefix reports whether prefix can be the directory of all services.
func ValidatePrefix(prefix string) error {
	if !strings.HasPrefix(prefix, "/") {
		return fmt.Errorf("prefix %q: must begin with a slash, like %s", prefix, DefaultPrefix)
	}
	if prefix == "/" {
		return fmt.Errorf("prefix %q: services need a directory below the root, like %s", prefix, DefaultPrefix)
	}
	for _, segment := range strings.Split(prefix[1:], "/") {
		if segment == "" {
			return fmt.Errorf("prefix %q: has a slash too many; write it like %s", prefix, DefaultPrefix)
		}
		if err := validateName("prefix segment", segment); err != nil {
			return err
		}
	}
	return nil
}

// ValidateName reports whether name, which the error calls what, can be exactly one visible segment of
// a key, as the names of services and instances have to be.
func ValidateName(what, name string) error { return validateName(what, name) }

// validateName accepts what can be exactly one visible segment of a key.
func validateName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s is missing", what)
	case len(name) > nameBytesMax:
		return fmt.Errorf("%s of %d bytes: at most %d are allowed", what, len(name), nameBytesMax)
	case name == "." || name == "..":
		return fmt.Errorf("%s %q: is a path, not a name", what, name)
	case strings.HasPrefix(name, "_"):
		return fmt.Errorf("%s %q: keys that begin with '_' are hidden; choose another first letter", what, name)
	case strings.Contains(name, "/"):
		return fmt.Errorf("%s %q: must be one segment, without a slash", what, name)
	}
	return validateBytes(what, name)
}

func validateText(what, text string) error {
	if text == "" {
		return fmt.Errorf("a %s is empty", what)
	}
	return validateBytes(what, text)
}

// validateBytes refuses bytes that could break out of one line of a file made from the record.
func validateBytes(what, text string) error {
	for i := range len(text) {
		if text[i] < ' ' || text[i] == 0x7f {
			return fmt.Errorf("%s %q: control bytes are not allowed", what, text)
		}
	}
	if !utf8.ValidString(text) {
		return fmt.Errorf("%s %q: is not UTF-8", what, text)
	}
	return nil
}

func validateAddress(address string) error {
	if address == "" {
		return errors.New("address is missing")
	}
	ip, err := netip.ParseAddr(address)
	switch {
	case err == nil && ip.IsUnspecified():
		return fmt.Errorf("address %s: stands for every address of a host; nobody can connect to it", address)
	case err == nil && ip.Zone() != "":
		return fmt.Errorf("address %s: an address with a zone means something on its own host only", address)
	case err == nil:
		return nil
	case len(address) > nameBytesMax, strings.HasPrefix(address, "-"), strings.ContainsFunc(address, notInHostName):
		return fmt.Errorf("address %q: must be an IP address or a host name, without a port", address)
	}
	return nil
}

func notInHostName(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r))
}

// encode returns the one JSON spelling of a record, so that values can be compared as strings.
func (r Record) encode() string {
	data, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("registry: a record of strings and numbers cannot be encoded: %v", err))
	}
	return string(data)
}

// Decode reads a record from the value of its key. It accepts unknown fields, which a newer
// version may have written, and does not validate: call Validate before trusting a record.
func Decode(value string) (Record, error) {
	var r Record
	if len(value) > valueBytesMax {
		return r, fmt.Errorf("not a service record: %d bytes, at most %d are allowed", len(value), valueBytesMax)
	}
	if err := json.Unmarshal([]byte(value), &r); err != nil {
		return r, fmt.Errorf("not a service record: %w", err)
	}
	return r, nil
}
