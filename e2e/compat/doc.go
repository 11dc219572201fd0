// Package compat is a test only: it holds the same dialogues with a real etcd and with kvd and
// compares status, headers and bodies, step by step.
//
// A dialogue is text (see dialogues/*.txt):
//
//	== a name that is a sentence
//	PUT ~/foo value=bar ttl=100            a request; words with "=" are its form, with ":" a header
//	GET ~/foo?wait=true&waitIndex={+1}     {+1} is the first index after the dialogue began
//	DELETE ~/{0+1}                         {0+1} is the name of an in-order key with that index
//	1100 times PUT ~/foo value=bar         the last answer counts
//	w: GET ~/foo?wait=true&stream=true     a request whose answer is read piece by piece
//	w line                                 the next line of w
//	w end                                  the end of w's body
//	w close                                the client goes away
//	differs: why                           the step above is answered differently by kvd, on purpose:
//	kvd> 404 {"errorCode":100,...}         the status (none for a line) and body that kvd answers
//
// "~" is a directory of the dialogue's own, /HOME its key in an answer. What cannot be equal is normalised: see normal.go.
// A step that is marked as different and is not fails too, so that the list stays true; the reasons
// are told to users in docs/reference/compatibility.md.
package compat
