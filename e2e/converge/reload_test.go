package converge

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestAReloadThatFailsIsTriedAgainWithoutANewWrite(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// A reload fails as long as there is a file "broken".
	h := newHAProxy(w, haproxyCheck, `reload_cmd = "echo x >>$DIR/reloads; test ! -e $DIR/broken || exit 1; sh $DIR/reload.sh"`)
	one, two := startBackend(t, "one"), startBackend(t, "two")
	w.register("web", one)
	w.start()
	h.start()
	h.until("web", one)

	w.write("broken", "")
	before := strings.Count(w.read("reloads"), "x")
	w.register("other", two) // a backend that HAProxy does not have takes a reload
	w.until("the reload has failed twice", func() string {
		if n := strings.Count(w.read("reloads"), "x") - before; n < 2 {
			return fmt.Sprintf("%d reloads", n)
		}
		return ""
	})
	if answers := h.serves("web", 5); answers["one"] != 5 {
		t.Errorf("while the reload fails, HAProxy answers %v", answers)
	}
	w.remove("broken")
	h.until("other", two)
	h.until("web", one)
	if answers := h.serves("other", 3); answers["two"] != 3 {
		t.Errorf("HAProxy answers %v", answers)
	}
	w.settled()
}

func TestAReloadOrACheckThatHangsAndForksIsKilledWithItsChildrenAndTriedAgain(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"check", "reload"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			// The first time it hangs, with a child that ignores what a polite kill sends.
			hang := `'''test -e $DIR/hung || { echo $$ >$DIR/hung; sh -c "trap \"\" TERM HUP INT; echo \$\$ >$DIR/child.new; mv $DIR/child.new $DIR/child; sleep 600; true" & wait; }'''`
			w.resource("a", `{{getv "/x"}}`, fmt.Sprintf("keys = [\"/x\"]\n%s_cmd = %s\n%[1]s_cmd_timeout = \"300ms\"", step, hang))
			w.resource("b", `{{getv "/x"}}`, `keys = ["/x"]`)
			w.set("/x", "1")
			w.start()
			w.eventually("b.out", "1") // others do not wait for it
			w.eventually("a.out", "1")
			w.settled()
			for _, file := range []string{"hung", "child"} {
				pid, err := strconv.Atoi(strings.TrimSpace(w.read(file)))
				if err != nil {
					t.Fatal(err)
				}
				w.until("what hung is gone", func() string {
					state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
					if err != nil || strings.Contains(string(state), ") Z ") {
						return ""
					}
					return fmt.Sprintf("%s (%d) is there: %s", file, pid, state)
				})
			}
		})
	}
}

func TestACheckOrAReloadThatIsKilledByASignalCountsAsFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	die := `if test -e $DIR/%[1]s; then cp $DIR/b.out $DIR/%[1]s; else touch $DIR/%[1]s; kill -9 $$; fi`
	w.resource("a", `{{getv "/x"}}`, fmt.Sprintf("keys = [\"/x\"]\ncheck_cmd = \""+die+"\"\nreload_cmd = \""+die+" \"", "checked"))
	w.resource("b", `{{getv "/x"}}`, `keys = ["/x"]`)
	w.set("/x", "1")
	w.start()
	w.eventually("a.out", "1")
	w.settled()
	w.eventually("checked", "1")
}

func TestFilesWithOneReloadCommandAreReloadedOncePerPassAndNeverAtTheSameTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := newNginx(w, `mkdir $DIR/lock || touch $DIR/overlap; echo x >>$DIR/reloads; `, `; sleep 0.02; rmdir $DIR/lock`)
	const files, changes = 4, 4
	for i := range files {
		n.site(fmt.Sprintf("site%d", i), fmt.Sprintf(`location = /site%d { return 200 "%d {{getv "/x"}}"; }`, i, i))
	}
	w.set("/x", "0")
	w.start()
	n.start()
	for i := range changes {
		w.set("/x", strconv.Itoa(i))
		for site := range files {
			n.until(fmt.Sprintf("/site%d", site), fmt.Sprintf("%d %d", site, i))
		}
	}
	w.settled("sites")
	if reloads := strings.Count(w.read("reloads"), "x"); reloads > changes+2 {
		t.Errorf("%d reloads for %d changes of %d files", reloads, changes, files)
	}
	if w.exists("overlap") {
		t.Error("two reloads ran at the same time")
	}
}

func TestAReloadThatOutlivesItsKvconfdIsNotJoinedByAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.resource("a", `{{getv "/x"}}`, `keys = ["/x"]
reload_cmd = "mkdir $DIR/busy || echo x >>$DIR/twice; echo x >>$DIR/begun; until test -e $DIR/go; do sleep 0.01; done; rmdir $DIR/busy"`)
	w.set("/x", "1")
	w.start()
	w.until("a reload is under way, and noted", func() string {
		if !w.exists("begun") || !strings.Contains(w.read(".a.out.reload-pending"), "process") {
			return "it is not"
		}
		return ""
	})
	w.agent.kill()
	w.set("/x", "2")
	w.start()
	w.eventually("a.out", "2")
	w.untilSaid("is waited for")
	w.write("go", "")
	w.settled()
	if w.exists("twice") {
		t.Error("there were two reloads at one time")
	}
	if begun := w.read("begun"); begun != "x\nx\n" {
		t.Errorf("%d reloads, want one of the first kvconfd and one of the second", strings.Count(begun, "x"))
	}
}

func TestNginxServesWhatTheStoreSaysAndAVersionItRefusesIsNotInstalled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := newNginx(w, "", "")
	n.site("a", `location = /a { return 200 "a {{getv "/a" "none"}}"; }`)
	n.site("b", `location = /b { return 200 "b {{getv "/b" "none"}}"; }`)
	w.start()
	n.start()
	n.until("/a", "a none")
	w.set("/a", `" ; } broken {`)
	w.untilSaid("check_cmd refused the new version")
	w.set("/b", "1") // the others go on, with the version of a that nginx accepted
	n.until("/b", "b 1")
	n.until("/a", "a none")
	w.set("/a", "2")
	n.until("/a", "a 2")
	w.settled("sites")
}

func TestAKilledReloadCommandOfABusyNginxLosesNoVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := newNginx(w, `if mkdir $DIR/once.$(cat $DIR/round) 2>/dev/null; then kill -9 $PPID; fi; `, ``)
	n.site("a", `location = /a { return 200 "a {{getv "/a" "none"}}"; }`)
	w.write("round", "0")
	w.write("once.0", "") // the first start is not disturbed
	w.start()
	n.start()
	n.until("/a", "a none")
	for i := 1; i <= 3; i++ {
		w.write("round", strconv.Itoa(i))
		w.set("/a", strconv.Itoa(i))
		w.agent.awaitEnd(t) // the reload command has killed kvconfd, and reloaded nothing yet or just now
		if status, ok := w.agent.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("kvconfd ended with %v", w.agent.cmd.ProcessState)
		}
		w.start()
		n.until("/a", "a "+strconv.Itoa(i))
		w.paid("sites")
	}
}
