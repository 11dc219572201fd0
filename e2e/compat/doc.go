// Package compat is a test only: it holds the same dialogues with a real etcd and with kvd and
// compares status, headers and bodies, step by step.
//
// A dialogue is text (see dialogues/*.txt):
//
//	== a name that is a sentence
//	PUT ~/foo value=bar ttl=100            a line to say: see package speaker
//	differs: why                           the step above is answered differently by kvd, on purpose:
//	kvd> 404 {"errorCode":100,...}         the status (none for a line) and body that kvd answers
//
// "~" is a directory of the dialogue's own, /HOME its key in an answer.
// A step that is marked as different and is not fails too, so that the list stays true; the reasons
// are told to users in docs/reference/compatibility.md. Random requests are compared in e2e/diff.
package compat
