package render

import (
	"cmp"
	"errors"
	"path"
	"slices"
)

func fn(signature, text, example, result, origin string, of func(r *run) any) function {
	name := signature
	for i := range len(signature) {
		if signature[i] == ' ' {
			name = signature[:i]
			break
		}
	}
	return function{Function{Name: name, Signature: signature, Text: text, Example: example, Result: result, Origin: origin}, of}
}

// plain is of for a function that needs nothing of the run.
func plain(f any) func(*run) any { return func(*run) any { return f } }

var keyFunctions = []function{
	fn("exists KEY", "Whether KEY has a value. A directory has none.",
		`{{exists "/app/name"}} {{exists "/app"}}`, "true false", FromConfd, func(r *run) any { return r.exists }),
	fn("get KEY", "The pair of KEY, with `.Key` and `.Value`; an error if it has no value.",
		`{{with get "/app/name"}}{{.Key}}={{.Value}}{{end}}`, "/app/name=shop", FromConfd, func(r *run) any { return r.get }),
	fn("getv KEY [DEFAULT]", "The value of KEY. Without one it is DEFAULT, or an error. A value that is empty stays empty.",
		`{{getv "/app/name"}} {{getv "/none" "nobody"}}`, "shop nobody", FromConfd, func(r *run) any { return r.getv }),
	fn("gets PATTERN", "The pairs whose key matches PATTERN, in key order; none is no error. `*` and `?` do not cross a `/`; `[a-z]` is one of these letters.",
		`{{range gets "/app/db/*"}}{{.Key}}={{.Value}} {{end}}`, "/app/db/host=10.0.0.5 /app/db/port=5432 ", FromConfd, func(r *run) any { return r.gets }),
	fn("getvs PATTERN", "The values of the keys that match PATTERN, sorted by value.",
		`{{getvs "/app/*/*"}}`, "[10.0.0.5 5432 alpha beta]", FromConfd, func(r *run) any { return r.getvs }),
	fn("ls DIR", "The names directly below DIR, sorted; with the last segment of DIR itself if that is a key. Of `/` only keys are listed, as in confd.",
		`{{ls "/app"}}`, "[db motd name up]", FromConfd, func(r *run) any { return r.ls }),
	fn("lsdir DIR", "The names of the directories directly below DIR, sorted. Of `/` none are listed, as in confd.",
		`{{lsdir "/app"}}`, "[db up]", FromConfd, func(r *run) any { return r.lsdir }),
}

// cryptFunctions read values that were encrypted by crypt.
var cryptFunctions = []function{
	fn("cget KEY", "`get`, of an encrypted value.", "", "", FromConfd, func(r *run) any { return r.cget }),
	fn("cgetv KEY", "`getv`, of an encrypted value.", "", "", FromConfd, func(r *run) any { return r.cgetv }),
	fn("cgets PATTERN", "`gets`, of encrypted values; one that cannot be decrypted is an error.", "", "", FromConfd, func(r *run) any { return r.cgets }),
	fn("cgetvs PATTERN", "`getvs`, of encrypted values; their order is that of what is encrypted.", "", "", FromConfd, func(r *run) any { return r.cgetvs }),
}

func (r *run) exists(key string) bool {
	r.reads.key(key)
	_, ok := r.tree.Get(key)
	return ok
}

func (r *run) get(key string) (KVPair, error) {
	r.reads.key(key)
	pair, ok := r.tree.Get(key)
	if !ok {
		if r.lenient {
			return KVPair{Key: key}, nil
		}
		return KVPair{}, missingError{key}
	}
	return pair, nil
}

func (r *run) getv(key string, fallback ...string) (string, error) {
	if len(fallback) > 0 && !r.exists(key) {
		return fallback[0], nil
	}
	pair, err := r.get(key)
	return pair.Value, err
}

func (r *run) gets(pattern string) (KVPairs, error) {
	r.reads.pattern(pattern)
	pairs, err := r.tree.Glob(pattern)
	if err != nil || len(pairs) == 0 && malformed(pattern) {
		r.reads.all = true // whether it is an error depends on there being any key
	}
	if err == nil {
		err = r.spend(32 * len(pairs))
	}
	return pairs, err
}

// malformed reports whether path.Match refuses pattern.
func malformed(pattern string) bool {
	_, err := path.Match(pattern, "")
	return err != nil
}

func (r *run) getvs(pattern string) ([]string, error) {
	pairs, err := r.gets(pattern)
	values := make([]string, len(pairs))
	for i, pair := range pairs {
		values[i] = pair.Value
	}
	slices.Sort(values)
	return values, err
}

// decrypt returns pair with its value decrypted.
func (r *run) decrypt(pair KVPair) (KVPair, error) {
	text, err := "", errNoKeyring
	if r.t.env.Decrypt != nil {
		text, err = r.t.env.Decrypt(pair.Value)
	}
	switch {
	case err == nil:
		pair.Value, err = r.text(text)
		return pair, err
	case r.lenient:
		return KVPair{Key: pair.Key}, r.live()
	}
	return KVPair{}, cryptError{valueError{pair.Key, err}}
}

var errNoKeyring = errors.New("there are no keys to decrypt with, give --secret-keyring")

func (r *run) cget(key string) (KVPair, error) {
	pair, err := r.get(key)
	if err != nil {
		return pair, err
	}
	return r.decrypt(pair)
}

func (r *run) cgetv(key string) (string, error) {
	pair, err := r.cget(key)
	return pair.Value, err
}

func (r *run) cgets(pattern string) (KVPairs, error) {
	pairs, err := r.gets(pattern)
	if err != nil {
		return nil, err
	}
	decrypted := make(KVPairs, len(pairs))
	for i, pair := range pairs {
		if decrypted[i], err = r.decrypt(pair); err != nil {
			return nil, err
		}
	}
	return decrypted, nil
}

func (r *run) cgetvs(pattern string) ([]string, error) {
	pairs, err := r.gets(pattern)
	if err != nil {
		return nil, err
	}
	pairs = slices.SortedFunc(slices.Values(pairs), func(a, b KVPair) int { return cmp.Compare(a.Value, b.Value) })
	values := make([]string, len(pairs))
	for i, pair := range pairs {
		if pair, err = r.decrypt(pair); err != nil {
			return nil, err
		}
		values[i] = pair.Value
	}
	return values, nil
}

func (r *run) ls(dir string) ([]string, error) {
	r.reads.list(dir)
	names := r.tree.List(dir)
	return names, r.spend(16 * len(names))
}

func (r *run) lsdir(dir string) ([]string, error) {
	r.reads.listDir(dir)
	names := r.tree.ListDir(dir)
	return names, r.spend(16 * len(names))
}

// fault returns err, which came of the text s, with the key that s is the value of.
func (r *run) fault(s string, err error) error {
	if err == nil || r.lenient {
		return nil
	}
	key := ""
	r.tree.ascend("", func(k, value string) bool {
		if value == s && s != "" && r.reads.touches(k) {
			key = k
		}
		return key == ""
	})
	if key == "" {
		return err
	}
	return valueError{key, err}
}
