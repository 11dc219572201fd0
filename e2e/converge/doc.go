// Package converge tries kvconfd as a whole: the built program, real stores, and a real HAProxy or
// nginx that serves what it writes.
//
// It knows programs from outside. What its tests compare are the two truths that a user sees: what
// the store holds, and what the proxy serves. Between the two, everything that can break is broken:
// the way to the store, the store, its history, kvconfd itself at each of its steps, the checks, the
// reloads, the disk, the templates and the values.
package converge
