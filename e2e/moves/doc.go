// Package moves is a test only: one service, with one instance name, moves between two hosts hundreds of
// times, and nobody may ever touch what the other one has registered, in whatever layout.
//
// Each host is a real kvagent with a machine identity, an engine and a link to the store of its own. The
// container starts there before it stops here, after, or at once. Meanwhile agents are killed and started
// again, engines go away, and links hold back what is sent over them, so that a request arrives when its
// sender has long given up, or is dead; or they hold back the answers.
//
// A watcher is told of every event, and the links of every write with the index that the store gave it.
// From both, a judge knows who has done what:
//
//   - what changes or removes a record comes from the host that had written it, or is its expiry;
//   - a renewal succeeds for the host alone whose record is there;
//   - nobody but the two hosts has written, and nothing but the one record, in each layout;
//   - after a move, and when all is healed, the host where the container runs has the record within a TTL.
//
// What is read:
//
//	KVD_MOVES        how often it moves; make soak SOAK=registration has 500
//	KVD_MOVES_SEED   repeats the choices of a run that printed it
package moves
