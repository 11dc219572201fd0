package ctl

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// completeMax is how long a shell may wait for an answer to the tab key.
const completeMax = 300 * time.Millisecond

// completeKey completes a key by one level. Whatever goes wrong, there is just no proposal.
func (s *settings) completeKey(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeMax)
	defer cancel()
	if err := s.find(ctx, io.Discard); err != nil {
		return nil, directive
	}
	client, err := kvclient.New(s.client)
	if err != nil {
		return nil, directive
	}
	defer client.Close()
	dir := begun[:strings.LastIndexByte(begun, '/')+1]
	result, err := client.Read(ctx, kv.Read{Key: dir, Sorted: true})
	if err != nil {
		return nil, directive
	}
	var proposals []string
	for _, child := range result.Node.Nodes {
		proposal := dir + kv.Base(child.Key)
		if child.Dir {
			proposal += "/"
		}
		if strings.HasPrefix(proposal, begun) {
			proposals = append(proposals, proposal)
		}
	}
	return proposals, directive
}

// completeInstance completes SERVICE/INSTANCE by one level.
func (s *settings) completeInstance(f *serviceFlags) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		directory := kv.Clean(f.prefix) + "/"
		proposals, directive := s.completeKey(cmd, nil, directory+begun)
		for i := range proposals {
			proposals[i] = strings.TrimPrefix(proposals[i], directory)
		}
		return proposals, directive
	}
}
