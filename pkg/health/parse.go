package health

import (
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
)

// Forms lists what Parse understands, for help texts and errors.
const Forms = "tcp, tcp:HOST:PORT, http:/PATH, https:/PATH, http://HOST/PATH, https://HOST/PATH, exec:COMMAND ARGS, none"

// Parse reads a check from its text. The short forms "tcp", "http:/path" and "https:/path" ask
// the service itself, at address "HOST:PORT". "https+insecure" in place of "https" accepts any
// certificate. The words of an exec check are separated by spaces; nothing interprets quotes.
func Parse(text, address string) (Check, error) {
	scheme, rest, _ := strings.Cut(text, ":")
	switch {
	case text == "none":
		return None{}, nil
	case text == "tcp":
		return parseTCP(text, address)
	case scheme == "tcp":
		return parseTCP(text, rest)
	case scheme == "exec":
		return parseExec(text, rest)
	case scheme == "http" || scheme == "https" || scheme == "https+insecure":
		return parseHTTP(text, scheme, rest, address)
	}
	return nil, fmt.Errorf("check %q: unknown form; use one of: %s", text, Forms)
}

func parseTCP(text, address string) (Check, error) {
	if err := validateAddress(address); err != nil {
		return nil, fmt.Errorf("check %q: %w", text, err)
	}
	return TCP{Address: address}, nil
}

func parseExec(text, line string) (Check, error) {
	args := strings.Fields(line)
	if len(args) == 0 {
		return nil, fmt.Errorf("check %q: the command is missing, as in exec:/usr/local/bin/check web", text)
	}
	if strings.ContainsAny(line, `"'`) {
		return nil, fmt.Errorf("check %q: quotes are not interpreted because there is no shell; put the command into a script", text)
	}
	if _, err := exec.LookPath(args[0]); err != nil {
		return nil, fmt.Errorf("check %q: %w", text, err)
	}
	return Exec{Args: args}, nil
}

func parseHTTP(text, scheme, rest, address string) (Check, error) {
	insecure := scheme == "https+insecure"
	if insecure {
		scheme = "https"
	}
	if !strings.HasPrefix(rest, "/") {
		return nil, fmt.Errorf("check %q: a path or an address must follow, as in http:/healthz or http://127.0.0.1:8080/healthz", text)
	}
	if !strings.HasPrefix(rest, "//") {
		if err := validateAddress(address); err != nil {
			return nil, fmt.Errorf("check %q: %w", text, err)
		}
		rest = "//" + address + rest
	}
	u, err := url.Parse(scheme + ":" + rest)
	if err != nil {
		return nil, fmt.Errorf("check %q: %w", text, err)
	}
	if u.Hostname() == "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("check %q: must be like http://HOST:PORT/PATH, without a user or a fragment", text)
	}
	return HTTP{URL: u.String(), Insecure: insecure}, nil
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
