package converge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/link"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/registry"
)

// The soak: three services whose instances come, go, drain, change their weight and die, while
// everything between the store and HAProxy breaks and is mended. KVD_CONVERGE_FOR says how long,
// KVD_CONVERGE_SEED repeats the choices of a run, KVD_CONVERGE_WITHIN is what the lag may be.
//
// It goes in rounds. In a round some things break at random while services change; then all is
// mended, one more change is made, and from then on it is counted how long it takes until HAProxy
// runs with exactly the instances that the store says are up, and the file says the same.
//
// A request has failed if HAProxy answers it with anything but 200, or not at all. That is never
// excused: in each service there is at every moment one instance that is up, is registered as up, and
// was among those that HAProxy ran with, and held for healthy, when the last round ended, so that it could
// have served.
// Instances die between two requests, with their record left behind, one at a time in each service:
// HAProxy, as the shipped template sets it up, then asks another one.
const (
	soakFor    = 20 * time.Second
	soakWithin = 20 * time.Second
	services   = 3
	instances  = 5 // of a service
	askers     = 4

	templateFile = "conf/templates/haproxy.tmpl"
	resourceFile = "conf/conf.d/haproxy.toml"
)

// instance is a server that can be started and stopped at one address.
type instance struct {
	service, name string
	backend       *backend
	server        *http.Server // nil: it does not run
	state         string       // of its record; "": it has none
	weight        int
}

func (i *instance) start(t testing.TB) {
	t.Helper()
	listener, err := net.Listen("tcp", i.backend.address)
	if errors.Is(err, syscall.EADDRINUSE) { // somebody took it while i was down
		i.backend.address = freeAddress(t)
		listener, err = net.Listen("tcp", i.backend.address)
	}
	if err != nil {
		t.Fatal(err)
	}
	i.server = &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, i.name) })}
	go i.server.Serve(listener)
}

// stop lets requests that have begun end, and no other begin.
func (i *instance) stop() {
	if i.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		i.server.Shutdown(ctx)
		i.server.Close()
		i.server = nil
	}
}

func (i *instance) key() string { return "/services/" + i.service + "/" + i.name }

type soak struct {
	*world
	h         *haproxy
	random    *rand.Rand
	instances [][]*instance
	anchors   []*instance // one of each service, which stays
	done      []string    // what was done, and when
	begun     time.Time
	good      map[string]string // files as they are when nothing is broken
	acts      map[string]int
	stayed    map[*instance]time.Time // until when they were anchors
	worst     time.Duration           // lag so far
	slow      string                  // what was done and told before that
}

func TestWhateverBreaksHAProxyServesWhatTheStoreSaysAndNoRequestFails(t *testing.T) {
	t.Parallel()
	t.Run("by reloads", func(t *testing.T) { t.Parallel(); runSoak(t) })
	t.Run("at the runtime socket", func(t *testing.T) { t.Parallel(); runSoak(t, "[haproxy]\nsocket = \"$DIR/admin.sock\"") })
}

func runSoak(t *testing.T, settings ...string) {
	t.Helper()
	length, within := setting(t, "KVD_CONVERGE_FOR", soakFor), setting(t, "KVD_CONVERGE_WITHIN", soakWithin)
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("KVD_CONVERGE_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("KVD_CONVERGE_SEED=%d KVD_CONVERGE_FOR=%v go test ./e2e/converge -run %s -count=1 -v", seed, length, t.Name())
	s := newSoak(t, seed, settings...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what was done:\n%s", strings.Join(s.done[max(0, len(s.done)-150):], "\n"))
		}
	})
	load := s.hammer()
	var lags []time.Duration
	for len(lags) == 0 || time.Since(s.begun) < length {
		s.disturb()
		lags = append(lags, s.calm())
	}
	asked, failures := load.stop()
	s.until("a last look finds everything as it should be", s.noop)
	slices.Sort(lags)
	t.Logf("%d rounds, %d requests; the lag after a calm: half at most %v, 99 %% at most %v, the worst %v; %v", len(lags), asked, lags[len(lags)/2], lags[len(lags)*99/100], lags[max(0, len(lags)-5):], s.acts)
	if worst := lags[len(lags)-1]; worst > within {
		t.Errorf("a lag of %v, at most %v are allowed; what was done and what kvconfd said before:\n%s", worst, within, s.slow)
	}
	if len(failures) > 0 {
		t.Errorf("%d of %d requests failed:\n%s", len(failures), asked, strings.Join(failures[:min(20, len(failures))], "\n"))
		lines := append(strings.Split(s.read("haproxy.log"), "\n"), s.done...)
		slices.Sort(lines)
		at := slices.IndexFunc(lines, func(line string) bool { return line > failures[0][:12] })
		t.Logf("around the first of them:\n%s", strings.Join(lines[max(0, at-80):min(len(lines), at+80)], "\n"))
	}
}

func setting(t *testing.T, name string, otherwise time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d
}

func newSoak(t *testing.T, seed uint64, settings ...string) *soak {
	t.Helper()
	s := &soak{world: newWorld(t), random: rand.New(rand.NewPCG(seed, 1)), acts: map[string]int{}, stayed: map[*instance]time.Time{}}
	s.h = newHAProxy(s.world,
		`check_cmd = "test ! -e $DIR/broken.check && haproxy -c -f {{.src}}"`,
		`reload_cmd = "test ! -e $DIR/broken.reload || exit 1; test ! -e $DIR/hanging.reload || { echo $$ >$DIR/hanging.pid; sleep 600; }; sh $DIR/reload.sh"`,
		`reload_cmd_timeout = "5s"`+"\n"+strings.Join(settings, "\n"))
	s.good = map[string]string{templateFile: s.read(templateFile), resourceFile: s.read(resourceFile)}
	for n := range services {
		var all []*instance
		for m := range instances {
			service := fmt.Sprintf("s%d", n)
			i := &instance{service: service, name: fmt.Sprintf("%s-%d", service, m)}
			i.backend = &backend{name: i.name, address: freeAddress(t)}
			t.Cleanup(i.stop)
			all = append(all, i)
		}
		s.instances = append(s.instances, all)
		s.anchors = append(s.anchors, all[0])
		all[0].start(t)
		s.say(all[0], registry.StateUp)
	}
	s.world.start()
	s.h.start()
	s.begun = time.Now()
	s.untilEqual()
	return s
}

// note writes down what is done.
func (s *soak) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.done = append(s.done, fmt.Sprintf("%s  %s", time.Now().Format("15:04:05.000"), text))
	word, _, _ := strings.Cut(text, ":")
	s.acts[word]++
}

// say writes the record of an instance; "" removes it.
func (s *soak) say(i *instance, state string) {
	s.t.Helper()
	if i.state == "" && state == "" {
		return
	}
	i.state = state
	if state == "" {
		s.store.must(kv.Write{Op: kv.OpDelete, Key: i.key()})
		return
	}
	host, port, _ := net.SplitHostPort(i.backend.address)
	number, _ := strconv.Atoi(port)
	text, _ := json.Marshal(registry.Record{Service: i.service, Instance: i.name, Address: host, Port: number, Protocol: "tcp", State: state, Weight: i.weight})
	s.store.must(kv.Write{Op: kv.OpSet, Key: i.key(), Value: string(text)})
}

// change changes the life of one instance that is not the anchor of its service.
func (s *soak) change() {
	n := s.random.IntN(services)
	i := s.instances[n][s.random.IntN(instances)]
	if i == s.anchors[n] || time.Since(s.stayed[i]) < 5*time.Second { // a worker of before a reload may still wait to ask it
		return
	}
	dead := slices.ContainsFunc(s.instances[n], func(other *instance) bool { return other.state == registry.StateUp && other.server == nil })
	switch choice := s.random.IntN(10); {
	case i.server == nil && i.state != "":
		s.note("cleaned up: %s", i.name)
		s.say(i, "")
	case i.server == nil:
		s.note("started: %s", i.name)
		i.start(s.t)
		i.weight = s.random.IntN(3) * 50
		s.say(i, registry.StateUp)
	case choice < 3:
		s.note("weighed: %s", i.name)
		i.weight = 1 + s.random.IntN(200)
		s.say(i, registry.StateUp)
	case choice < 5:
		s.note("drained: %s", i.name)
		s.say(i, registry.StateDraining)
	case choice < 8 && i.state == registry.StateUp && !dead:
		s.note("died: %s", i.name)
		i.stop()
	default:
		s.note("taken out: %s", i.name)
		s.say(i, "")
	}
}

// disturb breaks some things for a while, one after the other or at once, and mends them all.
func (s *soak) disturb() {
	var mend []func()
	broken := map[int]bool{}
	for range 1 + s.random.IntN(5) {
		for range s.random.IntN(4) {
			s.change()
		}
		if f := s.random.IntN(len(faults)); !broken[f] {
			broken[f] = true
			s.note("%s", faults[f].name)
			mend = append(mend, faults[f].act(s))
		}
		time.Sleep(time.Duration(s.random.IntN(150)) * time.Millisecond)
	}
	s.random.Shuffle(len(mend), func(i, j int) { mend[i], mend[j] = mend[j], mend[i] })
	for _, f := range mend {
		f()
	}
	s.note("mended")
}

// faults are what can break. Each returns how it is mended.
var faults = []struct {
	name string
	act  func(s *soak) (mend func())
}{
	{"nothing", func(*soak) func() { return func() {} }},
	{"burst of changes", func(s *soak) func() {
		for range 20 {
			s.change()
		}
		return func() {}
	}},
	{"kvconfd killed", func(s *soak) func() {
		s.agent.kill()
		return func() {
			if s.agent.hasEnded() { // nobody has started another one meanwhile
				s.world.start()
			}
		}
	}},
	{"kvconfd killed at once and again", func(s *soak) func() {
		for range 3 {
			s.agent.kill()
			s.world.start()
			time.Sleep(time.Duration(s.random.IntN(60)) * time.Millisecond)
		}
		return func() {}
	}},
	{"kvconfd paused", func(s *soak) func() {
		s.agent.cmd.Process.Signal(syscall.SIGSTOP)
		paused := s.agent
		return func() { paused.cmd.Process.Signal(syscall.SIGCONT) }
	}},
	{"SIGHUP", func(s *soak) func() {
		if s.isUp() { // before it listens to signals, this one would end it
			s.agent.cmd.Process.Signal(syscall.SIGHUP)
		}
		return func() {}
	}},
	{"store killed", func(s *soak) func() {
		s.store.run.kill()
		s.store.start() // writes of this test go past the link
		return func() {}
	}},
	{"way to the store cut", func(s *soak) func() {
		s.way.Set(link.Refused)
		return func() { s.way.Set(link.Open) }
	}},
	{"way to the store hangs", func(s *soak) func() {
		s.way.Set(link.Stalled)
		return func() { s.way.Set(link.Open) }
	}},
	{"checks fail", func(s *soak) func() { return s.there("broken.check") }},
	{"reloads fail", func(s *soak) func() { return s.there("broken.reload") }},
	{"reloads hang", func(s *soak) func() {
		mend := s.there("hanging.reload")
		return func() {
			mend()
			if pid, err := strconv.Atoi(strings.TrimSpace(s.read("hanging.pid"))); err == nil {
				syscall.Kill(-pid, syscall.SIGKILL) // what hangs would do so until its time is up
				s.remove("hanging.pid")
			}
		}
	}},
	{"template broken", func(s *soak) func() { return s.spoilt(templateFile, "{{end}}") }},
	{"template refused", func(s *soak) func() { return s.spoilt(templateFile, "no configuration\n") }},
	{"template missing", func(s *soak) func() {
		if err := os.Remove(s.path(templateFile)); err != nil && !os.IsNotExist(err) {
			s.t.Fatal(err)
		}
		return func() { s.write(templateFile, s.good[templateFile]) }
	}},
	{"resource file broken", func(s *soak) func() { return s.spoilt(resourceFile, "[[[") }},
	{"another broken resource", func(s *soak) func() {
		s.write("conf/conf.d/bad.toml", "src = ")
		return func() { s.remove("conf/conf.d/bad.toml") }
	}},
	{"another resource", func(s *soak) func() {
		s.write("conf/templates/more.tmpl", `{{range gets "/services/*/*"}}{{.Key}} {{end}}`)
		s.toml("more", s.path("more.out"), `keys = ["/services"]`)
		return func() { s.remove("conf/conf.d/more.toml") }
	}},
}

// there makes a file that the commands of the world look for.
func (s *soak) there(name string) (mend func()) {
	s.write(name, "")
	return func() { s.remove(name) }
}

// spoilt appends text to a file, as it was in the beginning.
func (s *soak) spoilt(name, text string) (mend func()) {
	s.write(name, s.good[name]+text)
	return func() { s.write(name, s.good[name]) }
}

// calm makes one more change, waits until HAProxy runs with what the store says, and returns how long
// that took. Then it chooses who stays through the next round.
func (s *soak) calm() time.Duration {
	s.t.Helper()
	n := s.random.IntN(services)
	s.anchors[n].weight = 1 + s.random.IntN(200)
	s.say(s.anchors[n], registry.StateUp)
	lag := s.untilEqual()
	s.note("calm: equal after %v", lag.Round(time.Millisecond))
	if lag > s.worst {
		s.worst = lag
		log := s.log.String()
		s.slow = strings.Join(s.done[max(0, len(s.done)-25):], "\n") + "\n" + log[max(0, len(log)-8000):]
	}
	healthy, err := s.h.healthy()
	if err != nil {
		s.t.Fatal(err)
	}
	for n, all := range s.instances {
		for _, i := range all { // what has died stays so for a round at most
			if i.server == nil && i.state != "" {
				s.say(i, "")
			}
		}
		if i := all[s.random.IntN(instances)]; i.server != nil && i.state == registry.StateUp && healthy[i.backend.address] {
			s.stayed[s.anchors[n]] = time.Now()
			s.anchors[n] = i
		}
		for _, i := range all { // stopped in order: nobody is sent there any more
			if i.server != nil && i.state == "" {
				i.stop()
			}
		}
	}
	return lag
}

// untilEqual waits until HAProxy and its file have the instances that are up, each with its weight. It
// returns how long it took until HAProxy had.
func (s *soak) untilEqual() time.Duration {
	s.t.Helper()
	begun := time.Now()
	s.until("HAProxy runs with what the store says", func() string {
		running, err := s.h.weights()
		if err != nil {
			return err.Error()
		}
		for n, all := range s.instances {
			var up []string
			for _, i := range all {
				if i.state == registry.StateUp {
					up = append(up, i.backend.address+weighted(max(i.weight, 1)))
				}
			}
			slices.Sort(up)
			if name := fmt.Sprintf("s%d", n); !slices.Equal(running[name], up) {
				return fmt.Sprintf("HAProxy has %v for %s and not %v", running[name], name, up)
			}
		}
		return ""
	})
	lag := time.Since(begun)
	s.until("the file has what the store says", func() string {
		file := s.read("haproxy.cfg")
		for _, i := range slices.Concat(s.instances...) {
			server := " " + i.backend.address
			switch up := i.state == registry.StateUp; {
			case up && !strings.Contains(file, server+weighted(i.weight)+"\n"):
				return fmt.Sprintf("%s is not in the file with weight %d", i.name, i.weight)
			case !up && (strings.Contains(file, server+"\n") || strings.Contains(file, server+" ")):
				return fmt.Sprintf("%s is %q, and in the file", i.name, i.state)
			}
		}
		return ""
	})
	return lag
}

// weighted is what follows the address of a server in the file: nothing for a weight that is left to HAProxy, which takes 1.
func weighted(weight int) string {
	if weight == 0 {
		return ""
	}
	return fmt.Sprintf(" weight %d", weight)
}

// load asks for all services through HAProxy, with and without connections that stay.
type load struct {
	cancel   context.CancelFunc
	group    sync.WaitGroup
	asked    atomic.Int64
	mu       sync.Mutex // guards failures
	failures []string
}

func (s *soak) hammer() *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for n := range askers {
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: n%2 == 0}}
		l.group.Go(func() {
			defer client.CloseIdleConnections()
			for n := 0; ctx.Err() == nil; n++ {
				service := fmt.Sprintf("s%d", n%services)
				begun := time.Now()
				answer, err := get(client, "http://"+s.h.address+"/"+service+"/")
				if err == nil && !strings.HasPrefix(answer, service+"-") {
					err = fmt.Errorf("the answer is %q", answer)
				}
				l.asked.Add(1)
				if err != nil {
					l.mu.Lock()
					l.failures = append(l.failures, fmt.Sprintf("%s to %s  %s: %v", begun.Format("15:04:05.000"), time.Now().Format("05.000"), service, err))
					l.mu.Unlock()
				}
				time.Sleep(3 * time.Millisecond) // leaves room for those whom this is about
			}
		})
	}
	s.t.Cleanup(func() { l.stop() })
	return l
}

func (l *load) stop() (asked int64, failures []string) {
	l.cancel()
	l.group.Wait()
	return l.asked.Load(), l.failures
}
