package main

import (
	"github.com/spf13/cobra"

	"sekisho/authz"
)

func newLock(std stdio) *cobra.Command {
	var c lockCommand
	var anyway, asJSON bool
	cmd := &cobra.Command{
		Use:   "lock [USER]",
		Short: "Shut a user out at once",
		Long: `Lock ends what a user has open and lets him in no more, within a second and
whatever the policy says, until unlock. It works while the policy has errors, and
survives a restart. Without a user it lists what is locked and revoked.

It writes the file that the setting "locks" names; that the server takes it over is
waited for.`,
		Example: `  sekisho lock alice --why "laptop stolen"
  sekisho lock`,
		Args: atMostOneWord("user"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.list(cmd, std, asJSON)
			}
			return c.change(cmd, std, func(s *setup, locks *authz.Locks) (*authz.Locks, string, error) {
				what := authz.Lock{User: args[0]}
				if l := locks.Has(what); l != nil {
					return nil, "user " + args[0] + " is locked already", nil
				}
				if !userForm.MatchString(args[0]) {
					return nil, "", failf("", "%q is not a name that a user can have", args[0])
				}
				if !anyway {
					if err := s.known(cmd.Context(), wantKnown{User: args[0]}); err != nil {
						return nil, "", err
					}
				}
				return locks.With(c.sign(what)), "user " + args[0] + " is locked", nil
			})
		},
	}
	c.addFlags(cmd, true)
	cmd.Flags().BoolVar(&anyway, "anyway", false, "lock a name that the policy does not have")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	return cmd
}

func newUnlock(std stdio) *cobra.Command {
	var c lockCommand
	cmd := &cobra.Command{
		Use:   "unlock USER",
		Short: "Let a locked user in again",
		Args:  oneWord("user"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.change(cmd, std, func(_ *setup, locks *authz.Locks) (*authz.Locks, string, error) {
				what := authz.Lock{User: args[0]}
				if locks.Has(what) == nil {
					return nil, "", failf(lockedHint(locks), "user %s is not locked", args[0])
				}
				return locks.Without(c.sign(what)), "user " + args[0] + " is no longer locked", nil
			})
		},
	}
	c.addFlags(cmd, false)
	return cmd
}

// lockedHint names the users that are locked.
func lockedHint(locks *authz.Locks) string {
	var names []string
	for _, l := range locks.List() {
		if l.User != "" {
			names = append(names, l.User)
		}
	}
	if len(names) == 0 {
		return "nobody is"
	}
	return "locked are " + and(names)
}

func newLockdown(std stdio) *cobra.Command {
	var c lockCommand
	cmd := &cobra.Command{
		Use:   "lockdown on|off",
		Short: "Let nothing new begin, but for admins",
		Long: `During a lockdown no forward begins, unless the principal has the role "admin" in
the policy. What runs goes on: sekisho lock ends what a user has open.`,
		Args: oneWord("on or off"),
		RunE: func(cmd *cobra.Command, args []string) error {
			on := args[0] == "on"
			if !on && args[0] != "off" {
				return usagef("write sekisho lockdown on, or off", "lockdown is on or off, not %q", args[0])
			}
			return c.change(cmd, std, func(_ *setup, locks *authz.Locks) (*authz.Locks, string, error) {
				switch is := locks.Has(authz.Lock{}) != nil; {
				case is && on:
					return nil, "there is a lockdown already", nil
				case !is && !on:
					return nil, "", failf("", "there is no lockdown")
				case on:
					return locks.With(c.sign(authz.Lock{})), "lockdown: nothing new begins, but for admins", nil
				}
				return locks.Without(c.sign(authz.Lock{})), "the lockdown is over", nil
			})
		},
	}
	c.addFlags(cmd, true)
	return cmd
}
