package daemon_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// stopRoundsVariable says how often a member is stopped among writers.
const stopRoundsVariable = "KVD_STOP_ROUNDS"

// ends counts how requests ended that were sent while a member stopped.
type ends struct {
	mu       sync.Mutex // guards the fields below
	answered int
	refused  int // there was no connection
	cut      int // the connection ended in order, without an answer
	other    []string
}

// note counts the end of one request, and reports whether it was answered.
func (e *ends) note(err error) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err == nil:
		e.answered++
	case errors.Is(err, syscall.ECONNREFUSED):
		e.refused++
	case !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "server closed idle connection")):
		e.cut++
	default:
		e.other = append(e.other, err.Error())
	}
	return err == nil
}

func (e *ends) all() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.answered
}

// request is how one kind of client writes once.
type request func() error

// overRaw returns a client that keeps its connection as long as the server lets it.
func overRaw(address string) (request, func()) {
	var conn net.Conn
	var answers *bufio.Reader
	drop := func() {
		if conn != nil {
			conn.Close()
			conn = nil
		}
	}
	return func() error {
		if conn == nil {
			var err error
			if conn, err = net.Dial("tcp", address); err != nil {
				conn = nil
				return err
			}
			answers = bufio.NewReader(conn)
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, err := io.WriteString(conn, "PUT /v2/keys/raw HTTP/1.1\r\nHost: "+address+"\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\nvalue=v")
		if err != nil {
			drop()
			return err
		}
		answer, err := http.ReadResponse(answers, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, answer.Body)
		}
		if err != nil || answer.Close {
			drop()
		}
		return err
	}, drop
}

// overCurl returns a client that makes a connection for each request.
func overCurl(base string) request {
	return func() error {
		output, err := exec.Command("curl", "--silent", "--show-error", "--max-time", "20", "--output", os.DevNull, base+"/v2/keys/curl", "--data", "value=v", "--request", "PUT").CombinedOutput()
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit) && exit.ExitCode() == 7:
			return syscall.ECONNREFUSED
		case err != nil:
			return fmt.Errorf("curl: %w: %s", err, output)
		}
		return nil
	}
}

func TestAStopAnswersEveryRequestThatReachedTheMember(t *testing.T) {
	rounds := 5
	if text := os.Getenv(stopRoundsVariable); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s: %v", stopRoundsVariable, err)
		}
	}
	parts.Path(t, "curl")
	kinds := map[string]*ends{}
	for round := range rounds {
		stopAmongWriters(t, kinds)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	for kind, e := range kinds {
		t.Logf("%-18s %6d answered, %4d without a connection, %d cut, %d other ends: %q", kind, e.answered, e.refused, e.cut, len(e.other), e.other[:min(len(e.other), 3)])
		if len(e.other) > 0 {
			t.Errorf("%s: %d requests of %d ended otherwise than with an answer, the end of the connection, or without one", kind, len(e.other), e.answered)
		}
	}
}

// stopAmongWriters stops a member while clients of all kinds write to it until it has gone.
func stopAmongWriters(t *testing.T, kinds map[string]*ends) {
	p := startProcess(t)
	address := strings.TrimPrefix(p.url, "http://")
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	defer writers.Wait()
	defer cancel()
	start := func(kind string, pause time.Duration, once request, end func()) {
		e := kinds[kind]
		if e == nil {
			e = &ends{}
			kinds[kind] = e
		}
		writers.Go(func() {
			defer end()
			for ctx.Err() == nil {
				wait := time.Duration(rand.Int64N(int64(pause) + 1))
				if !e.note(once()) {
					wait = 10 * time.Millisecond // the machine is for those who still write
				}
				select {
				case <-ctx.Done():
				case <-time.After(wait):
				}
			}
		})
	}
	for i := range 16 {
		key := fmt.Sprint("/go", i)
		client := &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
		pause, suffix := time.Duration(0), ", at once"
		if i%2 == 1 {
			pause, suffix = 40*time.Millisecond, ", now and then"
		}
		start("Go"+suffix, pause, func() error { return put(client, p.url, key, url.Values{"value": {"v"}}) }, client.CloseIdleConnections)
		once, end := overRaw(address)
		start("raw"+suffix, pause, once, end)
	}
	client := &http.Client{Transport: &http.Transport{Protocols: new(http.Protocols)}, Timeout: 20 * time.Second}
	client.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
	for i := range 8 {
		key := fmt.Sprint("/http2-", i)
		start("HTTP/2", time.Duration(i%2)*40*time.Millisecond, func() error { return put(client, p.url, key, url.Values{"value": {"v"}}) }, client.CloseIdleConnections)
	}
	for range 2 {
		start("curl", 0, overCurl(p.url), func() {})
	}
	for kind, e := range kinds { // until all of them are at it
		for before, deadline := e.all(), time.Now().Add(20*time.Second); e.all() < before+10; {
			if time.Now().After(deadline) {
				t.Errorf("%s does not write", kind)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.log)
	}
}
