package ctl

import (
	"strings"
	"testing"
)

func TestALongReasonBeginsWithWhatTheCommandHasPrinted(t *testing.T) {
	long := `haproxy failed at check: check_cmd refused the new version, the file is kept: "haproxy -c -f {{.src}}" failed: exit status 1: unknown keyword 'balence'`
	if got := shortened(long); got != "haproxy failed at check: unknown keyword 'balence'" {
		t.Errorf("%q", got)
	}
	if got := shortened(strings.Repeat("é", 1000)); got != strings.Repeat("é", shortMax)+"..." {
		t.Errorf("%q", got)
	}
	two := `a failed at check: refused: "sleep" was killed; b failed at reload: "echo" failed: exit status 3: no`
	if got := shortened(two); got != two {
		t.Errorf("what is said of one file is taken for that of another: %q", got)
	}
	if got := shortened("is at index 7"); got != "is at index 7" {
		t.Errorf("%q", got)
	}
}
