package httpv2

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// params are the parameters of a keys request. All of them are read and checked for every method,
// also where they mean nothing.
type params struct {
	value     string
	prevValue string // "" when absent: an empty one is refused
	prevIndex kv.Index
	waitIndex kv.Index
	prevExist *bool
	ttl       *uint64 // seconds
	lease     kv.LeaseID

	recursive, sorted, wait, dir, quorum, stream, refresh, noValue bool

	only []string // keys, as they were given
}

// compares reports whether the request is a compare operation.
func (p params) compares() bool { return p.prevIndex != 0 || p.prevValue != "" }

// parse reads the parameters of r. The first failure in etcd's order of validation wins.
// Errors: *etcdv2.Error, or a *kv.Error of Kind TooLarge for a body above maxBytes.
func parse(w http.ResponseWriter, r *http.Request, maxBytes int64) (params, error) {
	hasForm := r.Method == http.MethodPut || r.Method == http.MethodPost
	if !hasForm {
		switch r.URL.RawQuery { // the usual ones
		case "":
			return params{}, nil
		case "quorum=true":
			return params{quorum: true}, nil
		}
	}
	if hasForm {
		r.Body = http.MaxBytesReader(w, r.Body, maxBytes)
	}
	if err := r.ParseForm(); err != nil {
		return params{}, formError(err)
	}
	f := form{values: r.Form}
	p := params{
		prevIndex: f.number("prevIndex", etcdv2.CodeIndexNaN),
		waitIndex: f.number("waitIndex", etcdv2.CodeIndexNaN),
		recursive: f.flag("recursive"),
		sorted:    f.flag("sorted"),
		wait:      f.flag("wait"),
		dir:       f.flag("dir"),
		quorum:    f.flag("quorum"),
		stream:    f.flag("stream"),
		value:     f.values.Get("value"),
		prevValue: f.values.Get("prevValue"),
	}
	if p.wait && r.Method != http.MethodGet {
		f.fail(etcdv2.CodeInvalidField, `"wait" can only be used with GET requests`)
	}
	if p.prevValue == "" && f.values.Has("prevValue") {
		f.fail(etcdv2.CodePrevValue, `"prevValue" cannot be empty`)
	}
	p.noValue = f.flag("noValueOnSuccess")
	if f.values.Get("ttl") != "" {
		seconds := f.number("ttl", etcdv2.CodeTTLNaN)
		p.ttl = &seconds
	}
	p.prevExist = f.optionalFlag("prevExist")
	if refresh := f.optionalFlag("refresh"); refresh != nil && *refresh {
		p.refresh = true
		if p.value != "" {
			f.fail(etcdv2.CodeRefreshValue, "A value was provided on a refresh")
		}
		if p.ttl == nil {
			f.fail(etcdv2.CodeRefreshTTL, "No TTL value set")
		}
	}
	p.lease = f.leaseID("lease") // after all that etcd checks
	p.only = f.only(r.Method, p.recursive, keyOf(r.URL.Path))
	if f.err != nil {
		return params{}, f.err
	}
	return p, nil
}

func formError(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return &kv.Error{Kind: kv.TooLarge, Cause: fmt.Sprintf("the form is longer than %d bytes; store large data elsewhere and its address here", tooLarge.Limit), Err: err}
	}
	return etcdv2.NewError(etcdv2.CodeInvalidForm, err.Error())
}

// form reads typed values and keeps the first failure; what is read after it does not matter.
type form struct {
	values url.Values
	err    *etcdv2.Error
}

func (f *form) fail(code etcdv2.Code, cause string) {
	if f.err == nil {
		f.err = etcdv2.NewError(code, cause)
	}
}

// number returns 0 for a name that is absent; an empty value is an error.
func (f *form) number(name string, code etcdv2.Code) uint64 {
	if !f.values.Has(name) {
		return 0
	}
	n, err := strconv.ParseUint(f.values.Get(name), 10, 64)
	if err != nil {
		f.fail(code, `invalid value for "`+name+`"`)
	}
	return n
}

// flag returns false for a name that is absent; an empty value is an error.
func (f *form) flag(name string) bool {
	if !f.values.Has(name) {
		return false
	}
	on, err := strconv.ParseBool(f.values.Get(name))
	if err != nil {
		f.fail(etcdv2.CodeInvalidField, `invalid value for "`+name+`"`)
	}
	return on
}

// optionalFlag returns nil for a name that is absent. Its message has no quotes: so does etcd's.
func (f *form) optionalFlag(name string) *bool {
	if !f.values.Has(name) {
		return nil
	}
	on, err := strconv.ParseBool(f.values.Get(name))
	if err != nil {
		f.fail(etcdv2.CodeInvalidField, "invalid value for "+name)
	}
	return &on
}

// only returns the keys to which a read or watch of dir is narrowed, nil for none.
func (f *form) only(method string, recursive bool, dir string) []string {
	keys := f.values[etcdv2.ParamOnly]
	if len(keys) == 0 {
		return nil
	}
	if method != http.MethodGet && method != http.MethodHead || !recursive {
		f.fail(etcdv2.CodeInvalidField, `"only" can only be used with GET requests that are recursive`)
		return nil
	}
	if _, err := kv.Only(dir, keys); err != nil {
		var wrong *kv.Error
		errors.As(err, &wrong)
		f.fail(etcdv2.CodeInvalidField, `"only": `+wrong.Cause)
		return nil
	}
	return keys
}

// leaseID returns 0 for a name that is absent; an empty value is an error.
func (f *form) leaseID(name string) kv.LeaseID {
	if !f.values.Has(name) {
		return 0
	}
	id, err := kv.ParseLeaseID(f.values.Get(name))
	if err != nil {
		f.fail(etcdv2.CodeInvalidField, `invalid value for "`+name+`": a lease id is 16 hex digits in lower case`)
	}
	return id
}
