package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// apiNewest is the newest version of the API whose answers are understood here. Nothing is used
// that it or any version since 1.24 lacks, so that the engine's own is spoken when that is older.
const apiNewest = "1.52"

// The longest answers that are read, in bytes.
const (
	pingMax    = 64 << 10
	listMax    = 256 << 20
	inspectMax = 16 << 20
	eventMax   = 1 << 20
)

// api speaks the four requests of the engine's API that are needed here: GET of _ping, of the
// containers, of one container and of the events. It is safe for concurrent use.
type api struct {
	client *http.Client
	server string // URL of the engine
	base   string // server with the version of the API that this session speaks
	terse  bool   // its list leaves out health and what changes with a restart, as Podman's does
}

// newAPI returns an api for an engine at unix:///PATH or tcp://HOST:PORT. It connects to nothing.
func newAPI(host string) (*api, error) {
	scheme, address, _ := strings.Cut(host, "://")
	network, server := "", ""
	switch scheme {
	case "unix":
		network, server = "unix", "http://engine"
	case "tcp":
		network, server = "tcp", "http://"+address
		if parsed, err := url.Parse(server); err != nil || parsed.Port() == "" || parsed.Hostname() == "" || parsed.Host != address {
			address = ""
		}
	}
	if network == "" || address == "" {
		return nil, fmt.Errorf("engine address %q: use unix:///PATH or tcp://HOST:PORT", host)
	}
	dialer := &net.Dialer{}
	return &api{server: server, base: server, client: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, network, address)
			},
			DisableCompression:  true,
			MaxIdleConnsPerHost: asksMax + 1,
			IdleConnTimeout:     90 * time.Second, // longer than between two comparisons
		},
	}}, nil
}

// connect asks the engine which version it speaks and returns an api that speaks it as well.
func (a *api) connect(ctx context.Context) (*api, error) {
	response, err := a.get(ctx, a.server+"/_ping")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, pingMax)); err != nil {
		return nil, err
	}
	session := *a
	session.base = a.server + "/v" + older(apiNewest, response.Header.Get("Api-Version"))
	session.terse = response.Header.Get("Libpod-Api-Version") != ""
	return &session, nil
}

// older returns the older of two versions, ours when the other is none.
func older(ours, theirs string) string {
	major, minor, ok := parseVersion(theirs)
	ourMajor, ourMinor, _ := parseVersion(ours)
	if ok && (major < ourMajor || major == ourMajor && minor < ourMinor) {
		return fmt.Sprintf("%d.%d", major, minor)
	}
	return ours
}

func parseVersion(text string) (major, minor int, ok bool) {
	before, after, _ := strings.Cut(text, ".")
	major, err1 := strconv.Atoi(before)
	minor, err2 := strconv.Atoi(after)
	return major, minor, err1 == nil && err2 == nil && major >= 0 && minor >= 0
}

// An answerError is an answer of the engine that says no, or that is none of an engine's.
type answerError struct {
	status  int    // of HTTP
	message string // the engine's own words; "" if these are not an engine's
}

func (e *answerError) Error() string {
	if e.message == "" {
		return fmt.Sprintf("it answers %d %s and not as an engine does", e.status, http.StatusText(e.status))
	}
	return fmt.Sprintf("%s (%d)", e.message, e.status)
}

// isGone reports whether err is an engine's word that there is no such container.
func isGone(err error) bool {
	var answer *answerError
	return errors.As(err, &answer) && answer.status == http.StatusNotFound && answer.message != ""
}

// isUnreachable reports whether err says that nothing listens there, or nothing any more.
func isUnreachable(err error) bool {
	var operation *net.OpError
	return errors.As(err, &operation) && operation.Op == "dial"
}

// get returns the engine's answer to a request it grants. The caller closes its body.
func (a *api) get(ctx context.Context, target string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "kvd")
	response, err := a.client.Do(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // its text would show our stand-in for the socket's address
		}
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	refusal := &answerError{status: response.StatusCode}
	body, _ := io.ReadAll(io.LimitReader(response.Body, pingMax))
	var said struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &said) == nil {
		refusal.message = said.Message
	}
	return nil, refusal
}

// decode reads an answer of at most limit bytes into value.
func (a *api) decode(ctx context.Context, path string, limit int64, value any) error {
	response, err := a.get(ctx, a.base+path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil {
		return err
	}
	if int64(len(body)) > limit {
		return fmt.Errorf("its answer is longer than %d MiB", limit>>20)
	}
	if err := json.Unmarshal(body, value); err != nil {
		return fmt.Errorf("its answer cannot be read: %w", err)
	}
	return nil
}

// list returns the containers that run.
func (a *api) list(ctx context.Context) ([]summary, error) {
	var list []summary
	err := a.decode(ctx, "/containers/json", listMax, &list)
	if err == nil && list == nil {
		err = errors.New("its list of containers is null")
	}
	return list, err
}

// inspect returns what the engine says about one container; isGone tells of one that is not there.
func (a *api) inspect(ctx context.Context, id string) (details, error) {
	var answer details
	err := a.decode(ctx, "/containers/"+url.PathEscape(id)+"/json", inspectMax, &answer)
	if err == nil && (answer.ID != id || answer.State == nil || answer.Config == nil) {
		err = fmt.Errorf("its answer does not describe container %.12s", id)
	}
	return answer, err
}

// events opens the stream of events from since on. Some engines begin their answer with the first
// event only, so that opening may take for ever.
func (a *api) events(ctx context.Context, since time.Time) (*stream, error) {
	query := url.Values{
		"since":   {fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond())},
		"filters": {`{"type":["container","network"]}`},
	}
	response, err := a.get(ctx, a.base+"/events?"+query.Encode())
	if err != nil {
		return nil, err
	}
	s := &stream{body: response.Body}
	s.decoder = json.NewDecoder(s)
	return s, nil
}

// stream is an open stream of events.
type stream struct {
	body    io.ReadCloser
	decoder *json.Decoder
	allowed int // bytes that may yet be read for the next event
}

// Read reads from the engine no more than one event may take.
func (s *stream) Read(p []byte) (int, error) {
	if s.allowed <= 0 {
		return 0, fmt.Errorf("an event is longer than %d bytes", eventMax)
	}
	n, err := s.body.Read(p[:min(len(p), s.allowed)])
	s.allowed -= n
	return n, err
}

// next blocks until there is an event. An event that cannot be understood is an errEvent, after
// which the stream goes on; any other error is its end.
func (s *stream) next() (event, error) {
	var e event
	s.allowed = eventMax
	err := s.decoder.Decode(&e)
	var mistyped *json.UnmarshalTypeError
	if errors.As(err, &mistyped) {
		err = fmt.Errorf("%w: %w", errEvent, err)
	}
	return e, err
}

// errEvent says that one event could not be understood.
var errEvent = errors.New("an event of unknown form")

func (s *stream) close() { s.body.Close() }

// event is what the engine says has happened.
type event struct {
	Type, Action string
	Actor        struct {
		ID         string
		Attributes map[string]string
	}
	Seconds     int64 `json:"time"`
	Nanoseconds int64 `json:"timeNano"` // since 1970, or 0
}

// at is when it happened, by the engine's clock. Without a finer time it is the end of its second:
// a process that started within it is then taken to be stopping, which the stop timeout puts right.
func (e event) at() time.Time {
	if e.Nanoseconds != 0 {
		return time.Unix(0, e.Nanoseconds)
	}
	return time.Unix(e.Seconds+1, 0)
}

// container is the ID of the container it is about, "" if it is about none.
func (e event) container() string {
	switch e.Type {
	case typeContainer:
		return e.Actor.ID
	case typeNetwork:
		return e.Actor.Attributes["container"]
	}
	return ""
}

// The types and actions of events that are told apart here.
const (
	typeContainer = "container"
	typeNetwork   = "network"

	actionKill = "kill"
	actionDie  = "die"
)

// summary is a container in the engine's list.
type summary struct {
	ID              string `json:"Id"`
	Names           []string
	State           string
	Status          string // for people: "Up 3 minutes (healthy)"
	Ports           []json.RawMessage
	NetworkSettings struct {
		Networks map[string]struct{ EndpointID, IPAddress, GlobalIPv6Address string }
	}
}

// details are the engine's answer about one container. Any part may be missing: engines speak the
// same API loosely.
type details struct {
	ID    string `json:"Id"`
	Name  string
	State *struct {
		Status                            string
		Running, Paused, Restarting, Dead bool
		Pid                               int
		ExitCode                          int
		StartedAt                         string
		Health                            *struct{ Status string }
	}
	Config *struct {
		Image        string
		Labels       map[string]string
		Env          []string
		ExposedPorts map[string]struct{}
		StopSignal   string
		StopTimeout  *int // seconds
	}
	HostConfig      struct{ NetworkMode string }
	NetworkSettings struct {
		Ports    map[string][]binding
		Networks map[string]*struct{ IPAddress, GlobalIPv6Address string }
	}
}

// binding is one address that a port is published on.
type binding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}
