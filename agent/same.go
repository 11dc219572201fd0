package agent

import (
	"maps"
	"reflect"
	"slices"

	"github.com/kvd-io/kvd/pkg/workload"
)

// same reports whether two workloads differ in nothing. A source that has nothing new to tell of a
// workload sends the same maps again, which is found out without looking into them.
func same(a, b *workload.Workload) bool {
	return a.ID == b.ID && a.Run == b.Run && a.Name == b.Name && a.Image == b.Image && a.State == b.State &&
		a.Reason == b.Reason && a.Health == b.Health && a.PID == b.PID && a.Trusted == b.Trusted &&
		a.HostNetwork == b.HostNetwork && a.NetworkOf == b.NetworkOf && slices.Equal(a.Ports, b.Ports) && slices.Equal(a.Problems, b.Problems) && slices.Equal(a.Unread, b.Unread) &&
		sameMap(a.Addresses, b.Addresses) && sameMap(a.Addresses6, b.Addresses6) && sameMap(a.Labels, b.Labels) && sameMap(a.Env, b.Env)
}

func sameMap(a, b map[string]string) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() || maps.Equal(a, b)
}
