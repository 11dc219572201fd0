package kvclient_test

import (
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/kvd-io/kvd/daemon/daemontest"
)

// exampleStore starts a real kvd for an example, which has no testing.TB.
func exampleStore() (url string, stop func()) {
	t := &exampleTB{}
	return daemontest.Start(t, 1).URL(), t.end
}

// exampleTB is as much of a testing.TB as daemontest needs.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (t *exampleTB) end() {
	for i := len(t.cleanups) - 1; i >= 0; i-- {
		t.cleanups[i]()
	}
}

func (t *exampleTB) Helper()                           {}
func (t *exampleTB) Output() io.Writer                 { return io.Discard }
func (t *exampleTB) Cleanup(f func())                  { t.cleanups = append(t.cleanups, f) }
func (t *exampleTB) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (t *exampleTB) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func (t *exampleTB) TempDir() string {
	folder, err := os.MkdirTemp("", "kvclient-example")
	if err != nil {
		panic(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}
