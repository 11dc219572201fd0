package install

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v3"
)

// CheckFormat reports whether content can be parsed as format: json, yaml (or yml), toml or xml; "" is
// anything. The error names the line, and quotes nothing of the content if sensitive is set. YAML may hold several
// documents; XML has one element at least.
func CheckFormat(format string, content []byte, sensitive bool) error {
	var line int
	var err error
	switch format {
	case "":
	case "json":
		line, err = checkJSON(content)
	case "yaml", "yml":
		line, err = checkYAML(content)
	case "toml":
		line, err = checkTOML(content)
	case "xml":
		line, err = checkXML(content)
	default:
		return fmt.Errorf("output_format is %q; use json, yaml, toml or xml", format)
	}
	if err == nil {
		return nil
	}
	where := ""
	if line > 0 {
		where = fmt.Sprintf(" in line %d", line)
	}
	if sensitive {
		return fmt.Errorf("what the template made is not valid %s%s; the line is not shown, because the content is sensitive", strings.ToUpper(format), where)
	}
	return fmt.Errorf("what the template made is not valid %s%s: %w", strings.ToUpper(format), where, err)
}

func checkJSON(content []byte) (line int, err error) {
	var whole json.RawMessage
	err = json.Unmarshal(content, &whole)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		line = 1 + bytes.Count(content[:min(int(syntax.Offset), len(content))], []byte("\n"))
	}
	return line, err
}

// yamlLine finds the line in an error of the YAML reader.
var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

func checkYAML(content []byte) (line int, err error) {
	for decoder := yaml.NewDecoder(bytes.NewReader(content)); ; {
		var document yaml.Node // aliases stay what they are, so that a few of them cannot become gigabytes
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return 0, nil
		}
		if err != nil {
			match := yamlLine.FindStringSubmatch(err.Error())
			line, _ = strconv.Atoi(match[1]) // 0 without a line
			return line, errors.New(strings.TrimPrefix(err.Error(), match[0]))
		}
	}
}

// depthMax is how deeply values may be nested. The readers of YAML and JSON have a limit of their own.
const depthMax = 10_000

func checkTOML(content []byte) (line int, err error) {
	if tomlDepth(content) > depthMax {
		return 0, fmt.Errorf("its values are nested more than %d deep", depthMax)
	}
	var whole map[string]any
	_, err = toml.Decode(string(content), &whole)
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return parse.Position.Line, errors.New(parse.Message)
	}
	return 0, err
}

func checkXML(content []byte) (line int, err error) {
	decoder := xml.NewDecoder(bytes.NewReader(content))
	decoder.CharsetReader = func(_ string, input io.Reader) (io.Reader, error) { return input, nil }
	elements, depth := 0, 0
	for {
		token, err := decoder.Token()
		var syntax *xml.SyntaxError
		switch {
		case errors.Is(err, io.EOF) && elements == 0:
			return 0, errors.New("there is no element")
		case errors.Is(err, io.EOF):
			return 0, nil
		case errors.As(err, &syntax):
			return syntax.Line, errors.New(syntax.Msg)
		case err != nil:
			return 0, err
		}
		switch token.(type) {
		case xml.StartElement:
			elements++
			depth++
		case xml.EndElement:
			depth--
		}
		if depth > depthMax {
			return 0, fmt.Errorf("its elements are nested more than %d deep", depthMax)
		}
	}
}

// tomlText is what brackets in a TOML file do not count in: comments and strings.
var tomlText = regexp.MustCompile(`#[^\n]*|"""(?s:(?:[^\\]|\\.)*?)"""|'''(?s:.*?)'''|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'`)

// tomlDepth returns how deeply the brackets of a TOML file are nested, which its reader follows by recursion.
func tomlDepth(content []byte) (deepest int) {
	if bytes.Count(content, []byte("["))+bytes.Count(content, []byte("{")) <= depthMax {
		return 0 // as in nearly every file
	}
	depth := 0
	for _, char := range tomlText.ReplaceAll(content, nil) {
		switch char {
		case '[', '{':
			depth++
			deepest = max(deepest, depth)
		case ']', '}':
			depth--
		}
	}
	return deepest
}
