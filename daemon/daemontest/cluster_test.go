package daemontest_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/daemon/daemontest"
)

func TestAWriteOnAnyMemberIsReadThereAndByQuorumOnAllOthers(t *testing.T) {
	cluster, client := daemontest.Start(t, 3), newClient(t)
	for _, writer := range cluster.Members() {
		key := "/v2/keys/" + writer.Name
		call(t, client, http.MethodPut, writer.URL()+key, url.Values{"value": {writer.Name}})
		want := `"value":"` + writer.Name + `"`
		if got := call(t, client, http.MethodGet, writer.URL()+key, nil); !strings.Contains(got, want) {
			t.Errorf("%s reads %s", writer.Name, got)
		}
		for _, reader := range cluster.Members() {
			if got := call(t, client, http.MethodGet, reader.URL()+key+"?quorum=true", nil); !strings.Contains(got, want) {
				t.Errorf("%s has written, %s reads %s", writer.Name, reader.Name, got)
			}
		}
	}
}
