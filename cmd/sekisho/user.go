package main

import (
	"github.com/spf13/cobra"

	"sekisho/authz/policyedit"
	"sekisho/authz/strictyaml"
)

func newUser(std stdio) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user add|remove",
		Short: "Add and remove users of the policy",
		Long: `These commands change policy.yaml in its place, comments and order kept. They check
the result, say who gains and loses what and which live forwards would end, and ask
before they write.`,
		RunE: needsCommand,
	}
	cmd.AddCommand(newUserAdd(std), newUserRemove(std))
	return cmd
}

func newUserAdd(std stdio) *cobra.Command {
	var e editing
	var keys, groups []string
	cmd := &cobra.Command{
		Use:     "add NAME --key FILE",
		Short:   "Add a user",
		Example: `  sekisho user add alice --key alice.pub --group developers`,
		Args:    oneWord("name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			u := policyedit.User{Name: args[0], Groups: groups}
			if len(keys) == 0 {
				return usagef("give the .pub file of the person's key; for one who comes by certificate alone no user is needed", "--key is missing")
			}
			for _, file := range keys {
				found, err := readUserKeys(file, std.in)
				if err != nil {
					return err
				}
				for _, k := range found {
					u.Keys = append(u.Keys, k.line())
				}
			}
			return e.policy(cmd, std, args[0], func(content []byte, path string) ([]byte, strictyaml.Problems, error) {
				edited, err := policyedit.AddUser(content, path, u)
				return edited, nil, err
			})
		},
	}
	e.addFlags(cmd, true)
	f := cmd.Flags()
	f.StringArrayVar(&keys, "key", nil, "a `file` of public keys by which the user logs in; may be given several times")
	f.StringArrayVar(&groups, "group", nil, "a `group` that the user is in; may be given several times")
	return cmd
}

func newUserRemove(std stdio) *cobra.Command {
	var e editing
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a user",
		Long: `Remove takes a user out of policy.yaml. It is in force after a reload; to shut
somebody out at once there is sekisho lock.`,
		Args: oneWord("name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.policy(cmd, std, args[0], func(content []byte, path string) ([]byte, strictyaml.Problems, error) {
				edited, err := policyedit.RemoveUser(content, path, args[0])
				return edited, mentions(edited, path, args[0]), err
			})
		},
	}
	e.addFlags(cmd, true)
	return cmd
}

// needsCommand is for commands that are nothing without another.
func needsCommand(cmd *cobra.Command, args []string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if len(args) == 0 {
		return usagef("see "+cmd.CommandPath()+" --help", "%s needs %s", cmd.CommandPath(), or(names))
	}
	return usagef(strictyaml.DidYouMean(args[0], names), "%s has no command %q", cmd.CommandPath(), args[0])
}
