package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// crowd is many connections that watch, all driven by one goroutine over one epoll: what the
// clients cost would otherwise hide what the server costs. Its methods are for that goroutine.
type crowd struct {
	address syscall.SockaddrInet4
	epoll   int
	members map[int32]*member // by descriptor
	buffer  []byte
}

// member is one connection.
type member struct {
	fd     int
	stream bool
	key    string
	got    []byte // of the answer that is being read
}

// registerTogether is how many watches are begun before the first of them is waited for.
const registerTogether = 500

// awaitMax bounds every wait for a crowd.
const awaitMax = time.Minute

func newCrowd(url string) (*crowd, error) {
	host, port, err := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil || host != "127.0.0.1" {
		return nil, fmt.Errorf("a crowd watches on 127.0.0.1, not %s", url)
	}
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &crowd{address: syscall.SockaddrInet4{Port: number, Addr: [4]byte{127, 0, 0, 1}}, epoll: epoll, members: map[int32]*member{}, buffer: make([]byte, 64<<10)}, nil
}

// close resets all connections.
func (c *crowd) close() {
	for _, m := range c.members {
		syscall.SetsockoptLinger(m.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
		syscall.Close(m.fd)
	}
	syscall.Close(c.epoll)
}

// join adds count connections that watch keyOf(i) and returns when all are registered.
func (c *crowd) join(ctx context.Context, count int, stream bool, keyOf func(i int) string) error {
	for begun := 0; begun < count; {
		together := min(registerTogether, count-begun)
		var joined []*member
		for i := range together {
			m := &member{stream: stream, key: keyOf(begun + i)}
			if err := c.connect(m); err != nil {
				return fmt.Errorf("connection %d: %w", begun+i, err)
			}
			joined = append(joined, m)
		}
		if err := c.register(ctx, joined); err != nil {
			return err
		}
		begun += together
	}
	return nil
}

func (c *crowd) connect(m *member) (err error) {
	if m.fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	c.members[int32(m.fd)] = m
	if err := syscall.Connect(m.fd, &c.address); err != nil {
		return err
	}
	if err := syscall.SetNonblock(m.fd, true); err != nil {
		return err
	}
	return syscall.EpollCtl(c.epoll, syscall.EPOLL_CTL_ADD, m.fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(m.fd)})
}

// register has members begin a watch and returns when the server has answered that it watches.
func (c *crowd) register(ctx context.Context, members []*member) error {
	for _, m := range members {
		request := fmt.Sprintf("GET /v2/keys%s?wait=true&recursive=true&stream=%v HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", m.key, m.stream)
		if n, err := syscall.Write(m.fd, []byte(request)); err != nil || n < len(request) {
			return fmt.Errorf("ask for a watch: %d bytes, %w", n, err)
		}
	}
	_, err := c.await(ctx, len(members), func(m *member) (bool, error) {
		end := bytes.Index(m.got, []byte("\r\n\r\n"))
		if end < 0 {
			return false, nil
		}
		if !bytes.HasPrefix(m.got, []byte("HTTP/1.1 200 ")) {
			return false, fmt.Errorf("refused: %.300q", m.got)
		}
		m.got = append(m.got[:0], m.got[end+4:]...)
		return true, nil
	})
	return err
}

// event returns when count members have each received an event, all of it, and those members.
func (c *crowd) event(ctx context.Context, count int) (time.Time, []*member, error) {
	var woken []*member
	at, err := c.await(ctx, count, func(m *member) (bool, error) {
		end := "}\n\r\n" // of the event, and of the chunk that it came in
		if !m.stream {
			end += "0\r\n\r\n"
		}
		if !bytes.HasSuffix(m.got, []byte(end)) {
			return false, nil
		}
		m.got = m.got[:0]
		woken = append(woken, m)
		return true, nil
	})
	return at, woken, err
}

// await reads until done has been true for count members, and returns when the last of them was.
func (c *crowd) await(ctx context.Context, count int, done func(*member) (bool, error)) (time.Time, error) {
	events := make([]syscall.EpollEvent, 1024)
	for deadline := time.Now().Add(awaitMax); count > 0; {
		if err := ctx.Err(); err != nil {
			return time.Time{}, err
		}
		n, err := syscall.EpollWait(c.epoll, events, 100)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return time.Time{}, err
		}
		if time.Now().After(deadline) {
			return time.Time{}, fmt.Errorf("%d watchers have heard nothing in %v", count, awaitMax)
		}
		for _, event := range events[:max(n, 0)] {
			m := c.members[event.Fd]
			size, err := syscall.Read(m.fd, c.buffer)
			if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil || size == 0 {
				return time.Time{}, fmt.Errorf("the watch of %s ended: %d bytes, %w", m.key, size, err)
			}
			m.got = append(m.got, c.buffer[:size]...)
			ready, err := done(m)
			if err != nil {
				return time.Time{}, err
			}
			if ready {
				count--
			}
		}
	}
	return time.Now(), nil
}
