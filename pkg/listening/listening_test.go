package listening

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const patience = 10 * time.Second

// server accepts connections and closes them, at places that a test names.
type server struct {
	*Follower[net.Listener]
	t    *testing.T
	stop func() // waits until Run has returned
}

// parse returns the place that text names.
func parse(t *testing.T, text string) Place {
	t.Helper()
	p, isSocket, err := ParseSocket(text)
	if !isSocket {
		p, err = Parse(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func follower(t *testing.T, texts ...string) *Follower[net.Listener] {
	t.Helper()
	var places []Place
	for _, text := range texts {
		places = append(places, parse(t, text))
	}
	return New(Config[net.Listener]{
		Places: places, Doing: "listening", Interval: time.Millisecond,
		Open: func(ctx context.Context, s Spot) (net.Listener, error) { return s.Listen(ctx) },
		Serve: func(_ context.Context, l net.Listener) {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		},
	})
}

func run(t *testing.T, texts ...string) *server {
	t.Helper()
	s := &server{Follower: follower(t, texts...), t: t}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	s.stop = func() { cancel(); <-done }
	t.Cleanup(s.stop)
	return s
}

// await waits for where the server listens and does not.
func (s *server) await(what string, is func(at, waiting []string) bool) (at []string) {
	s.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		at, waiting := s.Whereabouts()
		if is(at, waiting) {
			return at
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s does not come: at %q, waiting %q", what, at, waiting)
		}
	}
}

func TestAnAddressThatIsTakenIsHadLater(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	address := other.Addr().String()
	if err := follower(t, address).Taken(); err == nil || !strings.HasPrefix(err.Error(), address+": ") || !strings.Contains(err.Error(), "in use") {
		t.Errorf("taken: %v", err)
	}
	s := run(t, address)
	s.await("the reason", func(at, waiting []string) bool {
		return len(at) == 0 && len(waiting) == 1 && strings.Contains(waiting[0], "in use")
	})
	other.Close()
	s.await("the address", func(at, waiting []string) bool { return slices.Equal(at, []string{address}) && len(waiting) == 0 })
	s.stop()
	if err := follower(t, address).Taken(); err != nil {
		t.Errorf("after the stop: %v", err)
	}
}

func TestWhatIsYetToComeIsNotTaken(t *testing.T) {
	if err := follower(t, "nowhere0:53", "192.0.2.1:53").Taken(); err != nil {
		t.Error(err)
	}
	s := run(t, "nowhere0:53", "lo:0")
	s.await("the interface that is there", func(at, waiting []string) bool {
		return len(at) > 0 && len(waiting) == 1 && strings.Contains(waiting[0], "there is no interface nowhere0 yet")
	})
}

func TestEachPlaceThatIsSeenTellsItsNetworks(t *testing.T) {
	for _, text := range []string{"127.0.0.1:0", "lo:0"} {
		spots, err := parse(t, text).spots()
		if err != nil {
			t.Fatal(err)
		}
		networks := spots["127.0.0.1:0"].Networks()
		if !slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(netip.MustParseAddr("127.0.0.1")) }) {
			t.Errorf("%s: %v", text, networks)
		}
	}
	if spot := (Spot{place: parse(t, "unix:/run/x")}); spot.Networks() != nil || spot.Address().IsValid() {
		t.Errorf("a socket is at %v in %v", spot.Address(), spot.Networks())
	}
}

func TestASocketThatIsRemovedIsMadeAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "below", "a.sock")
	s := run(t, "unix:"+path+"?mode=0600")
	served := func() bool {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	s.await("the socket", func(at, _ []string) bool { return slices.Equal(at, []string{path}) })
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := follower(t, "unix:"+path).Taken(); err == nil || !strings.Contains(err.Error(), "another process serves") {
		t.Errorf("a socket that is served is taken over: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s.await("the socket again", func(_, _ []string) bool { return served() })
	s.stop()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the stop: %v", err)
	}
}

func TestWhatADeadProcessHasLeftIsReplacedAndAFileIsNot(t *testing.T) {
	dir := t.TempDir()
	dead, file := filepath.Join(dir, "dead"), filepath.Join(dir, "file")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := run(t, "unix:"+dead, "unix:"+file)
	s.await("the stale one", func(at, waiting []string) bool {
		return slices.Equal(at, []string{dead}) && len(waiting) == 1 && strings.Contains(waiting[0], "is no socket")
	})
	if content, err := os.ReadFile(file); err != nil || string(content) != "mine" {
		t.Errorf("%q, %v", content, err)
	}
}

func TestPlacesThatAreNone(t *testing.T) {
	for text, want := range map[string]string{
		"": "no port", "docker0": "no port", "172.17.0.1": "no port", "docker0:x": "no number", "docker0:70000": "no number",
		"localhost:2379": "neither", "a.very.long.host.name.example:2379": "neither",
	} {
		if p, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v", text, p, err)
		}
	}
	for text, want := range map[string]string{
		"unix:": "absolute", "unix:relative": "absolute", "unix:" + strings.Repeat("/x", 60): "107 bytes",
		"unix:/a?mode=999": "0660", "unix:/a?mode=7777": "0660",
	} {
		if p, ok, err := ParseSocket(text); !ok || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, %v", text, p, ok, err)
		}
	}
	if _, ok, err := ParseSocket("docker0:2379"); ok || err != nil {
		t.Errorf("an interface as a socket: %v, %v", ok, err)
	}
	if p, err := Parse(":53"); err != nil || !p.Everywhere() {
		t.Errorf("no address: %+v, %v", p, err)
	}
}
