package parts

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// recorder is a testing.TB that remembers how the test would have ended.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper()                   {}
func (r *recorder) Skipf(f string, a ...any)  { r.skipped = fmt.Sprintf(f, a...) }
func (r *recorder) Fatalf(f string, a ...any) { r.failed = fmt.Sprintf(f, a...) }

func TestAMissingPartSkipsAndSaysWhich(t *testing.T) {
	t.Setenv(requireVariable, "")
	var r recorder
	Need(&r, "no-such-program")
	if !strings.HasPrefix(r.skipped, "part missing: no-such-program: ") || r.failed != "" {
		t.Errorf("skipped %q, failed %q", r.skipped, r.failed)
	}
}

func TestAMissingPartFailsWherePartsArePromised(t *testing.T) {
	t.Setenv(requireVariable, "1")
	var r recorder
	Need(&r, "no-such-program")
	if !strings.HasPrefix(r.failed, "part missing: no-such-program: ") || r.skipped != "" {
		t.Errorf("skipped %q, failed %q", r.skipped, r.failed)
	}
}

func TestAPresentPartLetsTheTestGoOn(t *testing.T) {
	var r recorder
	Need(&r, "sh")
	if r.skipped != "" || r.failed != "" {
		t.Errorf("skipped %q, failed %q", r.skipped, r.failed)
	}
}

func TestTheSumFollowsTheSourcesAndNothingElse(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sum := func() string {
		t.Helper()
		s, err := sourceSum(root)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	write("go.mod", "module x")
	write("a/a.go", "package a")
	first := sum()

	for _, unrelated := range []string{"a/a_test.go", "docs/a.md", ".git/HEAD", "bin/a", "a/testdata/x"} {
		write(unrelated, "anything")
		if sum() != first {
			t.Errorf("%s changed the sum", unrelated)
		}
	}
	write("a/page.html", "embedded")
	if sum() == first {
		t.Error("a file that could be embedded did not change the sum")
	}
}

func TestBuiltProgramsRunWithoutALibrary(t *testing.T) {
	bin := Build(t)
	for _, program := range programs {
		output, err := exec.Command(filepath.Join(bin, program), "--version").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(output), program+" version ") {
			t.Errorf("%s --version: %v\n%s", program, err, output)
		}
		image, err := elf.Open(filepath.Join(bin, program))
		if err != nil {
			t.Fatal(err)
		}
		if libraries, err := image.ImportedLibraries(); err != nil || len(libraries) > 0 {
			t.Errorf("%s is linked against %v (%v)", program, libraries, err)
		}
		image.Close()
	}
}
