package fuzztest

import (
	"fmt"
	"runtime"
	"testing"
)

// complaint is a test that notes its failure instead of ending.
type complaint struct {
	testing.TB
	text string
}

func (c *complaint) Helper() {}
func (c *complaint) Fatalf(format string, args ...any) {
	c.text = fmt.Sprintf(format, args...)
}

func TestWhatIsAllocatedBeyondTheLimitIsToldAndWhatIsBelowIsNot(t *testing.T) {
	for _, c := range []struct {
		take int
		want bool
	}{{0, false}, {Fixed / 2, false}, {Fixed + 1<<20, true}} {
		told := &complaint{TB: t}
		WantBounded(told, Fixed, func() { runtime.KeepAlive(make([]byte, c.take)) })
		if (told.text != "") != c.want {
			t.Errorf("%d bytes: %q", c.take, told.text)
		}
	}
}
