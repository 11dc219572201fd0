package ctl

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/program"
)

// askPassword asks for the password of a user who was named without one.
func askPassword(ctx context.Context, env *program.Env, cfg *kvclient.Config) error {
	if cfg.Username == "" || cfg.PasswordFile != "" || strings.Contains(cfg.Username, ":") {
		return nil
	}
	terminal, ok := env.Stdin.(*os.File)
	if !ok || !program.IsTerminal(terminal) {
		return &usageError{text: fmt.Sprintf("password of user %s required", cfg.Username), hint: "use --password-file, or --username user:password"}
	}
	fmt.Fprintf(env.Stderr, "password of %s: ", cfg.Username)
	defer fmt.Fprintln(env.Stderr)
	password, err := readHidden(ctx, int(terminal.Fd()))
	cfg.Password = string(password)
	return err
}

// newPassword returns the password that a user is to have: from a file, or typed twice on a
// terminal, or the first line of stdin.
func newPassword(ctx context.Context, env *program.Env, file, user string) (string, error) {
	terminal, ok := env.Stdin.(*os.File)
	switch {
	case file != "":
		data, err := os.ReadFile(file)
		if err != nil {
			return "", &usageError{text: fmt.Sprintf("cannot read the new password: %v", err)}
		}
		return firstLine(data)
	case !ok || !program.IsTerminal(terminal):
		data, err := readAll(ctx, env.Stdin)
		if err != nil {
			return "", err
		}
		return firstLine(data)
	}
	var typed [2]string
	for i, prompt := range []string{"new password of %s: ", "again: "} {
		fmt.Fprint(env.Stderr, strings.ReplaceAll(prompt, "%s", user))
		password, err := readHidden(ctx, int(terminal.Fd()))
		fmt.Fprintln(env.Stderr)
		if err != nil {
			return "", err
		}
		typed[i] = string(password)
	}
	if typed[0] != typed[1] {
		return "", &usageError{text: "the two passwords differ; nothing is changed"}
	}
	return firstLine([]byte(typed[0]))
}

// firstLine returns the password in data.
func firstLine(data []byte) (string, error) {
	line, _, _ := strings.Cut(string(data), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", &usageError{text: "new password required", hint: "type it, or give it on stdin or with --new-password-file"}
	}
	return line, nil
}

// readHidden reads a line from a terminal that does not show it. When ctx ends the terminal is put
// back as it was; the read itself cannot be stopped and ends with the process.
func readHidden(ctx context.Context, terminal int) ([]byte, error) {
	before, err := term.GetState(terminal)
	if err != nil {
		return nil, err
	}
	type line struct {
		text []byte
		err  error
	}
	typed := make(chan line, 1)
	go func() {
		text, err := term.ReadPassword(terminal)
		typed <- line{text, err}
	}()
	select {
	case l := <-typed:
		return l.text, l.err
	case <-ctx.Done():
		_ = term.Restore(terminal, before) // as far as it goes: the command ends anyway
		return nil, ctx.Err()
	}
}
