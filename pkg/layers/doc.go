// Package layers holds no code, only tests: they read the sources of this module and fail when a
// package imports what it should not know, or does what its room has promised not to do.
//
// The tables in rules_test.go are the plan of the house. A new package gets its line there first,
// with the reason for the wall around it. docs/explanation/architecture.md draws the same plan.
package layers
