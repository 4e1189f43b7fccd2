package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sekisho/authz"
)

// noSuchName is the reason of a name that leads nowhere. It is not one of the
// policy's.
const noSuchName authz.Reason = "no_such_name"

func newWhoCan(std stdio) *cobra.Command {
	var w where
	var ask whoQuestion
	var from, at string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "who-can HOST:PORT",
		Short: "List everybody who may reach a target",
		Long: `Who-can tells from the files as they are now who may reach a target, by which
grant and on what conditions: users, and those for whom authorities vouch. Those
who could but for a condition that fails stand in a list of their own.

A condition on the client's address is judged with --from, and shown with "?"
without, as is what only a login can tell: the touch of a key, a certificate. DNS
is asked only with --resolve. A user's grants are shown up to the first that
allows without such a condition: sekisho can USER lists them all.

The exit status is 0 if anybody may, and 1 if nobody.`,
		Example: `  sekisho who-can rds:3306
  sekisho who-can 10.0.1.5:22 --from 203.0.113.9 --at "2027-03-31 18:30" --json`,
		Args: oneWord("target"),
		RunE: func(cmd *cobra.Command, args []string) error {
			host, port, err := splitTarget(args[0])
			if err != nil {
				return err
			}
			ask.request = authz.Request{Host: host, Port: port, Time: time.Now()}
			s, err := w.circumstances(cmd, &ask.request, from, at)
			if err != nil {
				return err
			}
			answer := ask.answer(cmd.Context(), s)
			if asJSON {
				err = printJSON(std.out, answer)
			} else {
				err = answer.write(std.out, s.policy.Timezone())
			}
			if err == nil && len(answer.May) == 0 {
				err = errTold
			}
			return err
		},
	}
	w.addConfig(cmd)
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "the `IP` address to connect from (default: not judged)")
	f.StringVar(&at, "at", "", "the `time` to decide for, in the policy's zone: 2027-03-31 18:30 (default: now)")
	f.BoolVar(&ask.resolve, "resolve", false, "ask DNS, where the server would")
	f.BoolVar(&asJSON, "json", false, "print the lists as JSON")
	return cmd
}

// A whoQuestion is what who-can is asked.
type whoQuestion struct {
	request authz.Request
	resolve bool
}

// A whoAnswer is what who-can prints.
type whoAnswer struct {
	Host      string         `json:"host"`
	Port      uint32         `json:"port"`
	Source    netip.Addr     `json:"source,omitzero"`
	Time      time.Time      `json:"time"`
	Reason    authz.Reason   `json:"reason,omitempty"` // why nobody can, whoever it is
	Detail    string         `json:"detail,omitempty"`
	Addresses []fencedAddr   `json:"addresses,omitempty"`
	Resolving string         `json:"resolving,omitempty"` // why there are no addresses
	May       []reachingUser `json:"may"`
	Could     []reachingUser `json:"could"` // but for a condition that fails
}

// A fencedAddr is an address of the host, with what the fence says to it.
type fencedAddr struct {
	Addr   netip.Addr   `json:"addr"`
	From   string       `json:"from"` // hosts, dns or request
	Reason authz.Reason `json:"reason,omitempty"`
	Detail string       `json:"detail,omitempty"`
}

// A reachingUser is somebody together with the addresses that he may reach.
type reachingUser struct {
	authz.Reacher
	At []netip.Addr `json:"at,omitempty"`
}

// answer decides as a forward does: on the name, and on each of its addresses.
func (q *whoQuestion) answer(ctx context.Context, s *setup) *whoAnswer {
	r := q.request
	a := &whoAnswer{Host: r.Host, Port: r.Port, Source: r.Source, Time: r.Time, May: []reachingUser{}, Could: []reachingUser{}}
	named := s.policy.WhoCan(r)
	if named.Reason != "" {
		a.Reason, a.Detail = named.Reason, named.Detail
		return a
	}
	dns := slices.ContainsFunc(named.All, func(o authz.Reacher) bool { return o.DNS })
	addrs, from, err := s.addresses(ctx, named.Host, named.Literal, dns && q.resolve)
	if err != nil {
		a.Resolving = err.Error()
		if dns && !q.resolve {
			a.Resolving = "the name is not in the hosts file; DNS is asked with --resolve"
		}
		for _, o := range named.All {
			if o.Effect == authz.Allow && (q.resolve || !o.DNS) {
				o = unresolved(o, dns)
			} // else he may, as far as is known
			a.add(reachingUser{Reacher: o})
		}
		return a
	}
	all := map[string]*reachingUser{}
	for _, addr := range addrs {
		r.Addr = addr.Unmap()
		found := s.policy.WhoCan(r)
		a.Addresses = append(a.Addresses, fencedAddr{r.Addr, from, found.Reason, found.Detail})
		for _, o := range found.All {
			known := all[who(o)]
			if known == nil || known.Effect != authz.Allow && o.Effect == authz.Allow {
				known = &reachingUser{Reacher: o}
				all[who(o)] = known
			}
			if o.Effect == authz.Allow {
				known.At = append(known.At, r.Addr)
			}
		}
	}
	for _, o := range named.All { // in their order
		known := all[who(o)]
		if known == nil {
			continue
		}
		if known.DNS = o.DNS; from == "dns" && known.Effect == authz.Allow && !o.DNS {
			known = &reachingUser{Reacher: unresolved(known.Reacher, true)}
		}
		a.add(*known)
	}
	return a
}

func (a *whoAnswer) add(u reachingUser) {
	if u.Effect == authz.Allow {
		a.May = append(a.May, u)
	} else {
		a.Could = append(a.Could, u)
	}
}

// who tells users and authorities from each other.
func who(o authz.Reacher) string { return o.User + "\x00" + o.Authority }

// unresolved is somebody for whom the name leads nowhere.
func unresolved(o authz.Reacher, dns bool) authz.Reacher {
	o.Effect, o.Reason, o.Detail = authz.Deny, noSuchName, "it is not in the hosts file"
	switch {
	case o.DNS:
		o.Detail += ", nor known to DNS"
	case dns:
		o.Detail += ", and DNS is not asked for him: no grant of his names it, and it is in no zone of dns.zones"
	}
	return o
}

// parseFrom reads the address after --from.
func parseFrom(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return addr, usagef("write it as 203.0.113.9 or 2001:db8::1", "--from %q is not an IP address", s)
	}
	return addr, nil
}

// write prints the answer for a person.
func (a *whoAnswer) write(w io.Writer, zone *time.Location) error {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	source := ""
	if a.Source.IsValid() {
		source = " from " + a.Source.String()
	}
	target := net.JoinHostPort(a.Host, strconv.FormatUint(uint64(a.Port), 10))
	say("%s%s at %s: %s", printable(target), source, a.Time.In(zone).Format("2006-01-02 15:04:05 MST"), a.verdict())
	if len(a.Addresses) > 0 {
		say("\nAddresses of %s, from %s:", a.Host, placeWords[a.Addresses[0].From])
		for _, f := range a.Addresses {
			text := ""
			if f.Reason != "" {
				text = because(reasonWords(f.Reason)) + because(f.Detail)
			}
			say("  %s %s%s", mark(f.Reason == ""), f.Addr, text)
		}
	} else if a.Resolving != "" {
		say("\nAddresses of %s: none are known%s", a.Host, because(a.Resolving))
	}
	if len(a.May) > 0 {
		say("\nMay:")
		for _, u := range a.May {
			say("  + %s%s", whoWords(u.Reacher), a.partly(u))
			writeReacher(say, u.Reacher)
		}
	}
	if len(a.Could) > 0 {
		say("\nCould, but for what fails:")
		for _, u := range a.Could {
			detail := ""
			if u.Reason == noSuchName { // no condition shows it
				detail = because(u.Detail)
			}
			say("  - %s: %s%s", whoWords(u.Reacher), reasonWords(u.Reason), detail)
			writeReacher(say, u.Reacher)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// verdict says in the first line how many may.
func (a *whoAnswer) verdict() string {
	if a.Reason != "" {
		return "nobody may: " + reasonWords(a.Reason) + because(a.Detail)
	}
	users := 0
	var authorities []string
	for _, u := range a.May {
		if u.User != "" {
			users++
		} else {
			authorities = append(authorities, u.Authority)
		}
	}
	switch {
	case len(a.May) == 0:
		return "nobody may"
	case users == 0:
		return "those may for whom " + and(authorities) + " vouches"
	case len(authorities) > 0:
		return many(users, "user") + " may, and those for whom " + and(authorities) + " vouches"
	}
	return many(users, "user") + " may"
}

// partly names the addresses that somebody may reach, if not all that the
// fence admits.
func (a *whoAnswer) partly(u reachingUser) string {
	open := 0
	for _, f := range a.Addresses {
		if f.Reason == "" {
			open++
		}
	}
	if len(u.At) == open {
		return ""
	}
	return ", only at " + and(words(u.At))
}

func whoWords(o authz.Reacher) string {
	if o.User != "" {
		return o.User
	}
	return fmt.Sprintf("whoever the authority %q vouches for (%s)", o.Authority, strings.Join(o.Principals, ", "))
}

func writeReacher(say func(string, ...any), o authz.Reacher) {
	writeConditions(say, "      ", o.Conditions)
	for _, g := range o.Grants {
		text := fitting(g)
		if !g.Fits {
			text = g.Detail // outside within
		}
		say("      %s %s%s", mark(g.Fits && g.Holds), g.Grant, because(text))
		writeConditions(say, "          ", g.Conditions)
	}
}
