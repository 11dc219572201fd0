package kvclient

import (
	"fmt"
	"os"
	"strings"
	"sync"
)

// user is as whom a client speaks; without a name as nobody.
type user struct {
	name string
	file string // "" if the password is not from a file
	cert string // the certificate that is shown, which may stand for a user; "" for none

	mu       sync.Mutex // guards password
	password string
}

func newUser(cfg Config) (*user, error) {
	u := &user{name: cfg.Username, password: cfg.Password, file: cfg.PasswordFile, cert: cfg.CertFile}
	if name, password, ok := strings.Cut(u.name, ":"); ok {
		if u.password != "" || u.file != "" {
			return nil, fmt.Errorf("user %q is followed by a password, and there is another one: give only one of them; a user name cannot hold a colon", name)
		}
		u.name, u.password = name, password
	}
	if u.file == "" {
		return u, nil
	}
	return u, u.read()
}

func (u *user) read() error {
	data, err := os.ReadFile(u.file)
	if err != nil {
		return fmt.Errorf("cannot read the password file: %w", err)
	}
	first, _, _ := strings.Cut(string(data), "\n")
	u.mu.Lock()
	defer u.mu.Unlock()
	u.password = strings.TrimSuffix(first, "\r")
	return nil
}

func (u *user) secret() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.password
}

// renewed reports whether the password is another one than refused by now.
func (u *user) renewed(refused string) bool {
	return u.file != "" && u.read() == nil && u.secret() != refused
}

// advice says what to look at when the store refuses.
func (u *user) advice() string {
	switch {
	case u.name == "" && u.cert != "":
		return "the certificate " + u.cert + " is taken for no user, or its user may not do this; kvd takes its common name for one with --client-cert-cn-as-user"
	case u.name == "":
		return "no user is named: try --username"
	}
	return fmt.Sprintf("user %s is not known, has another password, or may not do this", u.name)
}
