package files

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Limits of one file.
const (
	servicesMax   = 256
	optionsMax    = 64 // of one service, and entries of its meta
	valueBytesMax = 4 << 10
	nameBytesMax  = 256 // of a service in a file that cannot be understood
)

// prefix begins every label.
const prefix = "kvd."

// Parse returns the labels that a file stands for: kvd.SERVICE.OPTION=VALUE. It does not judge names
// and values beyond what a label can hold. The error names the line.
func Parse(text []byte) (map[string]string, error) {
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	var document yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		return map[string]string{}, nil // nothing but comments
	}
	if err != nil {
		return nil, err
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("it holds a second document; one is allowed")
	}
	labels := map[string]string{}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return labels, nil
	}
	err = each(root, "services by name", servicesMax, func(name string, value *yaml.Node) error {
		if name == "ignore" {
			return set(labels, prefix+"ignore", value)
		}
		return service(labels, name, value)
	})
	if err != nil {
		return nil, err
	}
	return labels, nil
}

// names returns the services that a file seems to name, of which not all can be understood: what stands before a
// colon at the beginning of a line.
func names(text []byte) (list []string) {
	for line := range strings.Lines(string(text)) {
		name, _, found := strings.Cut(line, ":")
		name = strings.Trim(strings.TrimRight(name, " \t"), `"'`)
		if !found || name == "" || len(name) > nameBytesMax || strings.ContainsAny(name, " \t#{}[],") || slices.Contains(list, name) {
			continue
		}
		if list = append(list, name); len(list) == servicesMax {
			break
		}
	}
	return list
}

func service(labels map[string]string, name string, options *yaml.Node) error {
	return each(options, fmt.Sprintf("the options of %.60q", name), optionsMax, func(option string, value *yaml.Node) error {
		label := prefix + name + "." + option
		switch {
		case option == "meta":
			return each(value, "the entries of meta", optionsMax, func(key string, value *yaml.Node) error {
				return set(labels, label+"."+key, value)
			})
		case value.Kind == yaml.SequenceNode:
			return list(labels, label, value)
		}
		return set(labels, label, value)
	})
}

// each calls f for every entry of a mapping.
func each(node *yaml.Node, what string, most int, f func(name string, value *yaml.Node) error) error {
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: %s are expected here, as NAME: VALUE", node.Line, what)
	}
	if len(node.Content)/2 > most {
		return fmt.Errorf("line %d: more than %d %s", node.Line, most, what)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		if name.Kind != yaml.ScalarNode || name.Value == "" {
			return fmt.Errorf("line %d: a name is expected here", name.Line)
		}
		if seen[name.Value] {
			return fmt.Errorf("line %d: %.60q is there twice", name.Line, name.Value)
		}
		seen[name.Value] = true
		if err := f(name.Value, value); err != nil {
			return err
		}
	}
	return nil
}

// list joins values with commas, as labels have lists; a comma within one is escaped.
func list(labels map[string]string, label string, node *yaml.Node) error {
	var parts []string
	for _, item := range node.Content {
		if item.Kind != yaml.ScalarNode {
			return fmt.Errorf("line %d: a list holds words here", item.Line)
		}
		parts = append(parts, strings.ReplaceAll(item.Value, ",", `\,`))
	}
	return put(labels, label, strings.Join(parts, ","), node.Line)
}

func set(labels map[string]string, label string, node *yaml.Node) error {
	if node.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: one value is expected here", node.Line)
	}
	if node.Tag == "!!null" {
		return put(labels, label, "", node.Line)
	}
	return put(labels, label, node.Value, node.Line)
}

func put(labels map[string]string, label, value string, line int) error {
	if len(value) > valueBytesMax || len(label) > valueBytesMax {
		return fmt.Errorf("line %d: a name or value of more than %d bytes", line, valueBytesMax)
	}
	if _, taken := labels[label]; taken {
		return fmt.Errorf("line %d: %.80q is there twice", line, label)
	}
	labels[label] = value
	return nil
}
