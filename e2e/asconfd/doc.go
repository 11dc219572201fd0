// Package asconfd runs the same configuration directories through confd 0.16 and through kvconfd,
// called by the name confd, and compares what can be seen from outside: the exit code, the files,
// their modes, and which commands ran.
//
// What confd does is recorded in the cases of testdata, so that the comparison needs no confd.
// CONFD=PATH runs a real one as well and holds the record to it; with RECORD=1 it writes the record.
package asconfd
