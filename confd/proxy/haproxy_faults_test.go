package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

const oneServer = "backend web\n    server a 127.0.0.1:1\n"
const twoServers = "backend web\n    server a 127.0.0.1:1\n    server b 127.0.0.1:2\n"

// answering is a socket that answers every connection with what answer returns for its line.
func answeringSocket(t testing.TB, answer func(line string, conn net.Conn)) (path string) {
	t.Helper()
	path = shortDir(t) + "/socket"
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buffer := make([]byte, 16<<10)
				n, _ := conn.Read(buffer)
				answer(string(buffer[:n]), conn)
			}()
		}
	}()
	return path
}

func TestASocketThatDoesNotAnswerAsHAProxyDoesIsAnError(t *testing.T) {
	closed := shortDir(t) + "/socket"
	listener, err := net.Listen("unix", closed)
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	listener.Close()
	const info = "Name: HAProxy\nVersion: 2.6.12\nNbproc: 1\nPid: 7\nStart_time_sec: 9\n\n"
	row := statesHeader + "more\n3 web 1 a 127.0.0.1 2 0 1 1 0 6 3 2 6 0 0 0 - 1 - 0 0 - - 0\n"
	say := func(text string) string {
		return answeringSocket(t, func(_ string, conn net.Conn) { io.WriteString(conn, text) })
	}
	for name, socket := range map[string]struct{ path, want string }{
		"missing":      {shortDir(t) + "/none", "no such file"},
		"refused":      {closed, "connection refused"},
		"hung":         {answeringSocket(t, func(_ string, conn net.Conn) { io.Copy(io.Discard, conn) }), "no complete answer within"},
		"half":         {answeringSocket(t, func(_ string, conn net.Conn) { io.WriteString(conn, info+"1\n"+row); io.Copy(io.Discard, conn) }), "no complete answer within"},
		"cut":          {say(info + "1\n" + row[:len(row)-20]), "not understood"},
		"cut at a row": {say(info + "1\n" + row), "incomplete"},
		"empty":        {say(""), "closed without an answer"},
		"other":        {say("HTTP/1.1 400 Bad Request\r\n\r\n"), "not understood"},
		"no rights":    {say("Permission denied\n\n"), "not understood"},
		"strange row":  {say(info + "1\n" + strings.Replace(row, " 2 0 1 1 ", " 2 zero 1 1 ", 1) + "\n"), "not understood"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := HAProxyConfig{Socket: socket.path, Timeout: 10 * time.Second, Wait: time.Second}
			if strings.HasPrefix(socket.want, "no complete answer") {
				cfg.Timeout = 100 * time.Millisecond
			}
			h := NewHAProxy(cfg)
			h.info = haInfo{pid: "1", version: haVersion{2, 6}}
			plan, err := h.Plan(t.Context(), []byte("defaults\n"+oneServer), []byte("defaults\n"+twoServers))
			if err != nil || plan.Kind != Runtime {
				t.Fatalf("%v, %v", plan, err)
			}
			if err := h.Apply(t.Context(), plan); err == nil {
				t.Error("applied")
			}
			for _, mark := range []Mark{{}, {taken: true, generation: haMark{reloads: -1}}} {
				if err := h.Confirm(t.Context(), []byte(oneServer), mark); err == nil || !strings.Contains(err.Error(), socket.want) {
					t.Errorf("got %v, want %q", err, socket.want)
				}
			}
		})
	}
}

func TestASocketWithoutRightsRefusesChanges(t *testing.T) {
	r := newHARig(t, oneServer)
	text := strings.Replace(r.config(oneServer), "level admin", "level user", 1)
	mark, err := r.Mark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.write(text)
	r.reload()
	if err := r.Confirm(t.Context(), []byte(text), mark); err != nil {
		t.Errorf("looking takes no rights: %v", err)
	}
	plan, err := r.Plan(t.Context(), []byte(text), []byte(strings.Replace(r.config(twoServers), "level admin", "level user", 1)))
	if err != nil || plan.Kind != Runtime {
		t.Fatalf("%v, %v", plan, err)
	}
	if err := r.Apply(t.Context(), plan); err == nil || !strings.Contains(err.Error(), "ermission denied") {
		t.Errorf("got %v", err)
	}
}

func TestAReloadIsConfirmedByANewWorkerThatServesTheFile(t *testing.T) {
	r := newHARig(t, oneServer)
	next := twoServers + "backend api\n    server x 127.0.0.3:3 weight 9\n"
	for range 5 { // one right after the other: a master that is being reloaded ignores the signal
		for _, step := range [][2]string{{oneServer, next}, {next, oneServer}} {
			if kind := r.bring(step[0], step[1]); kind != Reload {
				t.Fatalf("it took a %s", kind)
			}
		}
	}
}

func TestAProcessThatTakesOverFromAnotherIsANewGeneration(t *testing.T) {
	r := newHARig(t, oneServer)
	mark, err := r.Mark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := twoServers + "backend api\n"
	r.write(r.config(next))
	fresh := exec.Command(parts.Path(t, "haproxy"), "-db", "-f", r.file, "-x", r.dir+"/socket", "-sf", r.info.pid)
	fresh.Stderr = &r.output
	if err := fresh.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		fresh.Process.Kill()
		fresh.Wait()
	}()
	if err := r.Confirm(t.Context(), []byte(r.config(next)), mark); err != nil {
		t.Error(err)
	}
}

func TestAReloadThatHAProxyRefusesIsToldAtOnceByItsMaster(t *testing.T) {
	r := newHARig(t, oneServer)
	broken := []byte(r.config(oneServer + "    nonsense\n"))
	for _, master := range []string{r.dir + "/master", ""} {
		r.cfg.MasterSocket, r.cfg.Wait = master, 30*time.Second
		mark, err := r.Mark(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r.write(string(broken))
		r.reload()
		want := "refused the reload"
		if master == "" {
			want, r.cfg.Wait = "still runs the configuration of before", 700*time.Millisecond
		}
		if err := r.Confirm(t.Context(), broken, mark); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("master %q: %v", master, err)
		}
	}
	r.cfg.MasterSocket, r.cfg.Wait = r.dir+"/master", 10*time.Second
	if kind := r.bring(oneServer, oneServer+"backend api\n"); kind != Reload {
		t.Errorf("it took a %s", kind)
	}
}

func TestAHAProxyThatDiesAfterAReloadIsNotConfirmed(t *testing.T) {
	r := newHARig(t, oneServer)
	r.cfg.Wait = 700 * time.Millisecond
	mark, err := r.Mark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(r.info.pid)
	syscall.Kill(pid, syscall.SIGKILL) // the master ends when a worker is killed
	r.cmd.Wait()
	if err := r.Confirm(t.Context(), []byte(r.config(oneServer)), mark); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
	if mark, err = r.Mark(t.Context()); err != nil {
		t.Fatalf("HAProxy that does not run is a generation of its own: %v", err)
	}
	r.start()
	r.cfg.Wait = 10 * time.Second
	if err := r.Confirm(t.Context(), []byte(r.config(oneServer)), mark); err != nil {
		t.Error(err)
	}
}

func TestConfirmTellsHowTheServersDiffer(t *testing.T) {
	r := newHARig(t, "backend web\n    server a 127.0.0.1:1 weight 3\n    server off 127.0.0.1:2 disabled\n    server name localhost:3\n")
	for next, want := range map[string]string{
		"    server a 127.0.0.1:1 weight 3\n    server off 127.0.0.1:2 disabled\n    server name localhost:3\n":                             "",
		"    server a 127.0.0.1:9 weight 3\n    server off 127.0.0.1:2 disabled\n    server name localhost:3\n":                             "address is 127.0.0.1:1, not 127.0.0.1:9",
		"    server a 127.0.0.1:1 weight 4\n    server off 127.0.0.1:2 disabled\n    server name localhost:3\n":                             "weight is 3, not 4",
		"    server a 127.0.0.1:1 weight 3\n    server off 127.0.0.1:2\n    server name localhost:3\n":                                      "it is disabled",
		"    server a 127.0.0.1:1 weight 3 disabled\n    server off 127.0.0.1:2 disabled\n    server name localhost:3\n":                    "it is not disabled",
		"    server a 127.0.0.1:1 weight 3\n    server off 127.0.0.1:2 disabled\n":                                                          "server web/name runs, but is not in the file",
		"    server a 127.0.0.1:1 weight 3\n    server off 127.0.0.1:2 disabled\n    server name localhost:3\n    server new 127.0.0.1:4\n": "server web/new of the file does not run",
	} {
		err := r.Confirm(t.Context(), []byte(r.config("backend web\n"+next)), Mark{})
		if fmt.Sprint(err) != "<nil>" && want == "" || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%q: got %v, want %q", next, err, want)
		}
	}
}

func TestWhatIsSetByHandIsLeftAloneUntilTheNextReload(t *testing.T) {
	r := newHARig(t, twoServers)
	r.send("set server web/a state maint")
	r.send("set server web/b weight 0")
	confirm := func() {
		t.Helper()
		if err := r.Confirm(t.Context(), []byte(r.config(twoServers)), Mark{}); err != nil {
			t.Errorf("it is taken for a difference: %v", err)
		}
	}
	confirm()
	if text := r.output.String(); !strings.Contains(text, "web/a in maintenance, web/b has weight 0") {
		t.Errorf("it is not noted:\n%s", text)
	}
	third := twoServers + "    server c 127.0.0.1:3\n"
	if kind := r.bring(twoServers, third); kind != Runtime {
		t.Fatalf("it took a %s", kind)
	}
	if kind := r.bring(third, twoServers); kind != Runtime {
		t.Fatalf("it took a %s", kind)
	}
	states, err := r.ask(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if a, b := states["web"]["a"], states["web"]["b"]; a.admin&adminMaint == 0 || b.weight != 0 {
		t.Errorf("a change of another server undid it: %+v, %+v", a, b)
	}
	r.send("set server web/a state drain")
	confirm()
	// An address is nothing to set by hand for a while: the file says where a server is.
	r.send("set server web/a addr 127.0.0.9 port 9")
	if err := r.Confirm(t.Context(), []byte(r.config(twoServers)), Mark{}); err == nil {
		t.Error("another address is taken for none")
	}
}

func TestApplyingAPlanAgainIsHarmless(t *testing.T) {
	r := newHARig(t, oneServer)
	live, next := r.config(oneServer), r.config("backend web\n    server b 127.0.0.1:2 check weight 7\n    server c 127.0.0.1:3 disabled\n")
	plan, err := r.Plan(t.Context(), []byte(live), []byte(next))
	if err != nil || plan.Kind != Runtime {
		t.Fatalf("%v, %v", plan, err)
	}
	r.send("add server web/b 127.0.0.9:9 maxconn 3") // as left by a try that was broken off
	for range 3 {
		for range 2 {
			if err := NewHAProxy(r.cfg).Apply(t.Context(), plan); err != nil && !strings.Contains(err.Error(), "runs already") {
				t.Fatal(err)
			}
		}
		if err := r.Confirm(t.Context(), []byte(next), Mark{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnEndedContextEndsAWait(t *testing.T) {
	r := newHARig(t, oneServer)
	mark, err := r.Mark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Confirm(ctx, []byte(r.config(oneServer)), mark); err == nil || !strings.Contains(err.Error(), "still runs") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(r.file); err != nil {
		t.Fatal(err)
	}
}
