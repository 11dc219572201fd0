package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// backendCommand is the service of the demo: it says who it is.
func backendCommand() *cobra.Command {
	var name, listen string
	var linger time.Duration
	cmd := &cobra.Command{
		Use:    "backend",
		Short:  "serve HTTP as one backend of the demo",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := dieWithParent(); err != nil {
				return err
			}
			answer := func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set(headerBackend, name)
				fmt.Fprintln(w, name)
			}
			return serve(lingering(cmd.Context(), linger), listen, http.HandlerFunc(answer))
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "what to answer")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "`address` to serve on")
	cmd.Flags().DurationVar(&linger, "linger", 0, "go on serving for so long after the signal to stop")
	return cmd
}

// lingering returns a context that ends a while after ctx, with its process at the latest: who
// sends requests here must first hear that this backend is going.
func lingering(ctx context.Context, while time.Duration) context.Context {
	if while <= 0 {
		return ctx
	}
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(while, cancel) })
	return later
}

// serve answers on address until ctx ends, then lets the requests under way finish.
func serve(ctx context.Context, address string, handler http.Handler) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	drained := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, release := context.WithTimeout(context.Background(), 2*time.Second)
		defer release()
		drained <- server.Shutdown(grace)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-drained
}

// dieWithParent makes the kernel kill this process when its parent ends. A backend is the
// grandchild of the demo: nobody else would find it after the sidekick between them was killed.
// As the first process of a container it has no parent to lose.
func dieWithParent() error {
	if os.Getpid() == 1 {
		return nil
	}
	parent := os.Getppid()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("tie the backend to its parent: %w", err)
	}
	if os.Getppid() != parent {
		return errors.New("the parent of this backend ended before the backend began")
	}
	return nil
}
