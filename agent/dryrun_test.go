package agent

import (
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/registry"
)

func TestADryRunNamesTheKeysOfEachLayout(t *testing.T) {
	r := registry.Record{Service: "web", Instance: "vm_shop_80", ID: "vm:shop:80", Address: "10.0.0.1", Port: 80, Protocol: "tcp"}
	views := []registry.View{{Prefix: "/services", Layout: registry.LayoutJSON}, {Prefix: "/old", Layout: registry.LayoutRegistrator}}
	if got := keysText(r, views); got != "/services/web/vm_shop_80,/old/web/vm:shop:80" {
		t.Error(got)
	}
	r.Port = 0 // which registrator's layout cannot say
	if got := keysText(r, views[1:]); got != "-" {
		t.Error(got)
	}
}

func TestATableHoldsNothingThatAContainerSaysToTheTerminal(t *testing.T) {
	var table strings.Builder
	row(&table, "web\x1b[2J", "a\tb", "c\nd")
	if got := table.String(); got != `web\x1b[2J`+"\t"+`a\tb`+"\t"+`c\nd`+"\n" {
		t.Errorf("%q", got)
	}
}
