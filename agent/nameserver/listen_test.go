package nameserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/kvd-io/kvd/agent/nameserver"
	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/catalog"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/registry"
)

// patience bounds every wait; nothing that works takes as long.
const patience = 20 * time.Second

// town is a running server of names over the catalog of a real store.
type town struct {
	t       *testing.T
	store   *daemontest.Cluster
	client  *kvclient.Client
	catalog *catalog.Catalog
	server  *nameserver.Server
	address string
	stop    func() error // ends the server and returns what it says
}

func build(t *testing.T) *town {
	t.Helper()
	w := &town{t: t, store: daemontest.Start(t, 1)}
	var err error
	if w.client, err = kvclient.New(kvclient.Config{Endpoints: []string{w.store.URL()}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.client.Close() })
	w.catalog = catalog.New(catalog.Config{Source: w.client})
	w.server, err = nameserver.New(nameserver.Config{Catalog: w.catalog, Listen: []string{"127.0.0.1:0"}, TTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	failures := make(chan error, 2)
	go func() { failures <- w.server.Run(ctx) }()
	go func() { failures <- w.catalog.Run(ctx) }()
	w.stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-failures, <-failures)
	})
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
	w.address = whereabouts(t, w.server)
	return w
}

// whereabouts returns the first address of a server that is about to listen.
func whereabouts(t *testing.T, s *nameserver.Server) string {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if status := s.Status(); len(status.Addresses) > 0 {
			return status.Addresses[0]
		} else if time.Now().After(end) {
			t.Fatalf("it listens nowhere: %+v", status)
		}
	}
}

// register writes records, and waits until the server has them.
func (w *town) register(records ...registry.Record) {
	w.t.Helper()
	for _, r := range records {
		value, err := json.Marshal(r)
		if err != nil {
			w.t.Fatal(err)
		}
		w.write(kv.Write{Op: kv.OpSet, Key: r.Key(registry.DefaultPrefix), Value: string(value)})
	}
}

func (w *town) write(write kv.Write) {
	w.t.Helper()
	result, err := w.client.Write(w.t.Context(), write)
	if err != nil {
		w.t.Fatal(err)
	}
	end := time.After(patience)
	for {
		changed := w.catalog.Changed()
		if state := w.catalog.Mirror(); state.Complete && state.Index >= result.Index {
			return
		}
		select {
		case <-changed:
		case <-end:
			w.t.Fatalf("it stays at %+v", w.catalog.State())
		}
	}
}

// dig returns what dig prints.
func (w *town) dig(args ...string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	host, port, err := net.SplitHostPort(w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := exec.CommandContext(ctx, parts.Path(w.t, "dig"), append([]string{"@" + host, "-p", port}, args...)...).CombinedOutput()
	if err != nil {
		w.t.Errorf("dig %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// lines returns the lines of dig +short in order.
func (w *town) lines(args ...string) []string {
	w.t.Helper()
	lines := strings.Fields(strings.ReplaceAll(w.dig(append(args, "+short")...), " ", "_"))
	slices.Sort(lines)
	return lines
}

// resolver is Go's own.
func (w *town) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, w.address)
	}}
}

func record(service, instance, address string, port int) registry.Record {
	return registry.Record{Service: service, Instance: instance, Address: address, Port: port, Protocol: "tcp", State: registry.StateUp}
}

func TestDigSeesTheRegistryOverBothProtocols(t *testing.T) {
	w := build(t)
	blue := record("web", "h2_web_80", "10.0.0.2", 8080)
	blue.Tags, blue.Weight = []string{"blue"}, 7
	w.register(record("web", "h1_web_80", "10.0.0.1", 8080), blue, record("web", "h3:web:80", "2001:db8::3", 8080))
	for _, protocol := range []string{"+notcp", "+tcp"} {
		for want, args := range map[string][]string{
			"10.0.0.1 10.0.0.2":                   {"web.service.kvd", "A"},
			"2001:db8::3":                         {"web.service.kvd", "AAAA"},
			"10.0.0.2":                            {"blue.web.service.kvd"},
			"0_7_8080_h2_web_80.web.service.kvd.": {"_web._blue.service.kvd", "SRV"},
			`"instance=h2_web_80"_"tags=blue"`:    {"h2_web_80.web.service.kvd", "TXT"},
			"_web._tcp.service.kvd.":              {"_services._dns-sd._udp.service.kvd", "PTR"},
			"ns.kvd.":                             {"kvd", "NS"},
		} {
			if got := strings.Join(w.lines(append(args, protocol)...), " "); got != want {
				t.Errorf("dig %s %q: %q, want %q", protocol, args, got, want)
			}
		}
		for _, c := range []struct {
			name  string
			wants []string
		}{
			{"nobody.service.kvd", []string{"status: NXDOMAIN", "flags: qr aa", "ns.kvd. hostmaster.kvd."}},
			{"blue.web.service.kvd AAAA", []string{"status: NOERROR", "ANSWER: 0, AUTHORITY: 1"}},
			{"example.org", []string{"status: REFUSED", "EDE: 20 (Not Authoritative)"}},
			{"_web._tcp.service.kvd SRV", []string{"ANSWER: 3, AUTHORITY: 0, ADDITIONAL: 4"}},
		} {
			out := w.dig(append(strings.Fields(c.name), protocol)...)
			for _, want := range c.wants {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not in\n%s", want, out)
				}
			}
			if strings.Contains(out, "WARNING: Message") || strings.Contains(out, "malformed") {
				t.Errorf("dig complains:\n%s", out)
			}
		}
	}
	for _, line := range w.lines("_web._tcp.service.kvd", "SRV") { // whoever follows a target finds one address
		target := line[strings.LastIndex(line, "8080_")+len("8080_"):]
		if got := append(w.lines(target, "A"), w.lines(target, "AAAA")...); len(got) != 1 {
			t.Errorf("%s is %q", target, got)
		}
	}
}

func TestAnAnswerTooLargeForUDPComesOverTCP(t *testing.T) {
	w := build(t)
	var many []registry.Record
	for i := range 300 {
		many = append(many, record("web", fmt.Sprintf("h%d", i), fmt.Sprintf("10.0.%d.%d", i/100, i%100), 8080))
	}
	w.register(many...)
	if got := w.lines("web.service.kvd", "A"); len(got) != 300 {
		t.Errorf("dig sees %d addresses", len(got))
	}
	if got := w.dig("web.service.kvd", "A", "+ignore"); !strings.Contains(got, "flags: qr aa tc") {
		t.Errorf("over UDP alone:\n%s", got)
	}
	addresses, err := w.resolver().LookupHost(t.Context(), "web.service.kvd.")
	if err != nil || len(addresses) != 300 {
		t.Errorf("Go sees %d addresses: %v", len(addresses), err)
	}
	_, services, err := w.resolver().LookupSRV(t.Context(), "web", "tcp", "service.kvd.")
	if err != nil || len(services) != 300 {
		t.Errorf("Go sees %d services: %v", len(services), err)
	}
}

func TestRecordsComeAndGoAndStayWhileTheStoreIsAway(t *testing.T) {
	w := build(t)
	web := record("web", "a", "10.0.0.1", 80)
	w.register(web, record("db", "a", "10.0.0.2", 80))
	lookup := func(name string) string {
		t.Helper()
		addresses, err := w.resolver().LookupHost(t.Context(), name)
		if err != nil {
			return err.Error()
		}
		return strings.Join(addresses, " ")
	}
	if got := lookup("web.service.kvd."); got != "10.0.0.1" {
		t.Error(got)
	}
	w.store.Stop()
	if got := lookup("web.service.kvd."); got != "10.0.0.1" {
		t.Errorf("without the store: %s", got)
	}
	end := time.Now().Add(patience)
	for w.server.Status().Problem == "" {
		if time.Now().After(end) {
			t.Fatalf("status %+v", w.server.Status())
		}
		time.Sleep(time.Millisecond)
	}
	w.store.Restart()
	w.write(kv.Write{Op: kv.OpDelete, Key: "/services/web/a"})
	if got := lookup("web.service.kvd."); !strings.Contains(got, "no such host") {
		t.Errorf("after it went: %s", got)
	}
	if got := lookup("db.service.kvd."); got != "10.0.0.2" {
		t.Error(got)
	}
	web.State = registry.StateDraining
	w.register(web)
	if got := lookup("web.service.kvd."); !strings.Contains(got, "no such host") {
		t.Errorf("while it drains: %s", got)
	}
	if got := w.server.Status(); got.Problem != "" || got.Services != 2 || got.Answered == 0 || got.Negative == 0 {
		t.Errorf("status %+v", got)
	}
}

func TestAnAnswerComesFromTheAddressThatWasAsked(t *testing.T) {
	s, err := nameserver.New(nameserver.Config{Catalog: catalog.New(catalog.Config{}), Listen: []string{":0"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	_, port, err := net.SplitHostPort(whereabouts(t, s))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "::1"} {
		w := &town{t: t, address: net.JoinHostPort(host, port)}
		for _, protocol := range []string{"+notcp", "+tcp"} {
			if out := w.dig("web.service.kvd", protocol); !strings.Contains(out, "status: SERVFAIL") || strings.Contains(out, "unexpected source") {
				t.Errorf("at %s: %s", host, out)
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBeforeTheStoreIsReadNobodyKnows(t *testing.T) {
	s, err := nameserver.New(nameserver.Config{Catalog: catalog.New(catalog.Config{}), Listen: []string{"127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	w := &town{t: t, address: whereabouts(t, s)}
	if out := w.dig("web.service.kvd"); !strings.Contains(out, "status: SERVFAIL") || !strings.Contains(out, "EDE: 14 (Not Ready): (the store was not read yet)") {
		t.Error(out)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// exchange sends a question over a connection and returns the answer.
func exchange(t *testing.T, conn net.Conn, q *dns.Msg) (*dns.Msg, error) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	c := &dns.Conn{Conn: conn}
	if err := c.WriteMsg(q); err != nil {
		return nil, err
	}
	return c.ReadMsg()
}

func TestTCPConnectionsAreBoundedAndServeManyQuestions(t *testing.T) {
	w := build(t)
	w.register(record("web", "a", "10.0.0.1", 80))
	q := new(dns.Msg).SetQuestion("web.service.kvd.", dns.TypeA)
	var conns []net.Conn
	t.Cleanup(func() {
		for _, conn := range conns {
			conn.Close()
		}
	})
	refused := 0
	for range 300 {
		conn, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		for range 3 {
			if _, err = exchange(t, conn, q); err != nil {
				break
			}
		}
		if err != nil {
			refused++
		}
	}
	if status := w.server.Status(); refused != 300-256 || status.Connections != 256 || status.Crowded != 44 {
		t.Errorf("%d were refused, status %+v", refused, status)
	}
	if got := w.lines("web.service.kvd"); !slices.Equal(got, []string{"10.0.0.1"}) {
		t.Errorf("over UDP meanwhile: %q", got)
	}
	conns[0].Close()
	end := time.Now().Add(patience)
	for w.server.Status().Connections == 256 {
		if time.Now().After(end) {
			t.Fatal("a connection that is closed stays")
		}
		time.Sleep(time.Millisecond)
	}
	if got := w.lines("web.service.kvd", "+tcp"); !slices.Equal(got, []string{"10.0.0.1"}) {
		t.Errorf("with room again: %q", got)
	}
}

func TestAConnectionOfNonsenseIsClosed(t *testing.T) {
	w := build(t)
	for what, bytes := range map[string]string{"no message": "\x00\x00", "too large": "\xff\xffxxx", "an answer": "\x00\x0cab\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00"} {
		conn, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(bytes)); err != nil {
			t.Fatal(err)
		}
		var timeout net.Error
		if rest, err := io.ReadAll(conn); len(rest) > 0 || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: %q, %v", what, rest, err)
		}
	}
}

func TestItEndsWhateverClientsDo(t *testing.T) {
	w := build(t)
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("\x00")); err != nil { // half a length
		t.Fatal(err)
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if l, err := net.Listen("tcp", w.address); err != nil {
		t.Error(err)
	} else {
		l.Close()
	}
}

func TestAPlaceThatIsTakenOrNotThereYetIsTriedAgain(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := nameserver.New(nameserver.Config{Catalog: catalog.New(catalog.Config{}), Listen: []string{taken.Addr().String(), "nowhere0:53", "lo:0"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Taken(); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("before it runs: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	await := func(is func(nameserver.Status) bool) {
		t.Helper()
		for end := time.Now().Add(patience); !is(s.Status()); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("it stays at %+v", s.Status())
			}
		}
	}
	await(func(s nameserver.Status) bool { return len(s.Waiting) == 2 && len(s.Addresses) > 0 })
	if got := strings.Join(s.Status().Waiting, "; "); !strings.Contains(got, "in use") || !strings.Contains(got, "there is no interface nowhere0 yet") {
		t.Errorf("waiting: %s", got)
	}
	taken.Close()
	await(func(s nameserver.Status) bool {
		return len(s.Waiting) == 1 && slices.Contains(s.Addresses, taken.Addr().String())
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSettingsThatCannotBe(t *testing.T) {
	free := []string{"127.0.0.1:0"}
	for _, c := range []struct {
		cfg  nameserver.Config
		want string
	}{
		{nameserver.Config{}, "no address"},
		{nameserver.Config{Listen: []string{"127.0.0.1"}}, "there is no port"},
		{nameserver.Config{Listen: []string{"127.0.0.1:dns"}}, "no number"},
		{nameserver.Config{Listen: []string{"127.0.0.1:0", "localhost:53"}}, "neither an address nor an interface"},
		{nameserver.Config{Listen: free, TTL: time.Millisecond}, "whole seconds"},
		{nameserver.Config{Listen: free, TTL: -time.Second}, "whole seconds"},
		{nameserver.Config{Listen: free, TTL: 2 * time.Hour}, "1h0m0s"},
		{nameserver.Config{Listen: free, StaleMax: -1}, "negative"},
		{nameserver.Config{Listen: free, Domain: "."}, "domain"},
		{nameserver.Config{Listen: free, Domain: "a..b"}, "domain"},
		{nameserver.Config{Listen: free, Domain: "a b"}, "domain"},
		{nameserver.Config{Listen: free, Domain: strings.Repeat("a", 64)}, "at most 63"},
		{nameserver.Config{Listen: free, Domain: strings.Repeat("a.", 60)}, "at most 100"},
	} {
		if s, err := nameserver.New(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q expected, got %v, %v", c.want, s, err)
		}
	}
}
