package override

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/registry"
)

// valueBytesMax bounds what is read: an override in its longest spelling is far shorter.
const valueBytesMax = 4 << 10

// Directory returns where the overrides of the services below prefix are kept: beside it, so that
// nobody who follows the services sees them.
func Directory(prefix string) string { return kv.Clean(prefix) + "-override" }

// Key returns where the override of one instance is kept. The names must be valid.
func Key(prefix, service, instance string) string {
	return Directory(prefix) + "/" + service + "/" + instance
}

// ValidateNames reports whether there can be such an instance.
func ValidateNames(service, instance string) error {
	return errors.Join(registry.ValidateName("service name", service), registry.ValidateName("instance name", instance))
}

// Decode reads an override from the value of its key. It accepts unknown fields, which a newer
// version may have written, and nothing that is not valid.
func Decode(value string) (Override, error) {
	if len(value) > valueBytesMax {
		return Override{}, fmt.Errorf("not an override: %d bytes, at most %d are allowed", len(value), valueBytesMax)
	}
	var o Override
	if err := json.Unmarshal([]byte(value), &o); err != nil {
		return Override{}, fmt.Errorf("not an override: %w", err)
	}
	if err := o.Validate(); err != nil {
		return Override{}, err
	}
	return o, nil
}

func (o Override) encode() string {
	if o.Mode == "" {
		o.Mode = Ready
	}
	o.At = o.At.UTC()
	data, err := json.Marshal(o)
	if err != nil {
		panic(fmt.Sprintf("override: strings and numbers cannot be encoded: %v", err))
	}
	return string(data)
}

// Write says what is wanted of one instance, there or not, in place of what was wanted before. An
// override that wants nothing clears it. Errors by Kind: Invalid, and those of the store.
func Write(ctx context.Context, store kv.Writer, prefix, service, instance string, o Override) error {
	if err := errors.Join(ValidateNames(service, instance), o.Validate()); err != nil {
		return &kv.Error{Op: "override", Kind: kv.Invalid, Err: err}
	}
	if o.IsZero() {
		return Clear(ctx, store, prefix, service, instance)
	}
	_, err := store.Write(ctx, kv.Write{Op: kv.OpSet, Key: Key(prefix, service, instance), Value: o.encode()})
	return err
}

// Clear wants nothing of one instance any more. Errors by Kind: Invalid, and those of the store but
// NotFound.
func Clear(ctx context.Context, store kv.Writer, prefix, service, instance string) error {
	if err := ValidateNames(service, instance); err != nil {
		return &kv.Error{Op: "override", Kind: kv.Invalid, Err: err}
	}
	_, err := store.Write(ctx, kv.Write{Op: kv.OpDelete, Key: Key(prefix, service, instance)})
	if kv.Is(err, kv.NotFound) {
		return nil
	}
	return err
}

// namesOf returns whom the override at key of directory is about; ok is false if that is nobody.
func namesOf(directory, key string) (n name, ok bool) {
	rest, below := strings.CutPrefix(key, directory+"/")
	service, instance, two := strings.Cut(rest, "/")
	if !below || !two || ValidateNames(service, instance) != nil {
		return name{}, false
	}
	return name{service, instance}, true
}
