package render

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// Cause is a key that a line of the output comes from.
type Cause struct {
	Key string // of the store
	How How
	// Shared: other keys keep the line as well. It goes when all of them are gone, and Key is one of them.
	Shared bool
}

// How says what a key has to do with a line.
type How string

// The ways in which a key makes a line, the most telling first.
const (
	HowValue    How = "value"     // its value, or a part of it, is in the line: with another value the line is another one
	HowPresence How = "presence"  // the line is there because the key is, whatever its value
	HowDecides  How = "condition" // its value is not in the line, but with another value the line is not there
	HowAbsent   How = "absence"   // there is no such key, and with one the line is another one or not there
)

const (
	explainRendersMax = 600 // renders that one explanation may take; nearly all of them are over few keys
	likelyMax         = 24  // keys that are tried first
	causesMax         = 32  // keys that are looked at one by one in the end
)

// changedValue is a value that no key has.
const changedValue = "\x01kvd: another value\x01"

// Explain returns which keys made line (from 1) of the output over tree, the most telling first; none
// if no key was found to have to do with it. Of a Sensitive template it leaves out keys as Told does. It is found out by rendering without keys and with
// other values, so it holds whatever the template does: first a small set of keys is found that
// makes the line by itself, then each of them is tried in the whole. A line is the same one if
// its text is, and if it stands between the same other lines. Of keys that are not there, those are
// told that the template asks for by name. It takes some hundred renders, nearly all of them over few keys, and ends with
// an error when all together have taken as long as one render may.
func (t *Template) Explain(ctx context.Context, tree Tree, item any, line int) ([]Cause, error) {
	out, err := t.Render(ctx, tree, item)
	if err != nil {
		return nil, err
	}
	limit := t.env.Limits.Time
	ctx, cancel := context.WithTimeoutCause(ctx, limit, limitError(fmt.Sprintf("the line is not explained after %v", limit)))
	defer cancel()
	e := &explainer{t: t, ctx: ctx, tree: tree, item: item, output: newLines(out.Content), line: line - 1}
	if line < 1 || line > len(e.output.texts) {
		return nil, fmt.Errorf("there is no line %d: the output has %d", line, len(e.output.texts))
	}
	e.collect(out.Reads)
	causes := e.causes(e.enough(), out.Reads)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if told, _ := t.Told(out.Reads); t.env.Sensitive {
		causes = slices.DeleteFunc(causes, func(c Cause) bool { return !told.Touches(c.Key) })
	}
	return causes, nil
}

// explainer looks for the keys that make one line.
type explainer struct {
	t      *Template
	ctx    context.Context
	tree   Tree
	item   any
	output lines
	line   int // from 0

	read    []KVPair           // what the render has read, the likeliest first
	likely  map[string]float64 // how much of the line is in a key and its value
	renders int
}

// collect finds what was read and orders it by how likely it has to do with the line: by the words
// that are in both, where a rare word counts for more.
func (e *explainer) collect(reads *Reads) {
	line := map[string]bool{}
	eachWord(e.output.texts[e.line], func(word string) { line[word] = true })
	found, common := map[string][]string{}, map[string]int{}
	e.tree.Ascend("", func(key, value string) bool {
		if !reads.touches(key) {
			return true
		}
		e.read = append(e.read, KVPair{key, value})
		words := map[string]bool{}
		note := func(word string) {
			if line[word] {
				words[word] = true
			}
		}
		eachWord(key, note)
		eachWord(value[:min(len(value), 64<<10)], note)
		for word := range words {
			found[key] = append(found[key], word)
			common[word]++
		}
		return true
	})
	e.likely = make(map[string]float64, len(found))
	for key, words := range found {
		for _, word := range words {
			e.likely[key] += 1 / float64(common[word])
		}
	}
	slices.SortStableFunc(e.read, func(a, b KVPair) int { return cmp.Compare(e.likely[b.Key], e.likely[a.Key]) })
}

// enough returns few pairs that make the line by themselves: without any one of them it is not made.
func (e *explainer) enough() []KVPair {
	enough := e.read
	for n := 0; n < len(e.read); n = max(likelyMax, 4*n) {
		if e.made(e.read[:n]) {
			enough = e.read[:n]
			break
		}
	}
	// What may be left out is left out, in ever smaller parts.
	for size := (len(enough) + 1) / 2; len(enough) > 0; size = (size + 1) / 2 {
		for from := 0; from < len(enough) && e.renders < explainRendersMax && e.ctx.Err() == nil; {
			rest := slices.Concat(enough[:from], enough[min(from+size, len(enough)):])
			if e.made(rest) {
				enough = rest
			} else {
				from += size
			}
		}
		if size == 1 {
			break
		}
	}
	return enough
}

// made reports whether the line is made if the template finds these pairs alone.
func (e *explainer) made(pairs []KVPair) bool {
	return e.holds(PairsOf(slices.Clone(pairs)))
}

// causes returns what each of enough does to the line in the whole, and which values of others
// would take it away.
func (e *explainer) causes(enough []KVPair, reads *Reads) []Cause {
	causes := []Cause{}
	known := map[string]bool{}
	for _, pair := range enough[:min(len(enough), causesMax)] {
		known[pair.Key] = true
		without := !e.holds(altered{Tree: e.tree, key: pair.Key})
		changed := !e.holds(altered{Tree: e.tree, key: pair.Key, value: changedValue, there: true})
		cause := Cause{Key: e.outer(pair.Key), Shared: !without && !changed}
		switch {
		case changed && inLine(pair.Value, e.output.texts[e.line]):
			cause.How = HowValue
		case changed:
			cause.How = HowDecides
		default:
			cause.How = HowPresence
		}
		causes = append(causes, cause)
	}
	for _, pair := range e.read {
		_, asked := reads.keys[pair.Key]
		if asked && !known[pair.Key] && len(causes) < causesMax && e.decides(pair, enough) {
			causes = append(causes, Cause{Key: e.outer(pair.Key), How: HowDecides})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(reads.keys)) {
		_, there := e.tree.Get(key)
		if !there && len(causes) < causesMax && e.decides(KVPair{Key: key}, enough) {
			causes = append(causes, Cause{Key: e.outer(key), How: HowAbsent})
		}
	}
	rank := map[How]int{HowValue: 0, HowPresence: 1, HowDecides: 2, HowAbsent: 3}
	slices.SortStableFunc(causes, func(a, b Cause) int { return cmp.Compare(rank[a.How], rank[b.How]) })
	return causes
}

// decides reports whether the line, which is there without pair, is not there with another value of it:
// one that stands in the template, or the other one of two.
func (e *explainer) decides(pair KVPair, enough []KVPair) bool {
	for _, value := range e.others(pair.Value) {
		if e.renders >= explainRendersMax || e.ctx.Err() != nil {
			return false
		}
		if !e.made(with(enough, pair.Key, value)) && !e.holds(altered{Tree: e.tree, key: pair.Key, value: value, there: true}) {
			return true
		}
	}
	return false
}

// others returns other values that a template may be waiting for.
func (e *explainer) others(value string) []string {
	e.t.mu.Lock()
	literals := slices.Sorted(maps.Keys(e.t.literals))
	e.t.mu.Unlock()
	values := []string{changedValue, "", "true", "false", "1", "0"}
	for _, literal := range literals {
		if len(values) < 24 && !strings.HasPrefix(literal, "/") {
			values = append(values, literal)
		}
	}
	return slices.DeleteFunc(values, func(other string) bool { return other == value })
}

// with returns pairs with another value of key, added if it is not among them.
func with(pairs []KVPair, key, value string) []KVPair {
	return append(slices.DeleteFunc(slices.Clone(pairs), func(p KVPair) bool { return p.Key == key }), KVPair{key, value})
}

// outer returns the name of a key in the store.
func (e *explainer) outer(key string) string {
	if key == "/" && e.tree.scope.Prefix != "" {
		return e.tree.scope.Prefix
	}
	return e.tree.scope.Prefix + key
}

// holds reports whether the line is made over pairs, whose names are those that the template sees.
func (e *explainer) holds(pairs Pairs) bool {
	e.renders++
	tree := Tree{pairs: pairs, ranges: newRanges(Scope{Keys: []string{""}, Textual: true}), scope: e.tree.scope}
	item := e.item
	if it, ok := item.(Item); ok {
		it.Value, _ = pairs.Get(it.Key)
		item = it
	}
	out, err := e.t.render(e.ctx, tree, item, true)
	return err == nil && e.output.holds(e.line, newLines(out.Content))
}

// altered is a tree as Pairs in which one key has another value, or none.
type altered struct {
	Tree
	key   string
	value string
	there bool
}

func (a altered) Get(key string) (string, bool) {
	if key == a.key {
		return a.value, a.there
	}
	pair, ok := a.Tree.Get(key)
	return pair.Value, ok
}

func (a altered) Ascend(pivot string, fn func(key, value string) bool) {
	a.Tree.Ascend(pivot, func(key, value string) bool {
		if key != a.key {
			return fn(key, value)
		}
		return !a.there || fn(key, a.value)
	})
}

// lines is a text by lines.
type lines struct {
	texts []string
	at    map[string]int // where each line is that is there once; -1: it is there several times
}

func newLines(content []byte) lines {
	text := string(content)
	l := lines{texts: strings.Split(strings.TrimSuffix(text, "\n"), "\n")}
	l.at = make(map[string]int, len(l.texts))
	for i, line := range l.texts {
		if _, twice := l.at[line]; twice {
			i = -1
		}
		l.at[line] = i
	}
	return l
}

// holds reports whether line i of l is in other as well. A line that is there several times is found by the
// nearest lines around it that are in both texts once.
func (l lines) holds(i int, other lines) bool {
	text := l.texts[i]
	if l.at[text] >= 0 {
		_, there := other.at[text]
		return there
	}
	from, to, otherFrom, otherTo := i-1, i+1, -1, len(other.texts)
	for ; from >= 0; from-- {
		if at, ok := other.at[l.texts[from]]; ok && at >= 0 && l.at[l.texts[from]] >= 0 {
			otherFrom = at
			break
		}
	}
	for ; to < len(l.texts); to++ {
		if at, ok := other.at[l.texts[to]]; ok && at >= 0 && l.at[l.texts[to]] >= 0 {
			otherTo = at
			break
		}
	}
	if otherFrom >= otherTo {
		return false
	}
	count := func(texts []string) (n int) {
		for _, line := range texts {
			if line == text {
				n++
			}
		}
		return n
	}
	return count(l.texts[from+1:to]) == count(other.texts[otherFrom+1:otherTo])
}

// eachWord calls visit for the words of a text: runs of letters, digits and what holds addresses and
// names together, and the parts of those.
func eachWord(text string, visit func(word string)) {
	for word := range strings.FieldsFuncSeq(text, func(c rune) bool {
		return !unicode.IsLetter(c) && !unicode.IsDigit(c) && c != '.' && c != '_' && c != '-' && c != ':'
	}) {
		visit(word)
		if strings.ContainsAny(word, ":-_.") {
			for part := range strings.FieldsFuncSeq(word, func(c rune) bool { return c == ':' || c == '-' || c == '_' || c == '.' }) {
				visit(part)
			}
			for part := range strings.SplitSeq(word, ":") {
				visit(part)
			}
		}
	}
}

// inLine reports whether value is in line, or one of the texts and numbers in it if it is JSON.
func inLine(value, line string) bool {
	if trimmed := strings.TrimSpace(value); trimmed != "" && strings.Contains(line, trimmed) {
		return true
	}
	words := map[string]bool{}
	eachWord(line, func(word string) { words[word] = true })
	var decoded any
	if json.Unmarshal([]byte(value), &decoded) != nil {
		found := false
		eachWord(value, func(word string) { found = found || len(word) > 1 && words[word] })
		return found
	}
	return leafInLine(decoded, line, words)
}

func leafInLine(value any, line string, words map[string]bool) bool {
	within := func(part any) bool { return leafInLine(part, line, words) }
	switch value := value.(type) {
	case map[string]any:
		return slices.ContainsFunc(slices.Collect(maps.Values(value)), within)
	case []any:
		return slices.ContainsFunc(value, within)
	case string:
		return words[value] || len(value) > 2 && strings.Contains(line, value)
	case float64:
		return words[fmt.Sprint(int64(value))]
	}
	return false
}
