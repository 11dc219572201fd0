package health

import "context"

// Slots bound how many checks run at one time. They are shared by all monitors of a process, so that
// a thousand services that start together are checked one after the other rather than all at once.
// Checks that start a command have slots of their own: a process costs more than a connection.
// A nil *Slots bounds nothing. It is safe for concurrent use.
type Slots struct {
	connections chan struct{}
	commands    chan struct{}
}

// The numbers of slots of NewSlots.
const (
	connectionsMax = 128
	commandsMax    = 16
)

// NewSlots returns 128 slots for checks that connect and 16 for those that start a command.
func NewSlots() *Slots {
	return &Slots{connections: make(chan struct{}, connectionsMax), commands: make(chan struct{}, commandsMax)}
}

// take waits until the check may run; ok is false if ctx ended before. release is called after it.
func (s *Slots) take(ctx context.Context, check Check) (release func(), ok bool) {
	if s == nil {
		return func() {}, true
	}
	slots := s.connections
	if _, isCommand := check.(Exec); isCommand {
		slots = s.commands
	}
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, true
	case <-ctx.Done():
		return nil, false
	}
}
