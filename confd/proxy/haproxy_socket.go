package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	answerBytesMax  = 64 << 20 // of one dialogue: the state of some 500,000 servers
	commandBytesMax = 8 << 10  // of one line of commands; HAProxy's buffer has 16 KiB, less some room
)

// haSocket is a control socket. Every dialogue is a connection of its own: after it nothing is left
// over that a later one could mistake for its answer.
type haSocket struct {
	path    string
	timeout time.Duration
}

// ask sends commands, separated by semicolons, and returns all that is answered until HAProxy closes.
func (s haSocket) ask(ctx context.Context, commands ...string) (string, error) {
	line := strings.Join(commands, ";")
	answer, err := s.dialogue(ctx, line, nil)
	if err != nil {
		return "", fmt.Errorf("HAProxy's socket %s: %w", s.path, err)
	}
	return answer, nil
}

// askMaster sends one command to a master, which does not close after its answer, and reads up to
// the end of it.
func (s haSocket) askMaster(ctx context.Context, command string, end []byte) (string, error) {
	answer, err := s.dialogue(ctx, command, end)
	if err != nil {
		return "", fmt.Errorf("HAProxy's master socket %s: %w", s.path, err)
	}
	return answer, nil
}

// dialogue sends line and reads until end, or if that is nil until the other side closes.
func (s haSocket) dialogue(ctx context.Context, line string, end []byte) (string, error) {
	if len(line) > 2*commandBytesMax-1024 || strings.ContainsAny(line, "\r\n\x00") {
		return "", errors.New("a command is too long or holds a line break")
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.path)
	if err != nil {
		return "", s.reason(ctx, dialReason(err))
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return "", s.reason(ctx, err)
	}
	var answer []byte
	buffer := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buffer)
		answer = append(answer, buffer[:n]...)
		switch {
		case err == io.EOF && len(answer) == 0:
			return "", fmt.Errorf("it closed without an answer: %w", errCut)
		case err == io.EOF || end != nil && bytes.Contains(answer, end):
			return string(answer), nil
		case err != nil:
			return "", s.reason(ctx, err)
		case len(answer) > answerBytesMax:
			return "", errors.New("the answer is too long")
		}
	}
}

// errCut is why an answer that ends too early cannot be used.
var errCut = errors.New("it was cut off")

// dialReason drops what the message around it says already.
func dialReason(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return fmt.Errorf("cannot connect: %w", op.Err)
	}
	return err
}

func (s haSocket) reason(ctx context.Context, err error) error {
	if isOver(ctx) {
		return fmt.Errorf("no complete answer within %s", s.timeout)
	}
	return err
}

// numbered makes HAProxy begin every message with its severity.
const numbered = "set severity-output number"

var (
	// message is the begin of a message. Not every message is followed by an empty line, but each has
	// a line of its own.
	message = regexp.MustCompile(`^\[([0-7])\]: (.*)$`)
	// accepted are the messages of success. Whatever else is said is a refusal: HAProxy tells of some
	// at the severity of a notice.
	accepted = regexp.MustCompile(`^(New server registered\.|Server deleted\.|(IP changed|port changed|no need to change) .*)$`)
)

// refusals returns the messages in an answer that are none of success.
func refusals(answer string) (refused []string) {
	for line := range strings.Lines(answer) {
		line = strings.TrimRight(line, "\r\n")
		if found := message.FindStringSubmatch(line); found != nil {
			if !accepted.MatchString(found[2]) {
				refused = append(refused, found[2])
			}
		} else if line != "" {
			refused = append(refused, line)
		}
	}
	return refused
}

// haInfo is the generation that answers.
type haInfo struct {
	pid, started string // as HAProxy writes them
	version      haVersion
	processes    int
	stopping     bool
}

func (i haInfo) generation() haGeneration { return haGeneration{i.pid, i.started} }

type haVersion struct{ major, minor int }

func (v haVersion) atLeast(major, minor int) bool {
	return v.major > major || v.major == major && v.minor >= minor
}

// parseInfo reads the answer to "show info".
func parseInfo(answer string) (info haInfo, err error) {
	for line := range strings.Lines(answer) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "Pid":
			info.pid = value
		case "Start_time_sec":
			info.started = value
		case "Nbproc":
			info.processes, _ = strconv.Atoi(value)
		case "Stopping":
			info.stopping = value == "1"
		case "Version":
			if _, err := fmt.Sscanf(value, "%d.%d", &info.version.major, &info.version.minor); err != nil {
				return info, fmt.Errorf("the answer to show info has a version that is not understood: %.40q", value)
			}
		}
	}
	if info.pid == "" || info.version == (haVersion{}) {
		return info, fmt.Errorf("the answer to show info is not understood: %.80q", answer)
	}
	return info, nil
}

// haState is one server as it runs.
type haState struct {
	addr          netip.AddrPort // invalid if it has none
	admin         int
	weight        int // now
	initialWeight int
	checkState    int
}

// Bits of haState.admin and haState.checkState.
const (
	adminForcedMaint  = 0x01
	adminMaint        = 0x01 | 0x02 | 0x20
	adminConfigMaint  = 0x04 // the configuration said so when it was read
	adminForcedDrain  = 0x08
	checkIsConfigured = 0x02
	checkIsEnabled    = 0x04
)

// haStates are the servers of each backend, by name. A backend without servers is not in it.
type haStates map[string]map[string]haState

const statesHeader = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state "

// parseStates reads the answer to one or more "show servers state".
func parseStates(answer string) (haStates, error) {
	states := haStates{}
	sound, header, ended := false, false, false
	for line := range strings.Lines(answer) {
		complete := strings.HasSuffix(line, "\n")
		line = strings.TrimRight(line, "\r\n")
		switch {
		case line == "":
			ended = complete
			continue
		case line == "1":
			sound = true
		case strings.HasPrefix(line, "#"):
			header = strings.HasPrefix(line, statesHeader)
		case sound && header && complete:
			if err := states.add(line); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("the answer to show servers state is not understood: %.80q", line)
		}
		ended = false
	}
	if !sound || !header || !ended {
		return nil, fmt.Errorf("the answer to show servers state is incomplete or not understood: %w", errCut)
	}
	return states, nil
}

func (states haStates) add(line string) error {
	var fields [19]string
	rest, count := line, 0
	for more := true; more && count < len(fields); count++ {
		fields[count], rest, more = strings.Cut(rest, " ")
	}
	var state haState
	numbers := [...]*int{6: &state.admin, 7: &state.weight, 8: &state.initialWeight, 13: &state.checkState}
	bad := count < len(fields)
	for at, number := range numbers {
		if number == nil {
			continue
		}
		value, err := strconv.Atoi(fields[at])
		*number, bad = value, bad || err != nil
	}
	if bad {
		return fmt.Errorf("a line of show servers state is not understood: %.80q", line)
	}
	if addr, err := netip.ParseAddr(fields[4]); err == nil {
		port, _ := strconv.ParseUint(fields[18], 10, 16)
		state.addr = netip.AddrPortFrom(addr, uint16(port))
	}
	backend := states[fields[1]]
	if backend == nil {
		backend = map[string]haState{}
		states[fields[1]] = backend
	}
	backend[fields[3]] = state
	return nil
}
