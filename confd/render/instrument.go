package render

import "text/template/parse"

// Names of the functions that instrument puts into templates.
const (
	tickFunction  = "_tick"
	enterFunction = "_enter"
	leaveFunction = "_leave"
)

// instrument makes the template ask whether it may go on, wherever it could run for long without
// writing: in loops that write nothing, and where a template begins that calls others.
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
			list.Nodes = append([]parse.Node{ask(tree, tickFunction, list.Pos)}, list.Nodes...)
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
