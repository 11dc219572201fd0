// Package report says what became of each target of kvconfd: in metrics, in a health check, on a local
// socket, to the service manager, and in the store, under a TTL.
//
// It takes in what the loop tells it and decides nothing about targets. It never holds the loop up, and
// it knows no value of any key: what a target's error says is the loop's care.
package report

import (
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// State is where a target stands. Its words are those of the log, the metrics and the commands.
type State string

// The states. A target that is Held, Failed or Stale is not converged; Held is as it is to be.
const (
	Waiting   State = "waiting"   // its keys have not been read yet
	Rendered  State = "rendered"  // there is a new version
	Checked   State = "checked"   // the check took it
	Applied   State = "applied"   // it runs, changed without a reload, and the file is to be checked and written
	Written   State = "written"   // it is in place; whoever reads it has not been told
	Reloaded  State = "reloaded"  // whoever reads it was told; whether that came to pass is not known yet
	Converged State = "converged" // what runs is what the keys say
	Held      State = "held"      // a guard keeps the file as it is
	Failed    State = "failed"    // at the step in TargetStatus.Step; tried again at Next
	Stale     State = "stale"     // made from the snapshot on disk: the store has not been heard yet
)

// States are all states, in the order in which a target goes through them.
func States() []State {
	return []State{Waiting, Rendered, Checked, Applied, Written, Reloaded, Converged, Held, Failed, Stale}
}

// runs reports whether what runs is what the keys say, be the file written or not.
func (s State) runs() bool { return s == Converged || s == Applied }

// The steps on the way of a change, as Reporter.Step, TargetStatus.Step and the metrics name them.
const (
	StepRender   = "render"
	StepCheck    = "check"
	StepWrite    = "write"
	StepApply    = "apply" // to the running program, without a reload
	StepReload   = "reload"
	StepConfirm  = "confirm"
	StepRollback = "rollback"
)

// Steps are all steps that are counted.
func Steps() []string {
	return []string{StepRender, StepCheck, StepWrite, StepApply, StepReload, StepConfirm, StepRollback}
}

// TargetStatus is where one target stands. It is a value: nobody changes what Keys points to.
type TargetStatus struct {
	Name     string `json:"name"`               // of the resource; with for_each followed by / and the item's name. Unique
	Resource string `json:"resource,omitempty"` // of which it is one of many; "" if it is Name

	Dest  string   `json:"dest"`           // the file
	State State    `json:"state"`          //
	Step  string   `json:"step,omitempty"` // at which it failed
	Index kv.Index `json:"index"`          // of the keys that it was last brought up to date with, or that is being tried
	Hash  string   `json:"hash,omitempty"` // of the file's content, SHA-256 in hexadecimal; "" if sensitive or not known

	// Err is why it failed or is held, without any content of a sensitive target. At most a few hundred
	// bytes are passed on.
	Err   string    `json:"error,omitempty"`
	Since time.Time `json:"since,omitzero"` // it is in State
	Next  time.Time `json:"next,omitzero"`  // when it is tried again, the hold ends, or its reload may begin; zero: when something changes

	Keys []string `json:"keys,omitempty"` // absolute keys and directories that it follows

	// Changed are keys whose change made the present version, in the order of their change; "..." is last if there are
	// more of them. nil: they are not known, or it is not only keys that changed.
	Changed []string `json:"changed,omitempty"`

	// How is what brought the running program to the present version: "runtime", "reload", or "" if there
	// is none, and Why the reason for a reload where there was another way.
	How string `json:"how,omitempty"`
	Why string `json:"why,omitempty"`

	// LiveAfter is the time from the arrival of the oldest change that this version holds to Applied or
	// Converged, whichever is first; 0 if it is not known. It counts in the metrics when State becomes that.
	LiveAfter time.Duration `json:"liveAfterNanoseconds,omitempty"`
}

// Reporter takes in what becomes of targets. Its methods return at once and are safe for concurrent use.
type Reporter interface {
	// Target says where a target stands now. The same again is not counted again, and one that has failed
	// counts as failed until a try has come to its end.
	Target(TargetStatus)
	// Gone says that a target is there no more.
	Gone(name string)
	// Step says that a step was done for a target, how long it took, and whether it failed.
	Step(name, step string, took time.Duration, err error)
}

// Discard is a Reporter that forgets.
type Discard struct{}

// Target implements Reporter.
func (Discard) Target(TargetStatus) {}

// Gone implements Reporter.
func (Discard) Gone(string) {}

// Step implements Reporter.
func (Discard) Step(string, string, time.Duration, error) {}
