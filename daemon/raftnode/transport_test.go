package raftnode

import (
	"io"
	"net"
	"testing"
	"time"
)

func TestASoleMemberHangsUpOnWhoeverCalls(t *testing.T) {
	listener := peers(t)
	layer := newSoloLayer(listener)
	defer layer.Close()
	for range 3 {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("read %d bytes, %v: want the end of the connection", n, err)
		}
		conn.Close()
	}
}
