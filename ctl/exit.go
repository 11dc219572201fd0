package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/printable"
	"github.com/kvd-io/kvd/pkg/program"
)

// The exit codes: those that etcdctl v2 documents, and one for an interruption.
const (
	exitUsage       = program.ExitUsage
	exitUnreachable = 2
	exitDenied      = 3
	exitRefused     = 4
	exitServer      = 5
	exitDiffer      = 1 // of snapshot diff, as of diff; of doctor
	exitNobody      = 6
	exitBehind      = 7
	exitFile        = 9
	exitInterrupted = program.ExitSignal + 2
)

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "what the exit code of kvctl says",
		Long: `What the exit code of kvctl says:

  0    done; or a watch that a signal has ended
  1    bad arguments or configuration, get of a directory, a command of
       exec-watch that cannot be started, output that cannot be written;
       snapshot diff: they differ; doctor: there are warnings
  2    no endpoint could be reached
  3    TLS, user or permission
  4    the store refused: not found, exists, compare failed, not a directory,
       history cleared, ...; service: it is the last instance that is up
  5    trouble in the store: no leader, timeout, outcome unknown; endpoint:
       one is not well; doctor: something does not work; service --wait: it
       was not done in time
  6    converged, --wait-live: there is no kvconfd to wait for
  7    converged: a host does not run what the store says; --wait-live: not
       within the time; kvctl demo: something did not happen as it should
  9    a snapshot, or its file, cannot be read or written, or is damaged
  130  interrupted`,
	}
}

// exitCode returns the code of a kind of error.
func exitCode(kind kv.Kind) int {
	switch kind {
	case kv.Unavailable:
		return exitUnreachable
	case kv.Denied:
		return exitDenied
	case kv.NotFound, kv.CompareFailed, kv.NotFile, kv.NotDir, kv.Exists, kv.RootReadOnly,
		kv.DirNotEmpty, kv.Invalid, kv.HistoryGone, kv.TooLarge, kv.NoLease:
		return exitRefused
	}
	return exitServer
}

// trouble is an error as it is told. Its JSON form is part of the interface.
type trouble struct {
	Exit    int         `json:"exit"`
	Code    etcdv2.Code `json:"code,omitempty"` // of the v2 API; absent when no server has answered
	Message string      `json:"message"`
	Cause   string      `json:"cause,omitempty"`
	Index   kv.Index    `json:"index,omitempty"`
	Hint    string      `json:"hint,omitempty"`

	text string // the line for people
}

// isDirectory is what get says of a directory, in etcdctl's words.
type isDirectory struct{ key string }

func (e *isDirectory) Error() string { return e.key + ": is a directory" }

// diagnose says what err means to the user.
func diagnose(err error) trouble {
	var usage *usageError
	var quorum *quorumError
	var refused *refusedError
	var overdue *overdueError
	var nobody *nobodyError
	var behind *behindError
	var denied *deniedError
	var told *toldError
	var directory *isDirectory
	var file *fileError
	var wire *etcdv2.Error
	var e *kv.Error
	switch {
	case errors.As(err, &directory):
		return trouble{Exit: exitUsage, Message: err.Error(), Hint: "kvctl ls shows what is in it", text: err.Error()}
	case errors.Is(err, errDiffer): // all is said
		return trouble{Exit: exitDiffer}
	case errors.As(err, &told):
		return trouble{Exit: told.code}
	case errors.As(err, &file):
		return trouble{Exit: exitFile, Message: file.text, Hint: file.hint, text: prefix + file.text}
	case errors.As(err, &quorum):
		return trouble{Exit: exitRefused, Message: err.Error(), Hint: quorum.hint(), text: prefix + err.Error()}
	case errors.As(err, &refused):
		return trouble{Exit: exitRefused, Message: refused.text, Hint: refused.hint, text: prefix + refused.text}
	case errors.As(err, &overdue):
		return trouble{Exit: exitServer, Message: overdue.text, Hint: overdue.hint, text: prefix + overdue.text}
	case errors.As(err, &nobody):
		return trouble{Exit: exitNobody, Message: nobody.text, Hint: nobody.hint, text: prefix + nobody.text}
	case errors.As(err, &behind):
		return trouble{Exit: exitBehind, Message: behind.text, Hint: behind.hint, text: prefix + behind.text}
	case errors.As(err, &denied):
		return trouble{Exit: exitDenied, Message: err.Error(), Hint: denied.hint, text: prefix + err.Error()}
	case errors.As(err, &usage):
		return trouble{Exit: exitUsage, Message: usage.text, Hint: usage.hint, text: prefix + usage.text}
	case errors.Is(err, context.Canceled):
		return trouble{Exit: exitInterrupted, Message: "interrupted", text: prefix + "interrupted"}
	case errors.As(err, &e) && errors.As(err, &wire):
		return trouble{Exit: exitCode(e.Kind), Code: wire.Code, Message: wire.Message, Cause: wire.Cause, Index: wire.Index, Hint: hint(e), text: prefix + wire.Error()}
	case errors.As(err, &e) && e.Cause != "" && (e.Kind == kv.NotFound || e.Kind == kv.Exists || e.Kind == kv.Invalid): // the store's own words
		return trouble{Exit: exitRefused, Message: e.Cause, text: prefix + e.Cause}
	case errors.As(err, &e) && e.Kind == kv.Unavailable && e.Err != nil:
		return trouble{Exit: exitUnreachable, Message: e.Err.Error(), text: prefix + e.Err.Error()}
	case errors.As(err, &e) && e.Kind == kv.Denied: // the message says all
		return trouble{Exit: exitDenied, Message: e.Error(), text: prefix + e.Error()}
	case errors.As(err, &e):
		return trouble{Exit: exitCode(e.Kind), Message: e.Error(), Index: e.Index, Hint: hint(e), text: prefix + e.Error()}
	}
	return trouble{Exit: exitUsage, Message: err.Error(), text: prefix + err.Error()}
}

// prefix begins an error as etcdctl does, with two spaces.
const prefix = "Error:  "

// hint says what to try next, "" if the error says enough.
func hint(e *kv.Error) string {
	switch e.Kind {
	case kv.NotFound:
		if e.Op == kv.OpUpdate.String() {
			return "kvctl set creates a key, kvctl mkdir a directory"
		}
	case kv.NotFile:
		if e.Op == kv.OpDelete.String() {
			return fmt.Sprintf("kvctl rmdir %s removes an empty directory, kvctl rm -r %[1]s one with all below it", e.Cause)
		}
		return fmt.Sprintf("%s is a directory: kvctl ls %[1]s shows what is in it", e.Cause)
	case kv.NotDir:
		return fmt.Sprintf("%s holds a value, so that nothing can be below it", e.Cause)
	case kv.NoLease:
		return "it has ended, or was never granted: kvctl lease grant makes a new one"
	case kv.DirNotEmpty:
		return fmt.Sprintf("kvctl rm -r %s removes it with all below it", e.Cause)
	case kv.Denied:
		return e.Cause // whom the store has refused
	case kv.HistoryGone:
		return fmt.Sprintf("read the current state with kvctl get or ls, then watch with --after-index %d", e.Index)
	case kv.NoLeader, kv.Timeout, kv.Unknown:
		return "look at the store's own log; with several members, most of them must be up"
	}
	return ""
}

// print writes t for a person, or as one line of JSON.
func (t trouble) print(w io.Writer, f format) {
	if f == asJSON {
		_ = json.NewEncoder(w).Encode(t) // nobody is left to tell
		return
	}
	fmt.Fprintln(w, printable.Text(t.text))
	if t.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", printable.Text(t.Hint))
	}
}
