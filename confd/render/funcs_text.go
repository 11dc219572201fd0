package render

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

var textFunctions = []function{
	fn("base PATH", "The last segment of PATH.", `{{base "/a/b"}}`, "b", FromConfd, plain(path.Base)),
	fn("dir PATH", "PATH without its last segment.", `{{dir "/a/b"}}`, "/a", FromConfd, plain(path.Dir)),
	fn("split TEXT SEPARATOR", "The parts of TEXT between the separators.", `{{split "a,b,c" ","}}`, "[a b c]", FromConfd,
		func(r *run) any {
			return func(s, separator string) ([]string, error) {
				parts := strings.Count(s, separator) + 1
				if parts > partsMax {
					return nil, errLarge
				}
				if err := r.spend(16 * parts); err != nil {
					return nil, err
				}
				return strings.Split(s, separator), nil
			}
		}),
	fn("join TEXTS SEPARATOR", "The texts in one, with the separator between them.", `{{join (split "a,b" ",") " and "}}`, "a and b", FromConfd,
		func(r *run) any {
			return func(texts []string, separator string) (string, error) {
				bytes := len(texts) * len(separator)
				for _, text := range texts {
					bytes += len(text)
				}
				if err := r.spend(bytes); err != nil {
					return "", err
				}
				return strings.Join(texts, separator), nil
			}
		}),
	fn("replace TEXT OLD NEW COUNT", "TEXT with the first COUNT times of OLD replaced by NEW; -1 replaces all.", `{{replace "aaa" "a" "b" 2}}`, "bba", FromConfd,
		func(r *run) any {
			return func(s, old, new string, n int) (string, error) {
				times := strings.Count(s, old)
				if n >= 0 {
					times = min(times, n)
				}
				if err := r.spend(len(s) + product(times, len(new))); err != nil {
					return "", err
				}
				return strings.Replace(s, old, new, n), nil
			}
		}),
	fn("contains TEXT PART", "Whether PART is in TEXT.", `{{contains "abc" "b"}}`, "true", FromConfd, plain(strings.Contains)),
	fn("hasPrefix TEXT START", "Whether TEXT begins with START.", `{{hasPrefix "abc" "ab"}}`, "true", FromKvd, plain(strings.HasPrefix)),
	fn("hasSuffix TEXT END", "Whether TEXT ends with END.", `{{hasSuffix "abc" "bc"}}`, "true", FromKvd, plain(strings.HasSuffix)),
	fn("trim TEXT", "TEXT without spaces and line ends around it.", `[{{trim " a b\n"}}]`, "[a b]", FromKvd, plain(strings.TrimSpace)),
	fn("trimSuffix TEXT END", "TEXT without END at its end.", `{{trimSuffix "a.cfg" ".cfg"}}`, "a", FromConfd, plain(strings.TrimSuffix)),
	fn("trimPrefix TEXT START", "TEXT without START at its beginning.", `{{trimPrefix "/a" "/"}}`, "a", FromFork, plain(strings.TrimPrefix)),
	fn("toUpper TEXT", "TEXT in capitals.", `{{toUpper "aB"}}`, "AB", FromConfd, plain(strings.ToUpper)),
	fn("toLower TEXT", "TEXT without capitals.", `{{toLower "aB"}}`, "ab", FromConfd, plain(strings.ToLower)),
	fn("nospace TEXT", "TEXT without any white space.", `{{nospace " a b "}}`, "ab", FromFork,
		plain(func(s string) string { return strings.Join(strings.Fields(s), "") })),
	fn("snakecase TEXT", "The words of TEXT, which begin at capitals, `_`, `-` and spaces, with `_` between them.", `{{snakecase "maxHTTPConns"}}`, "max_http_conns", FromFork,
		plain(func(s string) string { return strings.ToLower(strings.Join(words(s), "_")) })),
	fn("kebabcase TEXT", "The words of TEXT with `-` between them.", `{{kebabcase "maxConns"}}`, "max-conns", FromFork,
		plain(func(s string) string { return strings.ToLower(strings.Join(words(s), "-")) })),
	fn("camelcase TEXT", "The words of TEXT in one, each but the first with a capital.", `{{camelcase "max_conns"}}`, "maxConns", FromFork, plain(camelcase)),
	fn("repeat COUNT TEXT", "TEXT so many times.", `{{repeat 3 "ab"}}`, "ababab", FromFork,
		func(r *run) any {
			return func(n int, s string) (string, error) {
				if n = max(n, 0); r.spend(product(n, len(s))) != nil {
					return "", r.spend(product(n, len(s)))
				}
				return strings.Repeat(s, n), nil
			}
		}),
	fn("indent COUNT TEXT", "TEXT with so many spaces before each line.", `{{indent 2 "a\nb"}}`, "  a\n  b", FromFork,
		func(r *run) any { return r.indent }),
	fn("nindent COUNT TEXT", "A line end, and then what `indent` makes.", `{{nindent 1 "a"}}`, "\n a", FromFork,
		func(r *run) any {
			return func(n int, s string) (string, error) { s, err := r.indent(n, s); return "\n" + s, err }
		}),
	fn("regexMatch PATTERN TEXT", "Whether the regular expression matches somewhere in TEXT.", `{{regexMatch "^a+$" "aaa"}}`, "true", FromFork, plain(regexp.MatchString)),
	fn("regexFind PATTERN TEXT", "The first match of the regular expression in TEXT.", `{{regexFind "[0-9]+" "a12"}}`, "12", FromFork,
		plain(func(pattern, s string) (string, error) {
			re, err := regexp.Compile(pattern)
			if err != nil {
				return "", err
			}
			return re.FindString(s), nil
		})),
	fn("regexReplaceAll PATTERN TEXT NEW", "TEXT with all matches replaced by NEW, in which `$1` is the first group.", `{{regexReplaceAll "a(b)" "abc" "$1"}}`, "bc", FromFork,
		func(r *run) any { return r.regexReplaceAll }),
}

// product returns a*b, or more than any limit if that is too large for an int.
func product(a, b int) int {
	const large = 1 << 40
	if a > large || b > large || b > 0 && a > large/b {
		return large
	}
	return a * b
}

func (r *run) indent(n int, s string) (string, error) {
	if s == "" {
		return "", nil
	}
	n = max(n, 0)
	if err := r.spend(len(s) + product(n, strings.Count(s, "\n")+1)); err != nil {
		return "", err
	}
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(s, "\n", "\n"+pad), nil
}

func (r *run) regexReplaceAll(pattern, s, replacement string) (string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return "", err
	}
	matches := 0
	re.ReplaceAllStringFunc(s, func(string) string { matches++; return "" })
	// Matches do not overlap, so all that one group stands for is no more than s.
	if err := r.spend(product(matches, len(replacement)) + product(len(s), 1+strings.Count(replacement, "$"))); err != nil {
		return "", err
	}
	return re.ReplaceAllString(s, replacement), nil
}

// words returns the words of a name: they are parted by "_", "-" and " ", and begin at a capital
// that follows a small letter, or that a small letter follows, as in HTTPServer.
func words(s string) (found []string) {
	for part := range strings.FieldsFuncSeq(s, func(c rune) bool { return c == '_' || c == '-' || c == ' ' }) {
		letters, from := []rune(part), 0
		for i := 1; i < len(letters); i++ {
			beforeSmall := i+1 < len(letters) && unicode.IsLower(letters[i+1])
			if unicode.IsUpper(letters[i]) && (beforeSmall || !unicode.IsUpper(letters[i-1])) {
				found = append(found, string(letters[from:i]))
				from = i
			}
		}
		found = append(found, string(letters[from:]))
	}
	return found
}

func camelcase(s string) string {
	var joined strings.Builder
	for i, word := range words(s) {
		word = strings.ToLower(word)
		if i > 0 {
			first, n := utf8.DecodeRuneInString(word)
			word = string(unicode.ToUpper(first)) + word[n:]
		}
		joined.WriteString(word)
	}
	return joined.String()
}

var quoteFunctions = []function{
	fn("quoteJson TEXT", "TEXT as a string of JSON, with its quotes; YAML and TOML read the same.",
		`{{quoteJson "a\"b\n<c>"}}`, `"a\"b\n<c>"`, FromKvd, func(r *run) any { return func(s string) (string, error) { return r.text(quoteJSON(s)) } }),
	fn("quoteHaproxy TEXT", "TEXT as one word of an HAProxy configuration. A NUL is an error: HAProxy cannot have one.",
		`{{quoteHaproxy "a \"b\" $c #d"}}`, `"a \"b\" \$c #d"`, FromKvd, func(r *run) any {
			return func(s string) (string, error) {
				quoted, err := quoteHAProxy(s)
				if err != nil {
					return "", err
				}
				return r.text(quoted)
			}
		}),
	fn("quoteNginx TEXT", "TEXT as one word of an nginx configuration. A `$` is an error, as nginx has no way to write one that is not a variable's; so is a control character other than tab and line ends.",
		`{{quoteNginx "a \"b\"; c"}}`, `"a \"b\"; c"`, FromKvd, func(r *run) any {
			return func(s string) (string, error) {
				quoted, err := quoteNginx(s)
				if err != nil {
					return "", err
				}
				return r.text(quoted)
			}
		}),
	fn("quoteRegex TEXT", "TEXT as a regular expression that matches exactly TEXT.",
		`{{quoteRegex "a.b"}}`, `a\.b`, FromKvd, func(r *run) any { return func(s string) (string, error) { return r.text(regexp.QuoteMeta(s)) } }),
	fn("quote TEXT", "TEXT as a string of Go: in double quotes, with backslashes.", `{{quote "a\"b"}}`, `"a\"b"`, FromFork,
		func(r *run) any { return func(s string) (string, error) { return r.text(strconv.Quote(s)) } }),
	fn("squote TEXT", "TEXT in single quotes, those within doubled, as YAML and SQL want it.", `{{squote "it's"}}`, `'it''s'`, FromFork,
		func(r *run) any {
			return func(s string) (string, error) { return r.text("'" + strings.ReplaceAll(s, "'", "''") + "'") }
		}),
}

// quoteJSON returns s as a string that JSON, YAML and TOML read alike: whatever any of them does not
// allow or does not show is escaped. What is not UTF-8 becomes U+FFFD.
func quoteJSON(s string) string {
	quoted := []byte{'"'}
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			quoted = append(quoted, '\\', byte(c))
		case c == '\n':
			quoted = append(quoted, `\n`...)
		case c == '\r':
			quoted = append(quoted, `\r`...)
		case c == '\t':
			quoted = append(quoted, `\t`...)
		case c < ' ' || c >= 0x7f && c < 0xa0 || c == '\u2028' || c == '\u2029' || c == '\ufeff' || c == '\ufffe' || c == '\uffff':
			quoted = fmt.Appendf(quoted, `\u%04x`, c)
		default:
			quoted = utf8.AppendRune(quoted, c)
		}
	}
	return string(append(quoted, '"'))
}

// quoteHAProxy returns s in HAProxy's double quotes, in which backslash, double quote and dollar
// keep their meaning.
func quoteHAProxy(s string) (string, error) {
	quoted := []byte{'"'}
	for i := range len(s) {
		switch c := s[i]; {
		case c == 0:
			return "", fmt.Errorf("HAProxy cannot have a NUL in a text")
		case c == '"' || c == '\\' || c == '$':
			quoted = append(quoted, '\\', c)
		case c < ' ' || c == 0x7f:
			quoted = fmt.Appendf(quoted, `\x%02x`, c)
		default:
			quoted = append(quoted, c)
		}
	}
	return string(append(quoted, '"')), nil
}

func quoteNginx(s string) (string, error) {
	quoted := []byte{'"'}
	for i := range len(s) {
		switch c := s[i]; {
		case c == '$':
			return "", fmt.Errorf("nginx takes what follows a $ for a variable, and has no way to write it otherwise")
		case c == '"' || c == '\\':
			quoted = append(quoted, '\\', c)
		case c == '\n':
			quoted = append(quoted, `\n`...)
		case c == '\r':
			quoted = append(quoted, `\r`...)
		case c == '\t':
			quoted = append(quoted, `\t`...)
		case c < ' ' || c == 0x7f:
			return "", fmt.Errorf("nginx cannot write the control character %#02x", c)
		default:
			quoted = append(quoted, c)
		}
	}
	return string(append(quoted, '"')), nil
}
