package main

import (
	"context"
	"net/netip"

	"github.com/spf13/cobra"

	"sekisho/hostsfile"
)

func newHost(std stdio) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "host add|remove",
		Short: "Give names addresses, and take them away",
		Long: `These commands change the hosts file in its place, comments and order kept. A server
that runs follows it: what they write is in force at once.`,
		RunE: needsCommand,
	}
	cmd.AddCommand(
		newHostEdit(std, "add NAME ADDRESS", "Give a name an address", "  sekisho host add rds 10.0.11.147", hostsfile.Add),
		newHostEdit(std, "remove NAME ADDRESS", "Take an address from a name", "  sekisho host remove rds 10.0.11.147", hostsfile.Remove))
	return cmd
}

func newHostEdit(std stdio, use, short, example string, change func([]byte, string, string, netip.Addr) ([]byte, error)) *cobra.Command {
	var e editing
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("see "+cmd.CommandPath()+" --help", "%s takes a name and an address, not %d arguments", cmd.CommandPath(), len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := netip.ParseAddr(args[1])
			if err != nil {
				return usagef("write it as 10.0.11.147 or fd00::5", "%q is not an IP address", args[1])
			}
			return e.hosts(cmd, std, args[0], func(content []byte, path string) ([]byte, error) {
				return change(content, path, args[0], addr)
			})
		},
	}
	e.addFlags(cmd, false)
	return cmd
}

// addressesOf are those that a table has for a name.
func addressesOf(t *hostsfile.Table, name string) []string {
	found, _ := t.LookupNetIP(context.Background(), "ip", name)
	all := make([]string, len(found))
	for i, a := range found {
		all[i] = a.String()
	}
	return all
}
