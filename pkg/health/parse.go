package health

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Forms lists what Parse understands, for help texts and errors.
const Forms = "tcp, tcp:HOST:PORT, http:/PATH, https:/PATH, http://HOST/PATH, https://HOST/PATH, " +
	"grpc, grpc:/SERVICE, grpc://HOST:PORT/SERVICE, grpcs..., exec:COMMAND ARGS, docker, systemd, none"

// OwnForms lists what ParseOwn understands.
const OwnForms = "tcp, http:/PATH, https:/PATH, grpc, grpc:/SERVICE, grpcs, grpcs:/SERVICE, docker, systemd, none"

// textBytesMax bounds the text of a check.
const textBytesMax = 4 << 10

// Parse reads a check from its text. The short forms "tcp", "http:/path" and "grpc" ask the service
// itself, at address "HOST:PORT". "https+insecure" in place of "https", and "grpcs+insecure" in place
// of "grpcs", accept any certificate. After http and grpc forms options follow, separated by spaces:
//
//	host=NAME       what the server is told to be, and whose certificate it has to show
//	method=HEAD     http: or GET, which is the default, or OPTIONS
//	status=200-399  http: which statuses pass; one number is that one alone
//
// The words of an exec check are separated by spaces; nothing interprets quotes.
func Parse(text, address string) (Check, error) {
	check, err := parse(text, address)
	if err != nil {
		return nil, fmt.Errorf("check %.200q: %w", text, err)
	}
	return check, nil
}

// ParseOwn is Parse for a text that somebody else has written: it reads only checks that connect to
// address, or to nothing, and never runs a command.
func ParseOwn(text, address string) (Check, error) {
	scheme, rest, _ := strings.Cut(text, ":")
	elsewhere := strings.HasPrefix(rest, "//") || scheme == "tcp" && rest != "" || scheme == "exec"
	if elsewhere {
		return nil, fmt.Errorf("check %.200q: asks for more than the service itself; use one of: %s", text, OwnForms)
	}
	return Parse(text, address)
}

func parse(text, address string) (Check, error) {
	if len(text) > textBytesMax {
		return nil, fmt.Errorf("%d bytes: at most %d are allowed", len(text), textBytesMax)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || r == unicode.ReplacementChar }) {
		return nil, errors.New("only visible characters and spaces are allowed")
	}
	scheme, rest, _ := strings.Cut(text, ":")
	switch {
	case text == "none":
		return None{}, nil
	case text == "docker" || text == "systemd":
		return Engine{Name: text}, nil
	case text == "tcp":
		return parseTCP(address)
	case scheme == "tcp":
		return parseTCP(rest)
	case scheme == "exec":
		return parseExec(rest)
	}
	words := strings.Fields(text)
	if len(words) == 0 {
		return nil, errUnknownForm
	}
	scheme, rest, _ = strings.Cut(words[0], ":")
	switch scheme {
	case "http", "https", "https+insecure":
		return parseHTTP(scheme, rest, address, words[1:])
	case "grpc", "grpcs", "grpcs+insecure":
		return parseGRPC(scheme, rest, address, words[1:])
	}
	return nil, errUnknownForm
}

var errUnknownForm = errors.New("unknown form; use one of: " + Forms)

func parseTCP(address string) (Check, error) {
	if err := validateAddress(address); err != nil {
		return nil, err
	}
	return TCP{Address: address}, nil
}

func parseExec(line string) (Check, error) {
	args := strings.Fields(line)
	if len(args) == 0 {
		return nil, errors.New("the command is missing, as in exec:/usr/local/bin/check web")
	}
	if strings.ContainsAny(line, `"'`) {
		return nil, errors.New("quotes are not interpreted because there is no shell; put the command into a script")
	}
	if _, err := exec.LookPath(args[0]); err != nil {
		return nil, err
	}
	return Exec{Args: args}, nil
}

func parseHTTP(scheme, rest, address string, options []string) (Check, error) {
	check := HTTP{Insecure: scheme == "https+insecure"}
	if check.Insecure {
		scheme = "https"
	}
	if !strings.HasPrefix(rest, "/") {
		return nil, errors.New("a path or an address must follow, as in http:/healthz or http://127.0.0.1:8080/healthz")
	}
	u, err := parseURL(scheme, rest, address)
	if err != nil {
		return nil, err
	}
	check.URL = u.String()
	for _, option := range options {
		if err := check.set(option); err != nil {
			return nil, err
		}
	}
	return check, nil
}

// set takes in an option.
func (c *HTTP) set(option string) (err error) {
	key, value, _ := strings.Cut(option, "=")
	switch key {
	case "host":
		c.Host, err = parseHost(value)
		return err
	case "method":
		if !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, value) {
			return fmt.Errorf("%s: must be GET, HEAD or OPTIONS: a check changes nothing", option)
		}
		c.Method = value
		return nil
	case "status":
		first, last, isRange := strings.Cut(value, "-")
		if !isRange {
			last = first
		}
		low, lowErr := strconv.Atoi(first)
		high, highErr := strconv.Atoi(last)
		if lowErr != nil || highErr != nil || low < 100 || high > 599 || low > high {
			return fmt.Errorf("%s: must be a status or two, like 204 or 200-399", option)
		}
		c.StatusMin, c.StatusMax = low, high
		return nil
	}
	return fmt.Errorf("unknown option %q; use host=NAME, method=HEAD or status=200-399", option)
}

func parseGRPC(scheme, rest, address string, options []string) (Check, error) {
	check := GRPC{Secure: scheme != "grpc", Insecure: scheme == "grpcs+insecure"}
	if rest == "" {
		rest = "/"
	}
	if !strings.HasPrefix(rest, "/") {
		return nil, errors.New("a service or an address must follow, as in grpc:/my.package.Service or grpc://127.0.0.1:9000/my.package.Service")
	}
	u, err := parseURL("http", rest, address)
	if err != nil {
		return nil, err
	}
	check.Address, check.Service = u.Host, strings.TrimPrefix(u.Path, "/")
	if err := validateAddress(check.Address); err != nil {
		return nil, err
	}
	if u.RawQuery != "" || u.ForceQuery || strings.ContainsFunc(check.Service, notInServiceName) {
		return nil, fmt.Errorf("%q is no name of a gRPC service, like my.package.Service", rest)
	}
	for _, option := range options {
		key, value, _ := strings.Cut(option, "=")
		if key != "host" {
			return nil, fmt.Errorf("unknown option %q; use host=NAME", option)
		}
		if check.Host, err = parseHost(value); err != nil {
			return nil, err
		}
	}
	return check, nil
}

func notInServiceName(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./", r))
}

// parseURL reads "//HOST/PATH", or "/PATH" at address.
func parseURL(scheme, rest, address string) (*url.URL, error) {
	if !strings.HasPrefix(rest, "//") {
		if err := validateAddress(address); err != nil {
			return nil, err
		}
		rest = "//" + address + rest
	}
	u, err := url.Parse(scheme + ":" + rest)
	if err != nil {
		return nil, err
	}
	if u.Hostname() == "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("must be like %s://HOST:PORT/PATH, without a user or a fragment", scheme)
	}
	return u, nil
}

// parseHost reads a host name or address, with or without a port.
func parseHost(text string) (string, error) {
	u, err := url.Parse("http://" + text)
	if err != nil || u.Host != text || u.Hostname() == "" {
		return "", fmt.Errorf("host=%s: must be a host name or an address", text)
	}
	return text, nil
}

func validateAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%w; expected HOST:PORT", err)
	}
	if number, err := strconv.Atoi(port); err != nil || number < 1 || number > 65535 {
		return fmt.Errorf("port %q: must be 1 to 65535", port)
	}
	if host == "" {
		return fmt.Errorf("address %q: the host is missing", address)
	}
	return nil
}
