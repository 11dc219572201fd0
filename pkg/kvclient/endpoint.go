package kvclient

import (
	"fmt"
	"net"
	"net/url"
	"strings"
)

const defaultPort = "2379"

// parseEndpoints returns the base URLs of the endpoints, without path.
func parseEndpoints(texts []string, secure bool) ([]*url.URL, error) {
	if len(texts) == 0 {
		texts = []string{DefaultEndpoint}
	}
	endpoints := make([]*url.URL, 0, len(texts))
	for _, text := range texts {
		endpoint, err := parseEndpoint(strings.TrimSpace(text), secure)
		if err != nil {
			return nil, err
		}
		endpoints = append(endpoints, endpoint)
	}
	return endpoints, nil
}

func parseEndpoint(text string, secure bool) (*url.URL, error) {
	full, bare := text, !strings.Contains(text, "://")
	if bare {
		scheme := "http://"
		if secure {
			scheme = "https://"
		}
		full = scheme + text
	}
	u, err := url.Parse(full)
	switch {
	case err != nil || u.Hostname() == "":
		return nil, fmt.Errorf("endpoint %q is not a URL such as %s", text, DefaultEndpoint)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("endpoint %q: the scheme must be http or https", text)
	case u.User != nil:
		return nil, fmt.Errorf("endpoint %q: name the user with --username, not in the URL", u.Redacted())
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("endpoint %q: only scheme, host and port belong here, such as %s://%s", text, u.Scheme, u.Host)
	}
	host := u.Host
	if bare && u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), defaultPort)
	}
	endpoint := &url.URL{Scheme: u.Scheme, Host: host}
	if again, err := url.Parse(endpoint.String()); err != nil || again.Host != host { // an IPv6 zone can be such
		return nil, fmt.Errorf("endpoint %q has a host that cannot be written in a URL", text)
	}
	return endpoint, nil
}

// turn returns the positions of all endpoints, that of the pinned one first.
func (c *Client) turn() []int {
	order := make([]int, len(c.endpoints))
	for i := range order {
		order[i] = (int(c.pinned.Load()) + i) % len(c.endpoints)
	}
	return order
}

// unpin makes the endpoint after i the first to try, unless another has been pinned meanwhile.
func (c *Client) unpin(i int) {
	c.pinned.CompareAndSwap(int64(i), int64((i+1)%len(c.endpoints)))
}
