//go:build !linux

package kvclient

import "syscall"

// limitUnacked leaves the system's own limit where it cannot be set.
func limitUnacked(_, _ string, _ syscall.RawConn) error { return nil }
