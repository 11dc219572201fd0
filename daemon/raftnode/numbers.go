package raftnode

import (
	"encoding/binary"
	"fmt"

	"github.com/kvd-io/kvd/daemon/peer"
)

// Method tells the questions apart that members ask each other.
type Method = peer.Method

// What members ask each other.
const (
	methodPropose   peer.Method = 1 // commands; the answer: verdict, index, term
	methodReadIndex peer.Method = 2 // the term; the answer: 1 if it leads, index, term
	methodConfirm   peer.Method = 3 // nothing; the answer: the term
	MethodRenew     peer.Method = 4 // of the service: keep a lease alive
	MethodLease     peer.Method = 5 // of the service: what a lease has left
	MethodMembers   peer.Method = 6 // of the service: change the members, or who leads
	MethodStatus    peer.Method = 7 // of the service: how a member is
	methodFigures   peer.Method = 9 // nothing; the answer: see figures
)

// appendNumbers appends numbers in the form that parseNumbers reads.
func appendNumbers(dst []byte, numbers ...uint64) []byte {
	for _, n := range numbers {
		dst = binary.AppendUvarint(dst, n)
	}
	return dst
}

// parseNumbers reads exactly count numbers.
func parseNumbers(data []byte, count int) ([]uint64, error) {
	numbers := make([]uint64, count)
	for i := range numbers {
		v, n := binary.Uvarint(data)
		if n <= 0 {
			return nil, fmt.Errorf("a message of %d numbers lacks number %d", count, i+1)
		}
		numbers[i], data = v, data[n:]
	}
	if len(data) > 0 {
		return nil, fmt.Errorf("a message of %d numbers has %d bytes too many", count, len(data))
	}
	return numbers, nil
}
