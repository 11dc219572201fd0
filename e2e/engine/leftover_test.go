package engine

import (
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

func TestOnlyWhatNamesTheFolderIsEnded(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "exec")
	start := func(argument string) *exec.Cmd {
		cmd := exec.Command("sh", "-c", "echo; read line", "sh", "-address", argument)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		stdin, err := cmd.StdinPipe() // held open, so that it waits
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stdin.Close(); cmd.Process.Kill(); cmd.Wait() })
		if _, err := stdout.Read(make([]byte, 1)); err != nil { // then its command line is its own
			t.Fatal(err)
		}
		return cmd
	}
	ours := []*exec.Cmd{start(folder), start(filepath.Join(folder, "containerd", "containerd.sock"))}
	others := []*exec.Cmd{start(dir), start(folder + "utable"), start("unix://" + folder + "/docker.sock"), start("/elsewhere" + folder)}
	if err := endLeftovers(folder); err != nil {
		t.Fatal(err)
	}
	if pids, err := leftovers(folder); len(pids) > 0 || err != nil {
		t.Errorf("left: %v, %v", pids, err)
	}
	for _, cmd := range ours {
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("%q ended with %v", cmd.Args, err)
		}
	}
	for _, cmd := range others {
		argument := cmd.Args[len(cmd.Args)-1]
		if pids, err := leftovers(argument); err != nil || !slices.Contains(pids, cmd.Process.Pid) {
			t.Errorf("%q was ended: %v, %v", cmd.Args, pids, err)
		}
	}
}
