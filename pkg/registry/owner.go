package registry

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
)

// machineIDFile holds an identity that survives reboots and changes of the host name.
const machineIDFile = "/etc/machine-id"

// NewOwner returns a name for this run of this program on this machine: "MACHINE/RUN". The
// machine part is the same for every program and every run on it; the run part never repeats.
//
// Machine identities are meant to stay on their machine, so that only a digest of it is used. A
// machine without one, such as a container, is known by its host name.
func NewOwner() string {
	identity, err := os.ReadFile(machineIDFile)
	if err != nil || len(strings.TrimSpace(string(identity))) == 0 {
		name, _ := os.Hostname() // "" is as good as any other name that all its runs share
		identity = []byte(name)
	}
	machine := sha256.Sum256([]byte("kvd registry owner " + strings.TrimSpace(string(identity))))
	var run [8]byte
	rand.Read(run[:])
	return hex.EncodeToString(machine[:8]) + "/" + hex.EncodeToString(run[:])
}

// sameMachine reports whether two owners are runs on one machine.
func sameMachine(a, b string) bool {
	machineA, _, okA := strings.Cut(a, "/")
	machineB, _, okB := strings.Cut(b, "/")
	return okA && okB && machineA == machineB
}
