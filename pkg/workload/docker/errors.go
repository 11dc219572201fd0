package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// ErrPermission says that this user may not open the engine's socket.
var ErrPermission = errors.New("permission denied")

// explain says in a user's words why the engine at host could not be asked.
func explain(err error, host string) error {
	socket, isSocket := strings.CutPrefix(host, "unix://")
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot open the Docker engine's socket %s: %w; run as root or as a member of the socket's group (usermod -aG docker USER)", socket, ErrPermission)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the Docker engine at %s closed the connection: %w", host, err)
	case isUnreachable(err) && isSocket:
		return fmt.Errorf("no Docker engine answers at %s: is dockerd running (systemctl start docker), and is this its socket? --docker-host names another one", host)
	case isUnreachable(err):
		return fmt.Errorf("no Docker engine answers at %s; --docker-host names another one: %w", host, err)
	case strings.Contains(err.Error(), "malformed HTTP"): // what net/http quotes may be long, and other bytes each time
		return fmt.Errorf("what answers at %s is no Docker engine: it does not speak HTTP; --docker-host names another one", host)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the Docker engine at %s does not answer: it takes connections, and has said nothing in time", host)
	}
	return fmt.Errorf("the Docker engine at %s: %w", host, err)
}
