package hostaddr

import (
	"net"
	"net/netip"
	"testing"
)

func TestTheHostsAddressIsOneOfItsOwnAndNotLoopbackIfThereIsAnother(t *testing.T) {
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	_, hasGlobal := firstGlobal(own)
	for _, endpoints := range [][]string{nil, {"http://127.0.0.1:2379"}, {"http://[::1]:2379", "not a url at all\x7f"}, {"http://store.invalid:2379"}, {"127.0.0.1:2379", "[::1]:2379"}, {"localhost:2379"}, {"no such endpoint"}} {
		got := Find(t.Context(), endpoints)
		if !got.IsValid() || got.IsUnspecified() || hasGlobal && got.IsLoopback() {
			t.Errorf("%v: got %v of %v", endpoints, got, own)
		}
		isOwn := false
		for _, address := range own {
			prefix, err := netip.ParsePrefix(address.String())
			isOwn = isOwn || err == nil && prefix.Addr().Unmap() == got
		}
		if !isOwn {
			t.Errorf("%v: %v is not an address of this host: %v", endpoints, got, own)
		}
	}
}

func TestTheFirstGlobalAddressIsIPv4IfThereIsOne(t *testing.T) {
	for _, c := range []struct {
		addresses []string
		want      string
	}{
		{[]string{"127.0.0.1/8", "fe80::1/64", "fd00::7/64", "10.0.0.7/24"}, "10.0.0.7"},
		{[]string{"::1/128", "fe80::1/64", "fd00::7/64"}, "fd00::7"},
		{[]string{"127.0.0.1/8", "169.254.1.1/16"}, ""},
	} {
		var addresses []net.Addr
		for _, text := range c.addresses {
			ip, network, err := net.ParseCIDR(text)
			if err != nil {
				t.Fatal(err)
			}
			addresses = append(addresses, &net.IPNet{IP: ip, Mask: network.Mask})
		}
		got, ok := firstGlobal(addresses)
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("%v: got %v, want %q", c.addresses, got, c.want)
		}
	}
}
