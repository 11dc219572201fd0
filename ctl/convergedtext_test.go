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
	if got := shortened("is at index 7"); got != "is at index 7" {
		t.Errorf("%q", got)
	}
}
