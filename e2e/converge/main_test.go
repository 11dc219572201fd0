package converge

import (
	"flag"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil { // worlds wait more than they work
		panic(err)
	}
	os.Exit(m.Run())
}
