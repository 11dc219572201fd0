package compat

import (
	"strings"
	"testing"
)

// TestALongValueCanBeComparedInAURL: the conditions of a DELETE have no other place.
func TestALongValueCanBeComparedInAURL(t *testing.T) {
	value := strings.Repeat("v", 500_000)
	for name, url := range map[string]string{"etcd": startEtcd(t), "kvd": startKvd(t)} {
		s := newSpeaker(t, url, "/long")
		for _, request := range []string{"PUT ~/a value=" + value, "PUT ~/a?prevValue=" + value + " value=" + value, "DELETE ~/a?prevValue=" + value} {
			answer, err := s.Say(request, patience)
			if status, _, _ := strings.Cut(answer, "\n"); err != nil || status != "200" && status != "201" {
				t.Errorf("%s: %.20s...: %.200s %v", name, request, answer, err)
			}
		}
	}
}
