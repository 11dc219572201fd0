package confd

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/kvd-io/kvd/confd/proxy"
)

// discreet is the applier of a sensitive file: what the program says of it, which may quote it, goes no further.
// The steps of a plan are left as they are, for Apply.
type discreet struct{ proxy.Applier }

// unsaid stands for what is not shown.
const unsaid = "not shown, because the content is sensitive"

// Plan implements proxy.Applier.
func (d discreet) Plan(ctx context.Context, live, next []byte) (proxy.Plan, error) {
	plan, err := d.Applier.Plan(ctx, live, next)
	if plan.Reason != "" {
		plan.Reason = unsaid
	}
	return plan, hushed(err)
}

// Apply implements proxy.Applier.
func (d discreet) Apply(ctx context.Context, plan proxy.Plan) error {
	return hushed(d.Applier.Apply(ctx, plan))
}

// Mark implements proxy.Applier.
func (d discreet) Mark(ctx context.Context) (proxy.Mark, error) {
	mark, err := d.Applier.Mark(ctx)
	return mark, hushed(err)
}

// Confirm implements proxy.Applier.
func (d discreet) Confirm(ctx context.Context, next []byte, mark proxy.Mark) error {
	return hushed(d.Applier.Confirm(ctx, next, mark))
}

// hushed returns of an error what the system says of a connection, if that is what it is about.
func hushed(err error) error {
	var connection *net.OpError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &connection):
		return fmt.Errorf("the program cannot be asked: %w", connection)
	}
	return errors.New("the program refused it, or does not run it; what it said is " + unsaid)
}

// told is a plan as the log has it.
func (t *target) told(plan proxy.Plan) string {
	if t.Sensitive {
		return plan.Kind.String() + ": " + unsaid
	}
	return plan.String()
}
