package install_test

import (
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/kvd-io/kvd/confd/install"
)

// try puts a version in place for a check.
func try(t *testing.T, f install.File, content string) *install.Staged {
	t.Helper()
	staged, err := f.Stage([]byte(content))
	if err == nil {
		err = staged.Try()
	}
	if err != nil {
		t.Fatal(err)
	}
	return staged
}

func TestAVersionOnTrialStaysOrIsWithdrawn(t *testing.T) {
	f := destination(t)
	put(t, f, "old")
	if err := os.Chmod(f.Path, 0o640); err != nil {
		t.Fatal(err)
	}
	staged := try(t, f, "new")
	if got := content(t, f); got != "new" {
		t.Errorf("the check finds %q", got)
	}
	for _, name := range names(t, f) {
		if name != "proxy.cfg" && !install.IsBeside(name) {
			t.Errorf("%s is not known to be kvconfd's own", name)
		}
	}
	if err := staged.Commit(); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, f, "new")
	if found, err := f.Withdraw(); found || err != nil {
		t.Errorf("withdrawn after the trial: %v, %v", found, err)
	}

	try(t, f, "newer")
	again := install.File{Path: f.Path, UID: -1, GID: -1} // as after a crash
	if found, err := again.Withdraw(); !found || err != nil {
		t.Errorf("withdrawn: %v, %v", found, err)
	}
	wantOnly(t, f, "new")
	if info, err := os.Stat(f.Path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("it came back with mode %v, %v", info.Mode(), err)
	}
}

func TestAFirstVersionThatIsWithdrawnIsRemoved(t *testing.T) {
	f := destination(t)
	try(t, f, "new")
	if found, err := f.Withdraw(); !found || err != nil {
		t.Errorf("withdrawn: %v, %v", found, err)
	}
	if got := names(t, f); len(got) != 0 {
		t.Errorf("the directory has %q", got)
	}
	if err := try(t, f, "new").Commit(); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, f, "new")
}

func TestATrialThatCannotBeginLeavesTheOldFile(t *testing.T) {
	for _, call := range []string{"write", "sync", "rename"} {
		f := destination(t)
		put(t, f, "old")
		staged, err := f.Stage([]byte("new"))
		if err != nil {
			t.Fatal(err)
		}
		install.SetFault(staged, func(c string) error {
			if c == call {
				return syscall.ENOSPC
			}
			return nil
		})
		if err := staged.Try(); err == nil {
			t.Fatalf("%s: it was begun", call)
		}
		staged.Discard()
		if _, err := f.Withdraw(); err != nil {
			t.Errorf("%s: %v", call, err)
		}
		wantOnly(t, f, "old")
	}
}

func TestABoundFileIsTriedInPlace(t *testing.T) {
	inOwnMounts(t, func(t *testing.T) {
		f, source := bound(t, t.TempDir(), "old")
		try(t, f, "new")
		if got, _ := os.ReadFile(source); string(got) != "new" {
			t.Errorf("the check finds %q", got)
		}
		if found, err := f.Withdraw(); !found || err != nil {
			t.Errorf("withdrawn: %v, %v", found, err)
		}
		if got, _ := os.ReadFile(source); string(got) != "old" || !slices.Equal(names(t, f), []string{"proxy.cfg"}) {
			t.Errorf("afterwards it has %q, and the directory %q", got, names(t, f))
		}
	})
}
