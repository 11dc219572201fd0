package compat

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

// TestRandomRequestsAreAnsweredAlike sends the same random requests to both, over few enough keys
// that they get in each other's way, and then compares what a watcher has seen of them. A failure
// prints how to replay it; it is shrunk to the requests that matter.
func TestRandomRequestsAreAnsweredAlike(t *testing.T) {
	etcd, kvd := startEtcd(t), startKvd(t)
	var homes atomic.Int64
	rapid.Check(t, func(rt *rapid.T) {
		requests := rapid.SliceOfN(rapid.Custom(drawRequest), 1, 40).Draw(rt, "requests")
		home := fmt.Sprintf("/r%d", homes.Add(1))
		theirs, ours := newSpeaker(t, etcd, home), newSpeaker(t, kvd, home)
		defer theirs.hangUp()
		defer ours.hangUp()
		both := func(text string) string {
			answer, err := theirs.say(t.Context(), text, patience)
			if err != nil {
				rt.Fatalf("etcd: %s: %v", text, err)
			}
			other, err := ours.say(t.Context(), text, patience)
			if err != nil {
				rt.Fatalf("kvd: %s: %v", text, err)
			}
			if answer != other {
				rt.Fatalf("%s\n--- etcd\n%s\n--- kvd\n%s", text, answer, other)
			}
			return answer
		}
		both("w: GET ~/w?wait=true&stream=true&recursive=true")
		for _, request := range requests {
			both(request)
		}
		both("GET ~/w?recursive=true&sorted=true")
		both("PUT ~/w/end value=end")
		for !strings.Contains(both("w line"), home+"/w/end") {
		}
	})
}

// drawRequest draws one line of a dialogue below ~/w, whose own removal a watcher of etcd would see
// twice. Listings are sorted, because etcd's order is random otherwise;
// nothing refreshes a directory, nor makes one of a key by refresh: dialogues explain these differences.
func drawRequest(t *rapid.T) string {
	depth := rapid.IntRange(1, 3).Draw(t, "depth")
	path := "~/w"
	for range depth {
		path += "/" + rapid.SampledFrom([]string{"a", "b", "_h", "a-b"}).Draw(t, "name")
	}
	method := rapid.SampledFrom([]string{"PUT", "PUT", "PUT", "GET", "DELETE", "DELETE", "POST", "HEAD"}).Draw(t, "method")
	maybe := func(words ...string) string {
		return rapid.SampledFrom(append(words, "", "", "", "")).Draw(t, "parameter")
	}
	parameters := []string{
		maybe("dir=true", "refresh=true"), maybe("recursive=true"), maybe("ttl=5100", "ttl=5200"),
		maybe("prevExist=true", "prevExist=false"), maybe("prevValue=one", "prevValue=two"),
		maybe("prevIndex={+1}", "prevIndex={+2}", "prevIndex={+3}", "prevIndex={+5}"),
		maybe("noValueOnSuccess=true"),
		maybe("value=one", "value=two", "value="), maybe("quorum=true"),
	}
	query := "sorted=true"
	for _, p := range parameters {
		if p != "" {
			query += "&" + p
		}
	}
	if strings.Contains(query, "refresh=true") {
		query = strings.ReplaceAll(query, "&prevExist=true", "")
	}
	return method + " " + path + "?" + query
}
