package kvclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// serve returns the URL of a server that answers with h and counts its requests.
func serve(t testing.TB, h http.HandlerFunc) (url string, requests *atomic.Int64) {
	t.Helper()
	requests = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		h(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, requests
}

// good answers every call with one event.
func good(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Etcd-Index", "7")
	w.Header().Set("X-Raft-Index", "8")
	w.Header().Set("X-Raft-Term", "9")
	w.WriteHeader(http.StatusCreated)
	fmt.Fprint(w, `{"action":"set","node":{"key":"/a","value":"1","modifiedIndex":7,"createdIndex":7}}`)
}

// says answers every call with a status and a body.
func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// hangUp reads the request and closes the connection without an answer.
func hangUp(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	panic(http.ErrAbortHandler)
}

// silent never answers. The server notices that its client has gone only once the body was read.
func silent(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// refusing returns a URL where nobody listens.
func refusing(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	return "http://" + listener.Addr().String()
}

// inOrder is a Config that tries the endpoints as they are given.
func inOrder(endpoints ...string) kvclient.Config {
	return kvclient.Config{Endpoints: endpoints, Shuffle: func(int, func(i, j int)) {}}
}

var (
	aRead  = kv.Read{Key: "/a"}
	aWrite = kv.Write{Op: kv.OpSet, Key: "/a", Value: "1"}
)

func TestHeadersBecomeTheResult(t *testing.T) {
	url, _ := serve(t, good)
	result, err := open(t, inOrder(url)).Write(t.Context(), aWrite)
	if err != nil {
		t.Fatal(err)
	}
	if !result.Created || result.Index != 7 || result.RaftIndex != 8 || result.RaftTerm != 9 || result.Node.Value != "1" {
		t.Errorf("got %+v", result)
	}
}

func TestRefusedEverywhereIsUnavailableAndSaysWhatToTry(t *testing.T) {
	one, two := refusing(t), refusing(t)
	client := open(t, inOrder(one, two))
	// The bound is what a user is promised, not a measurement.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, readErr := client.Read(ctx, aRead)
	_, writeErr := client.Write(ctx, aWrite)
	_, watchErr := client.Watch(ctx, kv.WatchFrom{Key: "/a"})
	for _, err := range []error{readErr, writeErr, watchErr} {
		if !kv.Is(err, kv.Unavailable) || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got %v, want the kind %q", err, kv.Unavailable)
			continue
		}
		for _, part := range []string{strings.TrimPrefix(one, "http://"), strings.TrimPrefix(two, "http://") + ": connection refused", "is kvd running?", "--endpoints"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not say %q", err, part)
			}
		}
	}
}

func TestTheNextEndpointIsAskedAndThenKept(t *testing.T) {
	dead := refusing(t)
	alive, requests := serve(t, good)
	spare, spared := serve(t, good)
	client := open(t, inOrder(dead, alive, spare))
	for range 3 {
		if _, err := client.Write(t.Context(), aWrite); err != nil {
			t.Fatal(err)
		}
	}
	if requests.Load() != 3 || spared.Load() != 0 {
		t.Errorf("asked %d and %d times, want all 3 at the first that works", requests.Load(), spared.Load())
	}
}

func TestClientsOfAFailedEndpointSpreadOverTheOthers(t *testing.T) {
	dead := refusing(t)
	one, _ := serve(t, good)
	two, _ := serve(t, good)
	next := map[string]int{} // where those went who had met the dead one first
	for range 100 {
		var asked []string
		cfg := kvclient.Config{Endpoints: []string{dead, one, two}}
		cfg.OnRequest = func(_, url, _ string) { asked = append(asked, strings.TrimSuffix(url, "/v2/keys/a")) }
		client := open(t, cfg)
		if _, err := client.Write(t.Context(), aWrite); err != nil {
			t.Fatal(err)
		}
		client.Close()
		if asked[0] == dead {
			next[asked[1]]++
		}
	}
	if next[one] == 0 || next[two] == 0 {
		t.Errorf("of those that met the dead endpoint first %d went to one of the others and %d to the other", next[one], next[two])
	}
}

func TestAWriteThatMayHaveHappenedIsNotRepeated(t *testing.T) {
	for _, c := range []struct {
		name string
		h    http.HandlerFunc
		kind kv.Kind
	}{
		{"connection lost", hangUp, kv.Unknown},
		{"no answer in time", silent, kv.Timeout},
		{"timed out in the cluster", says(500, `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: request timed out","index":0}`), kv.Timeout},
		{"unknown trouble in the cluster", says(500, `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: server stopped","index":0}`), kv.Unknown},
		{"a proxy in between", says(504, "gateway timeout"), kv.Unknown},
		{"an answer that is no event", says(200, "<html>"), kv.Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, requests := serve(t, c.h)
			spare, spared := serve(t, good)
			cfg := inOrder(url, spare)
			cfg.RequestTimeout = 200 * time.Millisecond
			_, err := open(t, cfg).Write(t.Context(), aWrite)
			if !kv.Is(err, c.kind) {
				t.Errorf("got %v, want the kind %q", err, c.kind)
			}
			if requests.Load() != 1 || spared.Load() != 0 {
				t.Errorf("sent %d times, and %d times elsewhere", requests.Load(), spared.Load())
			}
		})
	}
}

func TestAWriteThatSurelyDidNotHappenGoesToTheNextEndpoint(t *testing.T) {
	for body, kind := range map[string]kv.Kind{
		`{"errorCode":301,"message":"During Leader Election","index":0}`:                                      kv.NoLeader,
		`{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: no leader","index":0}`:         kv.NoLeader,
		`{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: too many requests","index":0}`: kv.Unavailable,
	} {
		url, _ := serve(t, says(500, body))
		spare, _ := serve(t, good)
		if _, err := open(t, inOrder(url, spare)).Write(t.Context(), aWrite); err != nil {
			t.Errorf("after %s: %v", body, err)
		}
		if _, err := open(t, inOrder(url)).Write(t.Context(), aWrite); !kv.Is(err, kind) {
			t.Errorf("got %v, want the kind %q", err, kind)
		}
	}
}

func TestAReadGoesToTheNextEndpointAfterAnyTrouble(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"connection lost":   hangUp,
		"no answer in time": silent,
		"server error":      says(500, `{"errorCode":300,"message":"Raft Internal Error","cause":"x","index":0}`),
		"proxy error":       says(503, "try later"),
	} {
		t.Run(name, func(t *testing.T) {
			url, _ := serve(t, h)
			spare, _ := serve(t, good)
			cfg := inOrder(url, spare)
			cfg.RequestTimeout = 200 * time.Millisecond
			if _, err := open(t, cfg).Read(t.Context(), aRead); err != nil {
				t.Error(err)
			}
			cfg = inOrder(url)
			cfg.RequestTimeout = 200 * time.Millisecond
			if _, err := open(t, cfg).Read(t.Context(), aRead); !kv.Temporary(err) {
				t.Errorf("alone: got %v, want a temporary error", err)
			}
		})
	}
}

func TestAServerThatRefusesIsNotDoubted(t *testing.T) {
	url, _ := serve(t, says(404, `{"errorCode":100,"message":"Key not found","cause":"/a","index":12}`))
	spare, spared := serve(t, good)
	_, err := open(t, inOrder(url, spare)).Read(t.Context(), aRead)
	var e *kv.Error
	if !errors.As(err, &e) || e.Kind != kv.NotFound || e.Cause != "/a" || e.Index != 12 || e.Key != "/a" {
		t.Errorf("got %v", err)
	}
	if spared.Load() != 0 {
		t.Error("asked another endpoint all the same")
	}
}

func TestARedirectKeepsMethodAndBody(t *testing.T) {
	var got string
	target, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		_, _, authorised := r.BasicAuth()
		got = fmt.Sprintf("%s %s value=%s password=%v", r.Method, r.URL.Path, r.PostForm.Get("value"), authorised)
		good(w, r)
	})
	for _, status := range []int{301, 302, 303, 307, 308} {
		url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", target+r.URL.RequestURI())
			w.WriteHeader(status)
		})
		cfg := inOrder(url)
		cfg.Username = "root:secret"
		if _, err := open(t, cfg).Write(t.Context(), aWrite); err != nil {
			t.Fatal(err)
		}
		if want := "PUT /v2/keys/a value=1 password=false"; got != want {
			t.Errorf("%d: got %s, want %s", status, got, want)
		}
		cfg = inOrder(url, target)
		cfg.Username = "root:secret"
		if _, err := open(t, cfg).Write(t.Context(), aWrite); err != nil {
			t.Fatal(err)
		}
		if want := "PUT /v2/keys/a value=1 password=true"; got != want {
			t.Errorf("%d to an endpoint: got %s, want %s", status, got, want)
		}
	}
}

func TestACircleOfRedirectsEnds(t *testing.T) {
	url, requests := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	})
	_, err := open(t, inOrder(url)).Read(t.Context(), aRead)
	if err == nil || !strings.Contains(err.Error(), "redirected more than 10 times") || requests.Load() != 11 {
		t.Errorf("after %d requests: %v", requests.Load(), err)
	}
}

func TestAnAnswerOverTheLimitIsRefused(t *testing.T) {
	url, _ := serve(t, says(200, `{"action":"get","node":{"value":"`+strings.Repeat("x", 2000)+`"}}`))
	cfg := inOrder(url)
	cfg.ResponseBytesMax = 1000
	client := open(t, cfg)
	if _, err := client.Read(t.Context(), aRead); !kv.Is(err, kv.TooLarge) {
		t.Errorf("read: %v, want the kind %q", err, kv.TooLarge)
	}
	if _, err := client.Write(t.Context(), aWrite); !kv.Is(err, kv.Unknown) {
		t.Errorf("write: %v, want the kind %q", err, kv.Unknown)
	}
}

func TestAWriteOverTheServersLimitIsTooLarge(t *testing.T) {
	client := open(t, inOrder(daemontest.Start(t, 1).URL()))
	_, err := client.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: "/a", Value: strings.Repeat("x", 2<<20)})
	if !kv.Is(err, kv.TooLarge) {
		t.Errorf("got %v, want the kind %q", err, kv.TooLarge)
	}
}

func TestAServerOfAnotherKindIsNamed(t *testing.T) {
	url, _ := serve(t, http.NotFound)
	_, err := open(t, inOrder(url)).Read(t.Context(), aRead)
	if kv.Temporary(err) || !strings.Contains(err.Error(), "does not serve the v2 API") {
		t.Errorf("got %v", err)
	}
}

func TestGarbageIsAnErrorAndNoPanic(t *testing.T) {
	for _, body := range []string{"", "{", "null", "[]", `{"action":"get"}`, `{"action":"get","node":5}`, `{"node":{"nodes":[null]}}`, "\x00\xff"} {
		for _, status := range []int{200, 201, 204, 400, 401, 404, 418, 500} {
			url, _ := serve(t, says(status, body))
			client := open(t, inOrder(url))
			if _, err := client.Read(t.Context(), aRead); err == nil {
				t.Errorf("read accepts %d %q", status, body)
			}
			if _, err := client.Write(t.Context(), aWrite); err == nil {
				t.Errorf("write accepts %d %q", status, body)
			}
			if w, err := client.Watch(t.Context(), kv.WatchFrom{Key: "/a"}); err == nil {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				if event, err := w.Next(ctx); err == nil {
					t.Errorf("watch accepts %q as %+v", body, event)
				}
				cancel()
				w.Close()
			}
		}
	}
}

func TestTheEndOfAContextIsATimeoutAroundIt(t *testing.T) {
	url, _ := serve(t, silent)
	client := open(t, inOrder(url))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for _, call := range []func() error{
		func() error { _, err := client.Read(ctx, aRead); return err },
		func() error { _, err := client.Write(ctx, aWrite); return err },
		func() error { _, err := client.Watch(ctx, kv.WatchFrom{Key: "/a"}); return err },
	} {
		if err := call(); !kv.Is(err, kv.Timeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the kind %q around the context's error", err, kv.Timeout)
		}
	}
}

func TestAClosedClientRefuses(t *testing.T) {
	url, requests := serve(t, good)
	client := open(t, inOrder(url))
	client.Close()
	for _, call := range []func() error{
		func() error { _, err := client.Read(t.Context(), aRead); return err },
		func() error { _, err := client.Write(t.Context(), aWrite); return err },
		func() error { _, err := client.Watch(t.Context(), kv.WatchFrom{Key: "/a"}); return err },
	} {
		if err := call(); !kv.Is(err, kv.Closed) {
			t.Errorf("got %v, want the kind %q", err, kv.Closed)
		}
	}
	if requests.Load() != 0 {
		t.Error("a request was sent")
	}
}

func TestPasswordComesFromFieldUserOrFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("s:e cret\nignored\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]kvclient.Config{
		"field": {Username: "root", Password: "s:e cret"},
		"user":  {Username: "root:s:e cret"},
		"file":  {Username: "root", PasswordFile: file},
	} {
		t.Run(name, func(t *testing.T) {
			var user, password string
			url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
				user, password, _ = r.BasicAuth()
				good(w, r)
			})
			cfg.Endpoints = []string{url}
			if _, err := open(t, cfg).Read(t.Context(), aRead); err != nil {
				t.Fatal(err)
			}
			if user != "root" || password != "s:e cret" {
				t.Errorf("sent %q %q", user, password)
			}
		})
	}
}

func TestBadConfigurationIsRefusedWithTheReason(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(notPEM, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cfg  kvclient.Config
		want string
	}{
		{kvclient.Config{Endpoints: []string{""}}, "is not a URL"},
		{kvclient.Config{Endpoints: []string{"http://"}}, "is not a URL"},
		{kvclient.Config{Endpoints: []string{"http://a:b:c"}}, "is not a URL"},
		{kvclient.Config{Endpoints: []string{"ftp://a"}}, "must be http or https"},
		{kvclient.Config{Endpoints: []string{"http://u:p@a"}}, "--username"},
		{kvclient.Config{Endpoints: []string{"http://a/v2/keys"}}, "only scheme, host and port"},
		{kvclient.Config{CAFile: "/none/ca.pem"}, "/none/ca.pem"},
		{kvclient.Config{CAFile: notPEM}, "no PEM certificate"},
		{kvclient.Config{CertFile: notPEM}, "both"},
		{kvclient.Config{CertFile: notPEM, KeyFile: notPEM}, "cannot use the certificate"},
		{kvclient.Config{PasswordFile: "/none/password"}, "/none/password"},
	} {
		if _, err := kvclient.New(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want it to say %q", c.cfg, err, c.want)
		}
	}
}

func TestClusterCallsReadWhatServersSay(t *testing.T) {
	url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/version":
			io.WriteString(w, `{"etcdserver":"3.5.33","etcdcluster":"3.5.0"}`)
		case "/health":
			io.WriteString(w, `{"health":"true","reason":""}`)
		case "/v2/members":
			io.WriteString(w, `{"members":[{"id":"8e9e05c52164694d","name":"n1","peerURLs":["http://a"],"clientURLs":["http://b"]}]}`)
		}
	})
	client := open(t, inOrder(url))
	if v, err := client.Version(t.Context()); err != nil || v.Server != "3.5.33" || v.Cluster != "3.5.0" {
		t.Errorf("version %+v, %v", v, err)
	}
	if err := client.Health(t.Context()); err != nil {
		t.Error(err)
	}
	if m, err := client.Members(t.Context()); err != nil || len(m) != 1 || m[0].Name != "n1" || m[0].ClientURLs[0] != "http://b" {
		t.Errorf("members %+v, %v", m, err)
	}

	sick, _ := serve(t, says(503, `{"health":"false","reason":"RAFT NO LEADER"}`))
	var e *kv.Error
	if err := open(t, inOrder(sick)).Health(t.Context()); !errors.As(err, &e) || e.Kind != kv.Unavailable || e.Cause != "RAFT NO LEADER" {
		t.Errorf("got %v, want the reason", err)
	}
}

func TestAnEndpointThatDoesNotAnswerIsLeftAlsoByThoseWhoMayNotRepeat(t *testing.T) {
	brief := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	for name, first := range map[string]func(t *testing.T, c *kvclient.Client) error{
		"a write that may have happened": func(t *testing.T, c *kvclient.Client) error {
			_, err := c.Write(t.Context(), aWrite)
			return err
		},
		"a write whose caller gives up": func(t *testing.T, c *kvclient.Client) error {
			_, err := c.Write(brief(t), aWrite)
			return err
		},
		"a watch whose caller gives up": func(t *testing.T, c *kvclient.Client) error {
			_, err := c.Watch(brief(t), kv.WatchFrom{Key: "/a"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			hung, _ := serve(t, silent)
			spare, _ := serve(t, good)
			cfg := inOrder(hung, spare)
			cfg.RequestTimeout = 200 * time.Millisecond
			client := open(t, cfg)
			if err := first(t, client); !kv.Is(err, kv.Timeout) {
				t.Fatalf("got %v, want the kind %q", err, kv.Timeout)
			}
			if _, err := client.Write(t.Context(), aWrite); err != nil {
				t.Errorf("the next write: %v", err)
			}
		})
	}
}

func TestAnEndpointThatIsSilentLeavesTimeForTheOthers(t *testing.T) {
	url, _ := serve(t, silent)
	spare, _ := serve(t, good)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := open(t, inOrder(url, url, spare)).Read(ctx, aRead); err != nil {
		t.Error(err)
	}
}

func TestAWriteWhoseTimeIsOverMayHaveHappened(t *testing.T) {
	url, _ := serve(t, silent)
	spare, spared := serve(t, good)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := open(t, inOrder(url, spare)).Write(ctx, aWrite)
	if !kv.Is(err, kv.Timeout) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "read before trying again") || spared.Load() != 0 {
		t.Errorf("got %v, and %d requests elsewhere", err, spared.Load())
	}
}

func TestWhatIsWrongWithSeveralEndpointsIsSaidOnce(t *testing.T) {
	url, _ := serve(t, says(400, "Client sent an HTTP request to an HTTPS server: use https"))
	_, err := open(t, inOrder(url, url)).Read(t.Context(), aRead)
	if !kv.Is(err, kv.Denied) || strings.Count(err.Error(), "it speaks https, not http") != 1 {
		t.Errorf("got %v", err)
	}
	spare, _ := serve(t, good)
	if _, err := open(t, inOrder(url, spare)).Read(t.Context(), aRead); err != nil {
		t.Errorf("the one that is meant is not asked: %v", err)
	}
}

func TestAChangeOfTheClusterWithoutALeaderWasSurelyNotMade(t *testing.T) {
	for body, want := range map[string]kv.Kind{
		`{"message":"member transfer: no leader (an election)","kind":"no leader","cause":"an election"}`: kv.NoLeader,
		`{"message":"member transfer: timed out"}`:                                                        kv.Unknown,
		`{"message":"member transfer: timed out","kind":"timed out"}`:                                     kv.Unknown,
	} {
		url, _ := serve(t, says(503, body))
		err := open(t, inOrder(url)).TransferLeadership(t.Context(), "")
		if !kv.Is(err, want) || want == kv.NoLeader && err.Error() != "member transfer: no leader (an election)" {
			t.Errorf("%s: %v, want the kind %q", body, err, want)
		}
	}
}
