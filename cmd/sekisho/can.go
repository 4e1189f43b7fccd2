package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sekisho/authz"
	"sekisho/authz/strictyaml"
)

func newCan(std stdio) *cobra.Command {
	var w where
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "can USER",
		Short: "List everything that a user may do",
		Long: `Can tells from the files as they are now what the policy says of a user: groups,
locks and conditions, keys and which of them are refused, roles, and every grant
with its targets, limits and conditions.

A condition has "+" if it holds now and "-" if it does not. With "?" it hangs on
what only a login can tell: the client's address, the touch of a key.

The exit status is 1 if there is no such user.`,
		Example: `  sekisho can alice
  sekisho can alice --json`,
		Args: oneWord("user"),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := w.findConfig(cmd, nil)
			if err != nil {
				return err
			}
			s, problems := load(config, nil, os.Environ())
			if problems.Err() != nil {
				return &badFiles{problems}
			}
			now := time.Now()
			meant := strictyaml.DidYouMean(args[0], s.policy.Users())
			view, ok := s.policy.ViewUser(authz.Request{User: args[0], Time: now})
			switch {
			case !ok:
				return failf(meant, "the policy has no user %q", args[0])
			case asJSON:
				return printJSON(std.out, struct {
					Time time.Time `json:"time"`
					authz.UserView
				}{now, view})
			case view.Listed:
				meant = ""
			}
			return writeUser(std.out, view, now.In(s.policy.Timezone()), meant)
		},
	}
	w.addConfig(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

// writeUser prints a user for a person. What was perhaps meant in place of a
// name that is not among the users may be empty.
func writeUser(w io.Writer, v authz.UserView, now time.Time, meant string) error {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	standing := "in no group"
	if len(v.Groups) > 0 {
		standing = "in " + and(v.Groups)
	}
	if !v.Listed {
		standing = "not among the users, and could come by certificate" + because(meant)
	}
	say("%s at %s: %s", v.User, now.Format("2006-01-02 15:04:05 MST"), standing)
	if i := slices.IndexFunc(v.Conditions, func(c authz.ConditionStep) bool { return !c.Holds && !c.Open }); i >= 0 {
		say("  nothing may be opened: %s", reasonWords(v.Conditions[i].Reason))
	}
	if len(v.Conditions) > 0 {
		say("\nLocks and conditions:")
		writeConditions(say, "  ", v.Conditions)
	}
	if len(v.Keys) > 0 {
		say("\nKeys:")
	} else if v.Listed {
		say("\nKeys: none")
	}
	for _, k := range v.Keys {
		say("  %s %s %s (%s)%s", mark(k.Reason == ""), k.Type, k.Fingerprint, printable(k.From), notTaken(k.Reason, k.Detail))
		writeConditions(say, "      ", k.Conditions)
	}
	if len(v.Authorities) > 0 {
		say("\nCertificates:")
	}
	for _, a := range v.Authorities {
		groups := ""
		if len(a.Groups) > 0 {
			groups = ", who is then in " + and(a.Groups) + " too"
		}
		say("  %s of %s %s%s%s", mark(a.Reason == ""), printable(a.Name), a.Fingerprint, groups, notTaken(a.Reason, a.Detail))
		writeConditions(say, "      ", a.Conditions)
	}
	if len(v.Roles) > 0 {
		say("\nRoles:")
	}
	for _, r := range v.Roles {
		how := ""
		switch {
		case r.Key && !r.Certificates && len(v.Authorities) > 0:
			how = ", by key only"
		case !r.Key:
			how = ", by certificate only"
		}
		say("  %s%s", r.Role, how)
		writeConditions(say, "      ", r.Conditions)
	}
	if len(v.Grants) == 0 {
		say("\nGrants: none")
	} else {
		say("\nGrants, in file order:")
	}
	for _, g := range v.Grants {
		writeUserGrant(say, g)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeUserGrant(say func(string, ...any), g authz.UserGrant) {
	how := ""
	if len(g.Authorities) > 0 {
		how = ", by certificate of " + strings.Join(g.Authorities, " or ") + " only"
	}
	say("  %s %s%s", mark(g.Holds), g.Grant, how)
	for _, t := range g.Targets {
		within := ""
		if len(t.Within) > 0 {
			within = "; within " + strings.Join(words(t.Within), ", ")
		}
		say("      %s: %s; port %s%s", t.Name, strings.Join(t.Hosts, ", "), strings.Join(t.Ports, ", "), within)
		if t.Follow > 0 {
			say("          closed %s after its name leads elsewhere", brief(t.Follow))
		}
	}
	writeConditions(say, "      ", g.Conditions)
	if g.Keep {
		say("      what runs outlives the hours")
	}
	if g.Limits.Duration > 0 {
		say("      limit: %s for each forward", brief(g.Limits.Duration))
	}
	if g.Limits.Forwards > 0 {
		say("      limit: %s at a time", many(g.Limits.Forwards, "forward"))
	}
}

// notTaken says why something is not taken, if it is not.
func notTaken(reason authz.Reason, detail string) string {
	if reason == "" {
		return ""
	}
	return because(reasonWords(reason)) + because(detail)
}
