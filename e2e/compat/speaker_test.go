package compat

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience bounds the wait for an answer that must come; doubt for one that is known not to.
const (
	patience = 20 * time.Second
	doubt    = time.Second
)

// speaker holds one dialogue with one server.
type speaker struct {
	url     string
	home    string // "/t7": the dialogue's directory
	base    int64  // the server's index when the dialogue began
	pending map[string]*pending
	client  *http.Transport
}

// pending is a request whose answer is read piece by piece. One goroutine owns the body and sends
// its lines; the channel is closed at the end of the body.
type pending struct {
	cancel context.CancelFunc
	lines  chan string
}

func newSpeaker(t *testing.T, url, home string) *speaker {
	t.Helper()
	s := &speaker{url: url, home: home, pending: map[string]*pending{}, client: &http.Transport{DisableCompression: true}}
	t.Cleanup(s.client.CloseIdleConnections)
	response, cancel, err := s.request(t.Context(), "GET /v2/keys/_no_such_key")
	if err != nil {
		t.Fatal(err)
	}
	defer cancel()
	defer response.Body.Close()
	if s.base, err = strconv.ParseInt(response.Header.Get("X-Etcd-Index"), 10, 64); err != nil {
		t.Fatalf("%s: no index in %v", url, response.Header)
	}
	return s
}

func (s *speaker) hangUp() {
	for _, p := range s.pending {
		p.cancel()
		for range p.lines { // until its reader has closed the channel
		}
	}
}

// say performs one step and returns the normalised answer: status, headers, empty line, body for a
// request; the line or "(end)" or "(nothing)" for a piece of a pending one.
func (s *speaker) say(ctx context.Context, text string, wait time.Duration) (string, error) {
	text = expand(text, s.home, s.base)
	name, rest, named := strings.Cut(text, ": ")
	if named && !strings.ContainsAny(name, " /") {
		return s.begin(ctx, name, rest)
	}
	if p := s.pending[strings.Fields(text)[0]]; p != nil {
		return s.piece(p, strings.Fields(text)[1], wait)
	}
	if count, rest, many := strings.Cut(text, " times "); many {
		n, err := strconv.Atoi(count)
		if err != nil {
			return "", err
		}
		for range n - 1 {
			if _, err := s.exchange(ctx, rest); err != nil {
				return "", err
			}
		}
		text = rest
	}
	return s.exchange(ctx, text)
}

// exchange sends a request and reads the whole answer.
func (s *speaker) exchange(ctx context.Context, text string) (string, error) {
	response, cancel, err := s.request(ctx, text)
	if err != nil {
		return "", err
	}
	defer cancel()
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	length := len(body)
	if response.Request.Method == http.MethodHead {
		length = int(response.ContentLength) // the length of the body that GET would have
	}
	return fmt.Sprintf("%d\n%s\n\n%s", response.StatusCode, normalHeader(response.Header, length, s.base), normalBody(string(body), s.base)), nil
}

// request sends "METHOD /target word..." and returns once the headers are here.
func (s *speaker) request(ctx context.Context, text string) (*http.Response, context.CancelFunc, error) {
	ctx, cancel := context.WithCancel(ctx)
	words := strings.Fields(text)
	if len(words) < 2 {
		cancel()
		return nil, nil, fmt.Errorf("not a request: %q", text)
	}
	var form []string
	header := http.Header{}
	for _, word := range words[2:] {
		if name, value, isHeader := strings.Cut(word, ":"); isHeader && !strings.Contains(name, "=") {
			header.Set(name, value)
			continue
		}
		form = append(form, word)
	}
	var body io.Reader
	if len(form) > 0 {
		body = strings.NewReader(strings.Join(form, "&"))
		if _, given := header["Content-Type"]; !given {
			header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	}
	if header.Get("Content-Type") == "none" {
		header.Del("Content-Type")
	}
	r, err := http.NewRequestWithContext(ctx, words[0], s.url+words[1], body)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	r.Header = header
	response, err := s.client.RoundTrip(r)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return response, cancel, nil
}

func (s *speaker) begin(ctx context.Context, name, text string) (string, error) {
	response, cancel, err := s.request(ctx, text)
	if err != nil {
		return "", err
	}
	p := &pending{cancel: cancel, lines: make(chan string)}
	s.pending[name] = p
	go func() {
		defer close(p.lines)
		defer response.Body.Close()
		reader := bufio.NewReader(response.Body)
		for {
			line, err := reader.ReadString('\n')
			if line != "" {
				select {
				case p.lines <- line:
				case <-response.Request.Context().Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return fmt.Sprintf("%d\n%s", response.StatusCode, normalHeader(response.Header, -1, s.base)), nil
}

func (s *speaker) piece(p *pending, what string, wait time.Duration) (string, error) {
	if what == "close" {
		p.cancel()
		return "", nil
	}
	select {
	case line, open := <-p.lines:
		if !open {
			return "(end)", nil
		}
		return normalBody(line, s.base), nil
	case <-time.After(wait):
		return "(nothing)", nil
	}
}
