package daemon

import (
	"net/netip"
	"testing"
)

// addressNumber returns one of many addresses.
func addressNumber(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

func TestAnAddressThatHasGoneAndAskedLeastMakesRoom(t *testing.T) {
	all := newClients()
	for i := range clientsMax {
		k := all.enter(addressNumber(i))
		k.requests.Add(uint64(i + 10))
		if i != 0 { // the first one stays connected
			all.leave(k)
		}
	}
	all.enter(addressNumber(1000)).requests.Add(1)
	known, other := all.counts()
	if len(known) != clientsMax || other != 11 {
		t.Errorf("%d addresses are known, others have asked %d times", len(known), other)
	}
	for i, want := range map[int]uint64{0: 10, 1: 0, 2: 12, 1000: 1} {
		if got := known[addressNumber(i)]; got != want {
			t.Errorf("%s has asked %d times, want %d", addressNumber(i), got, want)
		}
	}
}

func TestAddressesWithoutAPlaceShareOneCount(t *testing.T) {
	all := newClients()
	for i := range clientsMax + 5 {
		all.enter(addressNumber(i)).requests.Add(2)
	}
	all.enter(netip.Addr{}).requests.Add(1)
	known, other := all.counts()
	if len(known) != clientsMax || other != 11 {
		t.Errorf("%d addresses are known, others have asked %d times", len(known), other)
	}
	if again := all.enter(addressNumber(3)); again.requests.Load() != 2 {
		t.Errorf("a second connection of an address counts apart: %d", again.requests.Load())
	}
}
