package install_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/e2e/parts"
)

// inOwnMounts runs a test in a mount namespace of its own, whose mounts end with it.
func inOwnMounts(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	parts.Need(t, "root")
	t.Run("in a mount namespace", func(t *testing.T) {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Skipf("part missing: a mount namespace: %v", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			t.Skipf("part missing: private mounts: %v", err)
		}
		test(t)
	})
}

func mount(t *testing.T, source, target, kind string, flags uintptr, data string) {
	t.Helper()
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		t.Skipf("part missing: mount %s on %s: %v", source, target, err)
	}
	t.Cleanup(func() { unix.Unmount(target, unix.MNT_DETACH) })
}

// bound returns a destination on which a file with some content is bound, and that file, in folder.
func bound(t *testing.T, folder, old string) (f install.File, source string) {
	t.Helper()
	f, source = destination(t), filepath.Join(folder, "source")
	for path, text := range map[string]string{f.Path: "covered", source: old} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mount(t, source, f.Path, "", unix.MS_BIND, "")
	return f, source
}

// wantOnly checks that the destination is as it was, and alone in its directory.
func wantOnly(t *testing.T, f install.File, want string) {
	t.Helper()
	if got := content(t, f); got != want {
		t.Errorf("the destination has %.40q, want %.40q", got, want)
	}
	if got := names(t, f); !slices.Equal(got, []string{filepath.Base(f.Path)}) {
		t.Errorf("the directory has %q", got)
	}
}

// refused stages and commits, wants an error with each of the texts, and discards what was staged.
func refused(t *testing.T, f install.File, content string, texts ...string) {
	t.Helper()
	staged, err := f.Stage([]byte(content))
	if err == nil {
		err = staged.Commit()
		staged.Discard()
	}
	if err == nil {
		t.Fatal("the file was written")
	}
	for _, text := range append(texts, f.Path) {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("got %q, want it to say %q", err, text)
		}
	}
}

func TestEveryCallThatFailsLeavesTheOldFile(t *testing.T) {
	for _, call := range []string{"create", "write", "chown", "chmod", "sync", "rename"} {
		for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO, syscall.EROFS} {
			f := destination(t)
			put(t, f, "old")
			failing := install.WithFault(f, func(c string) error {
				if c == call {
					return errno
				}
				return nil
			})
			refused(t, failing, "new", errno.Error())
			wantOnly(t, f, "old")
		}
	}
}

func TestADirectoryThatCannotBeFlushedIsTold(t *testing.T) {
	f := destination(t)
	put(t, f, "old")
	failing := install.WithFault(f, func(c string) error {
		if c == "flush" {
			return syscall.EIO
		}
		return nil
	})
	refused(t, failing, "new", syscall.EIO.Error())
	wantOnly(t, f, "new")
}

func TestAFullDiskLeavesTheOldFile(t *testing.T) {
	inOwnMounts(t, func(t *testing.T) {
		f := destination(t)
		mount(t, "tmpfs", filepath.Dir(f.Path), "tmpfs", 0, "size=64k")
		put(t, f, "old")
		refused(t, f, strings.Repeat("x", 1<<20), "no room left", "no space left on device")
		wantOnly(t, f, "old")
	})
}

func TestAReadOnlyFileSystemIsNamed(t *testing.T) {
	inOwnMounts(t, func(t *testing.T) {
		f := destination(t)
		mount(t, "tmpfs", filepath.Dir(f.Path), "tmpfs", 0, "")
		put(t, f, "old")
		mount(t, "", filepath.Dir(f.Path), "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		refused(t, f, "new", "read-only file system", "ReadWritePaths="+filepath.Dir(f.Path))
		wantOnly(t, f, "old")
	})
}

func TestABoundFileIsWrittenInPlaceWithItsOldContentKeptMeanwhile(t *testing.T) {
	inOwnMounts(t, func(t *testing.T) {
		f, source := bound(t, t.TempDir(), "a longer old text")
		kept := ""
		watched := install.WithFault(f, func(call string) error {
			if call == "write" {
				kept = strings.Join(names(t, f), " ")
			}
			return nil
		})
		f.Mode = ref(os.FileMode(0o600))
		watched.Mode = f.Mode
		put(t, watched, "new")
		if data, _ := os.ReadFile(source); string(data) != "new" || differs(t, f, "new") {
			t.Errorf("the bound file has %q", data)
		}
		if !strings.Contains(kept, ".proxy.cfg.in-place") {
			t.Errorf("while the file was written there were %q", kept)
		}
		wantOnly(t, f, "new")
	})
}

func TestAFullDiskBelowABoundFileLeavesItsOldContent(t *testing.T) {
	inOwnMounts(t, func(t *testing.T) {
		small := t.TempDir()
		mount(t, "tmpfs", small, "tmpfs", 0, "size=64k")
		old := strings.Repeat("old ", 10_000)
		f, _ := bound(t, small, old)
		refused(t, f, strings.Repeat("x", 1<<20), "no room left where "+f.Path+" is")
		wantOnly(t, f, old)
	})
}

func TestAWriteInPlaceThatACrashCutShortIsUndone(t *testing.T) {
	inOwnMounts(t, func(t *testing.T) {
		for _, c := range []struct{ half, want string }{
			{"ne", "old"},            // cut short
			{"", "old"},              // before the first byte
			{"new text", "new text"}, // complete, but the kept content was not removed yet
		} {
			f, source := bound(t, t.TempDir(), "old")
			killed := install.WithFault(f, func(call string) error {
				if call == "write" && content(t, f) == "old" && slices.Contains(names(t, f), ".proxy.cfg.in-place") {
					panic("killed")
				}
				return nil
			})
			staged, err := killed.Stage([]byte("new text"))
			if err != nil {
				t.Fatal(err)
			}
			func() {
				defer func() { recover() }()
				staged.Commit()
			}()
			if err := os.WriteFile(source, []byte(c.half), 0o644); err != nil {
				t.Fatal(err)
			}
			staged.Discard()
			if err := f.Sweep(); err != nil {
				t.Fatal(err)
			}
			wantOnly(t, f, c.want)
		}
	})
}

func TestAKeptContentThatWasTamperedWithIsNotPutBack(t *testing.T) {
	f := destination(t)
	put(t, f, "old")
	kept := filepath.Join(filepath.Dir(f.Path), ".proxy.cfg.in-place")
	if err := os.WriteFile(kept, []byte("evil"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Sweep(); err == nil || !strings.Contains(err.Error(), "not put back") || content(t, f) != "old" {
		t.Errorf("got %v, content %q", err, content(t, f))
	}
}

func TestAnImmutableFileIsNamed(t *testing.T) {
	parts.Need(t, "root")
	f := destination(t)
	put(t, f, "old")
	if out, err := exec.Command("chattr", "+i", f.Path).CombinedOutput(); err != nil {
		t.Skipf("part missing: chattr +i here: %v %s", err, out)
	}
	defer exec.Command("chattr", "-i", f.Path).Run()
	refused(t, f, "new", "immutable")
	wantOnly(t, f, "old")
}

// asUser runs a test whose calls to the file system are those of a user without rights.
func asUser(t *testing.T, uid int, test func(t *testing.T)) {
	t.Helper()
	parts.Need(t, "root")
	t.Run("as another user", func(t *testing.T) {
		runtime.LockOSThread() // and never unlocked
		if err := unix.Setfsgid(uid); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setfsuid(uid); err != nil {
			t.Fatal(err)
		}
		test(t)
	})
}

// open lets everybody into the directories above path, which the test has made.
func open(t *testing.T, path string) {
	t.Helper()
	for dir := filepath.Dir(path); dir != filepath.Clean(os.TempDir()) && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestADirectoryWithoutPermissionIsNamed(t *testing.T) {
	f := destination(t)
	put(t, f, "old")
	open(t, f.Path)
	asUser(t, 4321, func(t *testing.T) { refused(t, f, "new", "may not create files in "+filepath.Dir(f.Path)) })
	wantOnly(t, f, "old")
}

func TestOnlyRootCanGiveAFileAway(t *testing.T) {
	f := destination(t)
	put(t, f, "old")
	open(t, f.Path)
	if err := os.Chmod(filepath.Dir(f.Path), 0o777); err != nil {
		t.Fatal(err)
	}
	f.UID = 1234
	asUser(t, 4321, func(t *testing.T) {
		refused(t, f, "new", "may not give it to 1234:", "leave owner, group, uid and gid out")
	})
	wantOnly(t, f, "old")
}

func TestAFileOfAnotherUserInAStickyDirectoryStays(t *testing.T) {
	f := destination(t)
	put(t, f, "old")
	open(t, f.Path)
	if err := os.Chmod(filepath.Dir(f.Path), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	f.UID, f.GID = 4321, 4321
	asUser(t, 4321, func(t *testing.T) { refused(t, f, "new", "sticky directory") })
	wantOnly(t, f, "old")
}

func TestWhatIsNoFileIsNeverReplaced(t *testing.T) {
	dir := t.TempDir()
	pipe, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, link, "/dev/null"} {
		for _, follow := range []bool{false, true} {
			f := install.File{Path: path, UID: -1, GID: -1, Follow: follow}
			if _, err := f.Differs(nil); err == nil || !strings.Contains(err.Error(), "dest must name a file") {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}

func TestALinkIsFollowedWhereThatIsWanted(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	real := filepath.Join(elsewhere, "real.cfg")
	for link, to := range map[string]string{"a": "b", "b": real} {
		if err := os.Symlink(to, path(link)); err != nil {
			t.Fatal(err)
		}
	}
	f := install.File{Path: path("a"), UID: -1, GID: -1, Follow: true}
	for _, text := range []string{"first, where nothing was", "second"} {
		if !differs(t, f, text) {
			t.Error("does not differ before it is written")
		}
		put(t, f, text)
		if err := f.Owe(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(real)
		if data, _ := os.ReadFile(real); err != nil || !info.Mode().IsRegular() || string(data) != text || differs(t, f, text) {
			t.Errorf("behind the link there is %q, %v", data, err)
		}
	}
	if got, want := names(t, f), []string{".a.reload-pending", "a", "b"}; !slices.Equal(got, want) {
		t.Errorf("beside the link there are %q, want %q", got, want)
	}
}

func TestTheDirectoryThatALinkLeadsToIsNamedWhereItIsMissing(t *testing.T) {
	dir := t.TempDir()
	f := install.File{Path: filepath.Join(dir, "link"), UID: -1, GID: -1, Follow: true}
	if err := os.Symlink(filepath.Join(dir, "gone", "file"), f.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Stage(nil); err == nil || !strings.Contains(err.Error(), "the directory "+filepath.Join(dir, "gone")+" does not exist") {
		t.Errorf("%v", err)
	}
}

func TestLinksThatLeadInACircleAreAnError(t *testing.T) {
	f := destination(t)
	f.Follow = true
	if err := os.Symlink(filepath.Base(f.Path), f.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Stage(nil); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("got %v", err)
	}
}

func TestAVeryLongNameHasRoomForWhatIsKeptBesideIt(t *testing.T) {
	for _, length := range []int{200, 230, 231, 255} {
		f := install.File{Path: filepath.Join(t.TempDir(), strings.Repeat("n", length)), UID: -1, GID: -1}
		put(t, f, "text")
		if err := errors.Join(f.Owe(), f.KeepGood(install.Good{Content: []byte("text")}), f.Sweep()); err != nil {
			t.Errorf("%d bytes: %v", length, err)
		}
		if got := names(t, f); len(got) != 3 || !install.IsBeside(got[0]) || !install.IsBeside(got[1]) {
			t.Errorf("%d bytes: %q", length, got)
		}
	}
	f := install.File{Path: filepath.Join(t.TempDir(), strings.Repeat("n", 256)), UID: -1, GID: -1}
	refused(t, f, "text", "longer than the file system allows")
}

func TestTwoLongNamesThatBeginAlikeAreKeptApart(t *testing.T) {
	dir := t.TempDir()
	one := install.File{Path: filepath.Join(dir, strings.Repeat("n", 240)+"1")}
	other := install.File{Path: filepath.Join(dir, strings.Repeat("n", 240)+"2")}
	if err := one.Owe(); err != nil {
		t.Fatal(err)
	}
	if owes, err := other.Owes(); owes || err != nil {
		t.Errorf("the debt of one is that of the other: %v %v", owes, err)
	}
}

func TestAnotherWriterNeverLeavesHalfAFile(t *testing.T) {
	f := destination(t)
	versions := []string{strings.Repeat("a", 100_000), strings.Repeat("b", 50_000)}
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		other := f.Path + ".other"
		for i := 0; ; i++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := errors.Join(os.WriteFile(other, []byte("other"), 0o600), os.Rename(other, f.Path)); err != nil {
				stopped <- fmt.Errorf("the other writer: %w", err)
				return
			}
		}
	}()
	for i := range 30 {
		put(t, f, versions[i%2])
		if got := content(t, f); got != "other" && !slices.Contains(versions, got) {
			t.Fatalf("half a file of %d bytes", len(got))
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	put(t, f, "ours")
	if differs(t, f, "ours") {
		t.Error("the last writer did not win")
	}
}

func TestAVersionToGoBackToThatWasTamperedWithIsNotUsed(t *testing.T) {
	f := destination(t)
	if err := f.KeepGood(install.Good{Content: []byte("listen 80\n"), Index: 3, Keys: -1}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(f.Path), ".proxy.cfg.last-good")
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "listen 80\n", string(kept) + "x", string(kept[:len(kept)-1]), strings.Replace(string(kept), "80", "81", 1)} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := f.Good(); ok || err == nil || !strings.Contains(err.Error(), "not used") {
			t.Errorf("%q: got %v %v", bad, ok, err)
		}
	}
}
