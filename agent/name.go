package agent

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// composeService is the label in which docker compose keeps the service's name.
const composeService = "com.docker.compose.service"

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

// serviceName is SERVICE_<port>_NAME, else the workload's name for itself with the port's number if
// several ports are registered.
func (d *decision) serviceName(all metadata, port int, several bool) (string, error) {
	key := strconv.Itoa(port) + "_" + keyName
	if name := all[key]; name != "" {
		return checkedName(metadataPrefix+key, name)
	}
	compose := d.seen.Labels[composeService]
	name, err := "", error(nil)
	switch {
	case all[keyName] != "":
		name, err = checkedName(metadataPrefix+keyName, all[keyName])
	case compose != "" && !d.options.Registrator:
		name, err = checkedName(composeService, compose)
	default:
		if name = imageName(d.seen.Image); !isName(name) {
			err = fmt.Errorf("image %.80q gives no name for a service; set %s%s", d.seen.Image, metadataPrefix, keyName)
		}
	}
	if err == nil && several {
		name += "-" + strconv.Itoa(port)
	}
	return name, err
}

func checkedName(key, name string) (string, error) {
	if !isName(name) {
		return "", fmt.Errorf("%s=%.80q: a name has at most %d letters, digits, '.', '-' and '_', and begins with a letter or digit", key, name, nameBytesMax)
	}
	return name, nil
}

// idRule says what isID accepts.
const idRule = "an id has at most 128 letters, digits, '.', '-', '_' and ':', and begins with a letter or digit"

// isID accepts what isName does, and the ':' that registrator's ids have.
func isID(id string) bool { return isName(strings.ReplaceAll(id, ":", "-")) }
