package systemd

import (
	"fmt"
	"strings"
)

// ValidateName reports whether name can be the full name of a unit, such as "app@1.service".
func ValidateName(name string) error {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@"
	dot := strings.LastIndexByte(name, '.')
	switch {
	case dot < 1 || dot == len(name)-1:
		return fmt.Errorf("unit %q: must be a full name, like app.service", name)
	case len(name) > 255:
		return fmt.Errorf("unit name of %d bytes: at most 255 are allowed", len(name))
	case strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(allowed, r) }):
		return fmt.Errorf("unit %q: a unit name has letters, digits and : - _ . \\ @ only", name)
	case strings.HasSuffix(name[:dot], "@"):
		return fmt.Errorf("unit %q: is a template; name one instance of it, like %s1%s", name, name[:dot], name[dot:])
	}
	return nil
}

// nameParts are the parts of a unit's name, by the letters of systemd's specifiers.
type nameParts struct {
	full     string // %n: app@1.service
	stem     string // %N: app@1
	prefix   string // %p: app
	instance string // %i: 1
}

func partsOf(unit string) nameParts {
	stem := unit
	if dot := strings.LastIndexByte(unit, '.'); dot >= 0 {
		stem = unit[:dot]
	}
	prefix, instance, _ := strings.Cut(stem, "@")
	return nameParts{full: unit, stem: stem, prefix: prefix, instance: instance}
}

// expander returns a function that replaces the specifiers of a unit file: those of the unit's name, %H
// and %l for the host and %% for itself. Its error names one that it does not know.
func expander(unit, host string) func(string) (string, error) {
	parts := partsOf(unit)
	short, _, _ := strings.Cut(host, ".")
	last := parts.prefix[strings.LastIndexByte(parts.prefix, '-')+1:]
	known := map[byte]string{
		'n': parts.full, 'N': parts.stem, 'p': parts.prefix, 'P': unescape(parts.prefix), 'i': parts.instance, 'I': unescape(parts.instance),
		'j': last, 'J': unescape(last), 'H': host, 'l': short, '%': "%",
	}
	return func(text string) (string, error) {
		var out strings.Builder
		for i := 0; i < len(text); i++ {
			if text[i] != '%' || i+1 == len(text) { // systemd leaves a last % alone as well
				out.WriteByte(text[i])
				continue
			}
			i++
			value, ok := known[text[i]]
			if !ok {
				return "", fmt.Errorf("%%%c is not known here; there are %%n %%N %%p %%P %%i %%I %%j %%J %%H %%l, and %%%% for a percent sign", text[i])
			}
			out.WriteString(value)
		}
		return out.String(), nil
	}
}

// unescape undoes systemd-escape: - is a slash and \xNN a byte.
func unescape(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '-':
			out.WriteByte('/')
		case strings.HasPrefix(text[i:], `\x`) && i+3 < len(text) && isHex(text[i+2]) && isHex(text[i+3]):
			out.WriteByte(fromHex(text[i+2])<<4 | fromHex(text[i+3]))
			i += 3
		default:
			out.WriteByte(text[i])
		}
	}
	return out.String()
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }

func fromHex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

// objectPath is the name of a unit's object on D-Bus.
func objectPath(unit string) string {
	var out strings.Builder
	for i := range len(unit) {
		c := unit[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' && i > 0 {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "_%02x", c)
		}
	}
	return unitPaths + out.String()
}

// unitOf is the reverse of objectPath, "" for the object of anything else.
func unitOf(path string) string {
	escaped, ok := strings.CutPrefix(path, unitPaths)
	if !ok {
		return ""
	}
	var out strings.Builder
	for i := 0; i < len(escaped); i++ {
		if escaped[i] == '_' && i+2 < len(escaped) && isHex(escaped[i+1]) && isHex(escaped[i+2]) {
			out.WriteByte(fromHex(escaped[i+1])<<4 | fromHex(escaped[i+2]))
			i += 2
			continue
		}
		out.WriteByte(escaped[i])
	}
	return out.String()
}
