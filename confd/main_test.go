package confd

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/pkg/program"
)

// asProgram makes the test binary be kvconfd, for tests that kill it.
const asProgram = "KVCONFD_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "1" {
		os.Exit(program.Main(Program()))
	}
	goleak.VerifyTestMain(m)
}
