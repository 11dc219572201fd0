package render

import (
	"net"
	"os"
	"time"
)

// World is what a template may ask of the machine it is rendered on. A nil field means the real
// machine.
type World struct {
	Getenv     func(name string) string
	Hostname   func() (string, error)
	Now        func() time.Time
	FileExists func(path string) bool
	LookupIP   func(host string) ([]net.IP, error)
	LookupSRV  func(service, proto, name string) ([]*net.SRV, error)
	Interface  func(name string) ([]net.Addr, error) // the addresses of a network interface
}

// real returns w with every nil field filled in.
func (w World) real() World {
	if w.Getenv == nil {
		w.Getenv = os.Getenv
	}
	if w.Hostname == nil {
		w.Hostname = os.Hostname
	}
	if w.Now == nil {
		w.Now = time.Now
	}
	if w.FileExists == nil {
		w.FileExists = func(path string) bool {
			_, err := os.Stat(path)
			return err == nil
		}
	}
	if w.LookupIP == nil {
		w.LookupIP = net.LookupIP
	}
	if w.LookupSRV == nil {
		w.LookupSRV = func(service, proto, name string) ([]*net.SRV, error) {
			_, records, err := net.LookupSRV(service, proto, name)
			return records, err
		}
	}
	if w.Interface == nil {
		w.Interface = func(name string) ([]net.Addr, error) {
			found, err := net.InterfaceByName(name)
			if err != nil {
				return nil, err
			}
			return found.Addrs()
		}
	}
	return w
}
