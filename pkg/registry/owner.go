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
// A machine without an identity, such as a container, is known by its host name.
func NewOwner() string {
	name, _ := os.Hostname() // "" is as good as any other name that all its runs share
	var run [8]byte
	rand.Read(run[:])
	return machine(name) + "/" + hex.EncodeToString(run[:])
}

// StandingOwner returns a name that every run of one program on this machine shares as long as its
// settings are the same: "MACHINE/PROGRAM/SETTINGS". What such a run has registered the next one
// finds to be its own. Runs with other settings are told apart, so that two that are there at one
// time do not correct each other for ever. A machine without an identity is known by host.
func StandingOwner(host, program, settings string) string {
	return machine(host) + "/" + program + "/" + digest(settings)
}

// machine names this machine. Machine identities are meant to stay on their machine, so that only a
// digest of it is used.
func machine(otherwise string) string {
	identity, err := os.ReadFile(machineIDFile)
	name := strings.TrimSpace(string(identity))
	if err != nil || name == "" {
		name = otherwise
	}
	return digest("kvd registry owner " + name)
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

// sameProgram reports whether two standing owners are runs of one program on one machine.
func sameProgram(a, b string) bool {
	cutA, cutB := strings.LastIndexByte(a, '/'), strings.LastIndexByte(b, '/')
	return cutA > 0 && cutB > 0 && a[:cutA] == b[:cutB] && strings.Contains(a[:cutA], "/")
}

// sameMachine reports whether two owners are runs on one machine.
func sameMachine(a, b string) bool {
	machineA, _, okA := strings.Cut(a, "/")
	machineB, _, okB := strings.Cut(b, "/")
	return okA && okB && machineA == machineB
}

// inherits reports whether what earlier has left is for heir to carry on with: of standing owners
// what the same program has left, of others what any run on the same machine has.
func inherits(heir, earlier string) bool {
	if isStanding(heir) || isStanding(earlier) {
		return sameProgram(heir, earlier)
	}
	return sameMachine(heir, earlier)
}

// isStanding reports whether owner is the name of more than one run.
func isStanding(owner string) bool { return strings.Count(owner, "/") > 1 }
