// Package diff is a test only: it sends the same random operations to a real etcd and to kvd and
// compares every status, header, body and event.
//
// One sequence comes from one seed and is held with a fresh pair of servers. At first kvd's index is
// brought to that of etcd, so that all numbers must be equal from then on. What two servers that
// behave alike may differ in is normalised (package speaker); what kvd does differently on purpose
// is in the table of explained differences (explained_test.go), and everything else is a failure:
// the sequence is shrunk to the lines that matter, which are printed in the language of package
// speaker, and so is the command that replays it.
//
//	go test ./e2e/diff -run TestSequences -seed 41 -seeds 1 -ops 1000
//	make soak                   200,000 operations over 200 seeds
package diff
