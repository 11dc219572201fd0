package render

import (
	"fmt"
	"strings"
	"text/template/parse"
)

// Names of the functions that instrument puts into templates.
const (
	enterFunction = "_enter"
	leaveFunction = "_leave"
)

// instrument makes the template ask whether it may go on, wherever it could run for long without
// writing: loops that write nothing write an empty text in each round, which the run's buffer refuses when
// it is to stop, and costs less than a call; where a template begins that calls others, a function is called.
func instrument(tree *parse.Tree) {
	if tree.Root == nil {
		return
	}
	calls := false
	eachList(tree.Root, func(list *parse.ListNode, loop bool) {
		for _, node := range list.Nodes {
			if node.Type() == parse.NodeTemplate {
				calls = true
			}
		}
		if loop && !writes(list) {
			nothing := &parse.TextNode{NodeType: parse.NodeText, Pos: list.Pos}
			list.Nodes = append([]parse.Node{nothing}, list.Nodes...)
		}
	})
	if calls {
		nodes := append([]parse.Node{ask(tree, enterFunction, tree.Root.Pos)}, tree.Root.Nodes...)
		tree.Root.Nodes = append(nodes, ask(tree, leaveFunction, tree.Root.Pos))
	}
}

// eachList calls visit for list and every list in it; loop: it is the body of a range.
func eachList(list *parse.ListNode, visit func(list *parse.ListNode, loop bool)) {
	var walk func(list *parse.ListNode, loop bool)
	branch := func(b *parse.BranchNode, loop bool) {
		walk(b.List, loop)
		walk(b.ElseList, false)
	}
	walk = func(list *parse.ListNode, loop bool) {
		if list == nil {
			return
		}
		for _, node := range list.Nodes {
			switch node := node.(type) {
			case *parse.IfNode:
				branch(&node.BranchNode, false)
			case *parse.WithNode:
				branch(&node.BranchNode, false)
			case *parse.RangeNode:
				branch(&node.BranchNode, true)
			}
		}
		visit(list, loop)
	}
	walk(list, false)
}

// writes reports whether each round through list writes something, if only an empty text.
func writes(list *parse.ListNode) bool {
	for _, node := range list.Nodes {
		switch node := node.(type) {
		case *parse.TextNode:
			return true
		case *parse.ActionNode:
			if len(node.Pipe.Decl) == 0 {
				return true
			}
		case *parse.BreakNode, *parse.ContinueNode:
			return false
		case *parse.IfNode, *parse.WithNode: // may leave the round before anything is written
			return false
		}
	}
	return false
}

// ask returns {{if NAME}}{{end}}.
func ask(tree *parse.Tree, name string, pos parse.Pos) parse.Node {
	line := 1
	function := parse.NewIdentifier(name).SetPos(pos).SetTree(tree)
	return &parse.IfNode{BranchNode: parse.BranchNode{
		NodeType: parse.NodeIf, Pos: pos, Line: line,
		Pipe: &parse.PipeNode{NodeType: parse.NodePipe, Pos: pos, Line: line, Cmds: []*parse.CommandNode{
			{NodeType: parse.NodeCommand, Pos: pos, Args: []parse.Node{function}},
		}},
		List: &parse.ListNode{NodeType: parse.NodeList, Pos: pos},
	}}
}

// nestingMax is how deep blocks of a template may lie in each other. text/template goes down into them,
// and a stack that is used up ends the program.
const nestingMax = 250

// checkNesting looks whether text is nested too deep to be parsed.
func checkNesting(name, text string) error {
	var blocks []int // the open ones: how many "else if" each has, which lie in each other as well
	depth, line := 0, 1
	for {
		before, action, found := strings.Cut(text, "{{")
		if !found {
			return nil
		}
		line += strings.Count(before, "\n")
		text = action
		inside, _, _ := strings.Cut(action[:min(len(action), 64)], "}}")
		words := strings.Fields(strings.TrimSuffix(strings.TrimPrefix(inside, "-"), "-"))
		switch {
		case len(words) == 0:
		case words[0] == "if" || words[0] == "with" || words[0] == "range" || words[0] == "block" || words[0] == "define":
			blocks = append(blocks, 1)
			depth++
		case words[0] == "else" && len(words) > 1 && len(blocks) > 0:
			blocks[len(blocks)-1]++
			depth++
		case words[0] == "end" && len(blocks) > 0:
			depth -= blocks[len(blocks)-1]
			blocks = blocks[:len(blocks)-1]
		}
		if depth > nestingMax {
			return fmt.Errorf("template: %s:%d: blocks lie in each other more than %d deep", name, line, nestingMax)
		}
	}
}
