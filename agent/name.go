package agent

import (
	"strings"
	"unicode/utf8"
)

// nameBytesMax bounds names that a container chooses.
const nameBytesMax = 128

// isName accepts what may become a segment of a key, a server's name in a proxy's configuration
// and a file's name alike. A container's maker chooses it, so that the rule is narrow.
func isName(name string) bool {
	if name == "" || len(name) > nameBytesMax || name[0] == '.' || name[0] == '-' || name[0] == '_' {
		return false
	}
	for i := range len(name) {
		if !isNameByte(name[i]) {
			return false
		}
	}
	return true
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
}

// cleanName replaces what isName refuses. Engines allow no such names themselves, except at
// their edges.
func cleanName(name string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && isNameByte(byte(r)) {
			return r
		}
		return '-'
	}, name)
}

func isPrintable(text string) bool {
	return utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) < 0
}

// imageName returns the last part of an image's name without tag and digest: "web" for
// "registry:5000/shop/web:1.2@sha256:...". It is "" for an image that was named by its ID alone.
func imageName(image string) string {
	image, _, _ = strings.Cut(image, "@")
	image = image[strings.LastIndexByte(image, '/')+1:]
	name, _, tagged := strings.Cut(image, ":")
	if name == "sha256" && tagged {
		return ""
	}
	return name
}
