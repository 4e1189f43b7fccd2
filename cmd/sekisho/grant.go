package main

import (
	"github.com/spf13/cobra"

	"sekisho/authz/policyedit"
	"sekisho/authz/strictyaml"
)

func newGrant(std stdio) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "grant add|remove",
		Short: "Add and remove grants of the policy",
		Long: `These commands change policy.yaml in its place, comments and order kept. They check
the result, say who gains and loses what and which live forwards would end, and ask
before they write.`,
		RunE: needsCommand,
	}
	cmd.AddCommand(newGrantAdd(std), newGrantRemove(std))
	return cmd
}

func newGrantAdd(std stdio) *cobra.Command {
	var e editing
	var g policyedit.Grant
	cmd := &cobra.Command{
		Use:   "add NAME --to TARGET --user USER|--group GROUP",
		Short: "Add a grant",
		Long: `Add puts a grant at the end of the grants of policy.yaml, where it counts after all
others. Its flags are the keys of a grant; the targets must be there.`,
		Example: `  sekisho grant add dba-db --group dba --to db --hours "Mon-Fri 09:00-19:00" --require touch`,
		Args:    oneWord("name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			g.Name = args[0]
			if len(g.To) == 0 {
				return usagef("name a target of the policy: --to db", "--to is missing")
			}
			if len(g.Users)+len(g.Groups) == 0 {
				return usagef("--user or --group says whom it is given to", "the grant is given to nobody")
			}
			return e.policy(cmd, std, "", func(content []byte, path string) ([]byte, strictyaml.Problems, error) {
				edited, err := policyedit.AddGrant(content, path, g)
				return edited, nil, err
			})
		},
	}
	e.addFlags(cmd, true)
	f := cmd.Flags()
	f.StringArrayVar(&g.Users, "user", nil, "a `user` whom it is given to; may be given several times")
	f.StringArrayVar(&g.Groups, "group", nil, "a `group` that it is given to; may be given several times")
	f.StringArrayVar(&g.To, "to", nil, "a `target` that it lets reach; may be given several times")
	f.StringArrayVar(&g.When.From, "from", nil, "an address or `network` that the client must be at")
	f.StringArrayVar(&g.When.Except, "except", nil, "an address or `network` that the client must not be at")
	f.StringArrayVar(&g.When.Hours, "hours", nil, "a `span` of the week, such as \"Mon-Fri 09:00-19:00\"")
	f.StringVar(&g.When.After, "after", "", "the first `day`")
	f.StringVar(&g.When.Until, "until", "", "the last `day`")
	f.StringArrayVar(&g.Require, "require", nil, "`touch`: a FIDO key that was touched")
	f.StringVar(&g.AtEnd, "at-end", "", "what the end of the hours does to what runs: `close` or keep")
	f.DurationVar(&g.Duration, "duration", 0, "how `long` a forward may last")
	f.IntVar(&g.Forwards, "forwards", 0, "how `many` forwards a user may have at a time")
	return cmd
}

func newGrantRemove(std stdio) *cobra.Command {
	var e editing
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a grant",
		Args:  oneWord("name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.policy(cmd, std, "", func(content []byte, path string) ([]byte, strictyaml.Problems, error) {
				edited, err := policyedit.RemoveGrant(content, path, args[0])
				return edited, nil, err
			})
		},
	}
	e.addFlags(cmd, true)
	return cmd
}
