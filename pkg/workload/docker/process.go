package docker

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"time"
)

// lookEvery is how often the processes of containers are looked at while their engine is away.
const lookEvery = 250 * time.Millisecond

// processDir is where the kernel shows processes.
const processDir = "/proc"

// isHere reports whether this machine's kernel knows the first process of a container: a process of
// that number whose control group is named after the container. It does not when the engine is
// another machine's, or when this program sees other processes than the engine does.
func (c running) isHere() bool {
	if c.PID <= 0 {
		return false
	}
	groups, err := os.ReadFile(processDir + "/" + strconv.Itoa(c.PID) + "/cgroup")
	return err == nil && bytes.Contains(groups, []byte(c.ID))
}

// bury forgets the containers whose process was here and is no more. The engine, which is away, will
// say the same.
func (f *follower) bury() {
	for id, c := range f.known {
		if c.here && !c.isHere() {
			f.learn(answer{id: id})
		}
	}
}

// mourn does what has to be done while the engine is away, until ctx ends: it looks at the
// processes of the containers and sends when one has ended.
func (f *follower) mourn(ctx context.Context) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		out := f.pending()
		if !f.hasSent { // what is known is not all yet
			out = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			f.bury()
			f.release(time.Now())
		case out <- f.next:
			f.delivered()
		}
	}
}
