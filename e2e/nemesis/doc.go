// Package nemesis is a test only: it breaks clusters of real processes in every way that package
// cluster knows, while clients write, read and watch through all members, and has package history
// judge what they were told.
//
// One run comes from one seed, which says which faults there are, in which order and for how long; the
// moments are the machine's. A run is cut into chapters of a few faults. At the end of each everything
// is healed, all clients stop, and
//
//   - every acknowledged write is there, with its value and its index; indices rise with time;
//   - the registers are linearizable: puts, swaps and quorum reads, on any member;
//   - the watch of every member was told of every change, once and in order, and of the same as the others;
//   - no key went before its time, and all of them went;
//   - all members hold the same, and of kvd the sums of their states are equal.
//
// What is read:
//
//	KVD_CLUSTER_PROGRAM   kvd, or etcd to try the judges on something that is known
//	KVD_CLUSTER_FAULTS    how many faults there are; make soak SOAK=cluster has 200
//	KVD_CLUSTER_SEED      repeats the choices of a run that printed it
//	KVD_CLUSTER_MEMBERS   3, or 5
//	KVD_CLUSTER_CLASS     only faults with this in their name, such as "leader"
//	KVD_CLUSTER_ARGS      more flags for every member
//	KVD_STALE_ROUNDS      how often a leader is paused past its lease
package nemesis
