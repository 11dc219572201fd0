// Package examples is a test only: what the documents of registrator, CoreOS and fleet tell their readers to
// type, with kvd in the place of etcd, and kvagent and kvsidekick in the place of registrator and of shell loops.
//
// A session in testdata is what a reader has on the screen: lines that begin with "$ " are typed, with "> "
// they go on, and what follows is printed then. A command that is to print something is repeated until it does: a
// registration takes a moment. Of a line that ends with "..." only what is before it has to be there. A line of
// "..." alone stands for anything, "(nothing)" for no output. "#" begins a remark. A command whose output is not
// shown is typed once, and has to succeed.
package examples
