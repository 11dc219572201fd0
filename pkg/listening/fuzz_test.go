package listening

import (
	"testing"

	"github.com/kvd-io/kvd/pkg/fuzztest"
)

// FuzzPlace looks for a text that makes a parser fail, or that is a place but nowhere.
func FuzzPlace(f *testing.F) {
	for _, seed := range []string{"docker0:2379", "unix:/run/x?mode=0666", "unix:///run/x", "[::1]:0", ":1", "127.0.0.1:53"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		fuzztest.WantBounded(t, 64*uint64(len(text))+fuzztest.Fixed, func() {
			if p, err := Parse(text); err == nil && p.iface == "" && !p.address.IsValid() {
				t.Errorf("%q is a place, but nowhere", text)
			}
			if p, ok, err := ParseSocket(text); ok && err == nil && p.socket == "" {
				t.Errorf("%q is a socket, but nowhere", text)
			}
		})
	})
}
