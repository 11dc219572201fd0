package render

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

var listFunctions = []function{
	fn("list ITEM ...", "A list of these items.", `{{list 1 "two"}}`, "[1 two]", FromFork,
		func(r *run) any {
			return func(items ...any) ([]any, error) { return items, r.bounded(0, items...) }
		}),
	fn("append LIST ITEM ...", "A new list with the items at its end.", `{{append (list 1) 2}}`, "[1 2]", FromFork,
		func(r *run) any {
			return func(list []any, items ...any) ([]any, error) {
				if err := r.bounded(len(list), items...); err != nil {
					return nil, err
				}
				longer := append(slices.Clone(list), items...)
				bytes, err := size(longer)
				if bytes > r.t.env.Limits.ValueBytes {
					err = limitError("the list is too large")
				}
				return longer, err
			}
		}),
	// reverse and the sorts work in place, as in confd: a variable that holds the list sees it.
	fn("reverse LIST", "LIST turned around, in place: a variable that holds it sees the change. What `gets` returns stays as it is, as in confd; give it to `sortKVByLength` or `sortBy` first.",
		`{{reverse (split "a,b,c" ",")}}`, "[c b a]", FromConfd, plain(func(list any) any {
			switch list := list.(type) {
			case []string:
				slices.Reverse(list)
			case Texts:
				copied := slices.Clone(list)
				slices.Reverse(copied)
				return copied
			case []KVPair:
				slices.Reverse(list)
			}
			return list
		})),
	fn("sortByLength TEXTS", "A list of texts, the shortest first, in place; those of one length keep their order.",
		`{{sortByLength (split "ccc,a,bb" ",")}}`, "[a bb ccc]", FromConfd, plain(func(list any) ([]string, error) {
			texts, ok := list.([]string)
			if own, isOwn := list.(Texts); isOwn {
				texts, ok = slices.Clone(own), true
			}
			if !ok {
				return nil, fmt.Errorf("a %T is not a list of texts", list)
			}
			slices.SortStableFunc(texts, func(a, b string) int { return cmp.Compare(len(a), len(b)) })
			return texts, nil
		})),
	fn("sortKVByLength PAIRS", "Pairs, the shortest key first, in place; those of one length keep their order.",
		`{{range sortKVByLength (gets "/app/up/*")}}{{.Key}} {{end}}`, "/app/up/z /app/up/aa ", FromConfd, plain(func(list []KVPair) []KVPair {
			slices.SortStableFunc(list, func(a, b KVPair) int { return cmp.Compare(len(a.Key), len(b.Key)) })
			return list
		})),
	fn("sortBy FIELD LIST", "A sorted copy of a list of servers, services, pairs, maps or, with `\".\"` as FIELD, of plain items. FIELD may go deeper: `\"Meta.zone\"`. Numbers come before texts, and what is equal keeps its order.",
		`{{range sortBy "Value" (gets "/app/up/*")}}{{.Value}} {{end}}{{sortBy "." (split "10,9,a" ",")}}`, "alpha beta [9 10 a]", FromKvd,
		func(r *run) any { return r.sortBy }),
	fn("where FIELD VALUE LIST", "The items of LIST whose FIELD is VALUE, or has VALUE in it if it is a list.",
		`{{range services "/services"}}{{range where "Meta.zone" "b" .Servers}}{{.ID}} {{end}}{{end}}`, "w2 ", FromKvd,
		func(r *run) any { return r.where }),
	fn("groupBy FIELD LIST", "The items of LIST in groups with the same FIELD, sorted by it: each has `.Key`, the field as text, and `.Items`. An item whose field is a list is in each of its groups.",
		`{{range services "/services"}}{{range groupBy "Meta.zone" .Servers}}{{.Key}}={{len .Items}} {{end}}{{end}}`, "=1 a=1 b=1 ", FromKvd,
		func(r *run) any { return r.groupBy }),
	fn("seq FIRST LAST", "The numbers from FIRST to LAST; none if LAST is the smaller one, as in confd (the fork counts down).",
		`{{seq 1 3}} {{seq 3 1}}`, "[1 2 3] []", FromConfd, func(r *run) any { return r.seq }),
}

// bounded notes that a list of more+len(items) is made, and refuses what could not be printed.
func (r *run) bounded(more int, items ...any) error {
	bytes, err := size(items...)
	if err == nil {
		err = r.spend(bytes)
	}
	if err == nil && more+len(items) > partsMax {
		err = errLarge
	}
	return err
}

func (r *run) seq(first, last int) ([]int, error) {
	if last < first {
		return nil, nil
	}
	n := last - first + 1
	if n <= 0 || n > partsMax {
		return nil, limitError(fmt.Sprintf("seq %d %d: at most %d numbers; range over a number needs no list: {{range 1000}}", first, last, partsMax))
	}
	if err := r.spend(8 * n); err != nil {
		return nil, err
	}
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = first + i
	}
	return numbers, nil
}

// Group is the items of a list that have the same field.
type Group struct {
	Key   string // the field
	Items any    // a list of the type that was grouped
}

// listOf returns the list in value.
func listOf(value any) (reflect.Value, error) {
	v := reflect.ValueOf(value)
	if !v.IsValid() {
		return reflect.ValueOf([]any{}), nil
	}
	if v.Kind() != reflect.Slice {
		return v, fmt.Errorf("a %T is not a list", value)
	}
	return v, nil
}

func (r *run) sortBy(field string, list any) (any, error) {
	v, err := listOf(list)
	if err != nil {
		return nil, err
	}
	if err := r.spend(16 * v.Len()); err != nil {
		return nil, err
	}
	type item struct {
		value reflect.Value
		by    order
	}
	items := make([]item, v.Len())
	for i := range items {
		by, err := fieldOf(v.Index(i), field)
		if err != nil {
			return nil, err
		}
		items[i] = item{v.Index(i), orderOf(by)}
	}
	slices.SortStableFunc(items, func(a, b item) int { return a.by.compare(b.by) })
	// What gets returns becomes a plain list of pairs, so that reverse knows it.
	kind := v.Type()
	if kind == reflect.TypeFor[KVPairs]() {
		kind = reflect.TypeFor[[]KVPair]()
	}
	sorted := reflect.MakeSlice(kind, len(items), len(items))
	for i, item := range items {
		sorted.Index(i).Set(item.value)
	}
	return sorted.Interface(), nil
}

func (r *run) where(field string, value, list any) (any, error) {
	v, err := listOf(list)
	if err != nil {
		return nil, err
	}
	if err := r.spend(16 * v.Len()); err != nil {
		return nil, err
	}
	chosen, want := reflect.MakeSlice(v.Type(), 0, 0), fmt.Sprint(value)
	for i := range v.Len() {
		has, err := fieldOf(v.Index(i), field)
		if err != nil {
			return nil, err
		}
		if slices.Contains(texts(has), want) {
			chosen = reflect.Append(chosen, v.Index(i))
		}
	}
	return chosen.Interface(), nil
}

func (r *run) groupBy(field string, list any) ([]Group, error) {
	v, err := listOf(list)
	if err != nil {
		return nil, err
	}
	if err := r.spend(64 * v.Len()); err != nil {
		return nil, err
	}
	byKey := map[string]reflect.Value{}
	for i := range v.Len() {
		has, err := fieldOf(v.Index(i), field)
		if err != nil {
			return nil, err
		}
		keys := texts(has)
		slices.Sort(keys)
		for _, key := range slices.Compact(keys) {
			if _, ok := byKey[key]; !ok {
				byKey[key] = reflect.MakeSlice(v.Type(), 0, 1)
			}
			byKey[key] = reflect.Append(byKey[key], v.Index(i))
		}
	}
	groups := make([]Group, 0, len(byKey))
	for _, key := range slices.SortedFunc(maps.Keys(byKey), func(a, b string) int { return orderOf(a).compare(orderOf(b)) }) {
		groups = append(groups, Group{key, byKey[key].Interface()})
	}
	return groups, nil
}

// texts returns the texts of a field: of each item if it is a list.
func texts(value any) []string {
	if v := reflect.ValueOf(value); v.IsValid() && v.Kind() == reflect.Slice {
		all := make([]string, v.Len())
		for i := range all {
			all[i] = fmt.Sprint(v.Index(i).Interface())
		}
		return all
	}
	if value == nil {
		return []string{""}
	}
	return []string{fmt.Sprint(value)}
}

// fieldOf returns what path names in item, nil if a map does not have it.
func fieldOf(item reflect.Value, path string) (any, error) {
	if path == "" || path == "." {
		return item.Interface(), nil
	}
	for name := range strings.SplitSeq(path, ".") {
		for item.Kind() == reflect.Interface || item.Kind() == reflect.Pointer {
			item = item.Elem()
		}
		switch item.Kind() {
		case reflect.Invalid:
			return nil, nil
		case reflect.Struct:
			field := item.FieldByName(name)
			if !field.IsValid() || !field.CanInterface() {
				return nil, fmt.Errorf("a %s has no field %s", item.Type().Name(), name)
			}
			item = field
		case reflect.Map:
			if item.Type().Key().Kind() != reflect.String {
				return nil, errors.New("only maps with texts as keys have fields")
			}
			item = item.MapIndex(reflect.ValueOf(name).Convert(item.Type().Key()))
		default:
			return nil, fmt.Errorf("a %s has no field %s", item.Type(), name)
		}
	}
	if !item.IsValid() {
		return nil, nil
	}
	return item.Interface(), nil
}

// order is where a field stands among others: what is missing, numbers, and then texts.
type order struct {
	kind   int
	number float64
	text   string
}

func orderOf(value any) order {
	if value == nil {
		return order{}
	}
	text := fmt.Sprint(value)
	if number, err := strconv.ParseFloat(text, 64); err == nil && number == number { // not NaN, which has no place
		return order{1, number, text}
	}
	return order{2, 0, text}
}

func (o order) compare(other order) int {
	return cmp.Or(cmp.Compare(o.kind, other.kind), cmp.Compare(o.number, other.number), cmp.Compare(o.text, other.text))
}

var mapFunctions = []function{
	fn("map KEY VALUE ...", "A map of these keys and values; keys are texts.", `{{(map "a" 1 "b" "two").b}}`, "two", FromConfd,
		func(r *run) any { return r.dict }),
	fn("dict KEY VALUE ...", "The same as `map`.", `{{dict "a" 1}}`, "map[a:1]", FromFork, func(r *run) any { return r.dict }),
	fn("hasKey MAP KEY", "Whether MAP has KEY.", `{{hasKey (dict "a" 1) "a"}}`, "true", FromFork,
		plain(func(object map[string]any, key string) bool { _, ok := object[key]; return ok })),
	fn("keys MAP", "The keys of MAP, sorted.", `{{keys (dict "b" 1 "a" 2)}}`, "[a b]", FromFork,
		plain(func(object map[string]any) []string {
			keys := slices.AppendSeq(make([]string, 0, len(object)), maps.Keys(object))
			slices.Sort(keys)
			return keys
		})),
	fn("values MAP", "The values of MAP, in the order of their keys.", `{{values (dict "b" 1 "a" 2)}}`, "[2 1]", FromFork,
		func(r *run) any {
			return func(object map[string]any) ([]any, error) {
				values := make([]any, 0, len(object))
				for _, key := range slices.Sorted(maps.Keys(object)) {
					values = append(values, object[key])
				}
				return values, r.spend(16 * len(values))
			}
		}),
	fn("pluck KEY MAP ...", "The values of KEY in the maps that have it.", `{{pluck "a" (dict "a" 1) (dict "b" 2)}}`, "[1]", FromFork,
		plain(func(key string, objects ...map[string]any) []any {
			values := []any{}
			for _, object := range objects {
				if value, ok := object[key]; ok {
					values = append(values, value)
				}
			}
			return values
		})),
}

func (r *run) dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, errors.New("give keys and values in pairs")
	}
	object := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		key, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("key %v is not a text", pairs[i])
		}
		object[key] = pairs[i+1]
	}
	return object, r.bounded(0, pairs...)
}
