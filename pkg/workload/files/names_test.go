package files

import (
	"slices"
	"testing"
)

func TestTheServicesOfAFileThatCannotBeUnderstoodAreMadeOut(t *testing.T) {
	text := "# shop: no\n---\nweb:\n  port: {8080\n  tags:\n\"ad.min\" : x\n- list: 1\nweb: again\n:\n[a: b\ntwo words: x\nno colon\n"
	if got := names([]byte(text)); !slices.Equal(got, []string{"web", "ad.min"}) {
		t.Errorf("%q", got)
	}
	if got := names(nil); got != nil {
		t.Errorf("of nothing: %q", got)
	}
}
