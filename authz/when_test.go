package authz

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

const whenPolicy = `
version: 1
timezone: Asia/Tokyo
users:
  - {name: alice, groups: [dev], keys: [KEY1]}
  - {name: bob, groups: [dev], keys: [KEY2], when: {from: [203.0.113.0/24, "2001:db8::/32"], except: [203.0.113.9, "2001:db8::9"], after: 2026-12-01, until: 2027-03-31, hours: [06:00-22:00]}}
  - {name: carol, groups: [dev], keys: [KEY3], require: [touch]}
targets:
  - {name: from, hosts: [from], ports: [22]}
  - {name: except, hosts: [except], ports: [22]}
  - {name: dates, hosts: [dates], ports: [22]}
  - {name: hours, hosts: [hours], ports: [22]}
  - {name: keep, hosts: [keep], ports: [22]}
  - {name: touch, hosts: [touch], ports: [22]}
  - {name: all, hosts: [all], ports: [22]}
  - {name: shift, hosts: [shift], ports: [22]}
  - {name: net, hosts: [10.0.5.0/24], ports: [80]}
  - {name: narrow, hosts: [narrow], ports: [22], within: [10.0.5.0/24]}
  - {name: wide, hosts: [narrow], ports: [22]}
  - {name: free, hosts: [free], ports: [22]}
grants:
  - {name: from, groups: [dev], to: [from], when: {from: [203.0.113.0/24, 198.51.100.7]}}
  - {name: except, groups: [dev], to: [except], when: {except: [203.0.113.9, 198.51.100.0/24]}}
  - {name: dates, groups: [dev], to: [dates], when: {after: 2027-01-10 12:00, until: 2027-01-20 18:00}}
  - {name: hours, groups: [dev], to: [hours], when: {hours: ["Mon-Fri 09:00-19:00"]}, at_end: close}
  - {name: keep, groups: [dev], to: [keep], when: {hours: ["Mon-Fri 09:00-19:00"], until: 2027-02-28}, at_end: keep, limits: {duration: 8h, forwards: 20}}
  - {name: touch, groups: [dev], to: [touch], require: [touch]}
  - {name: all, groups: [dev], to: [all], when: {from: [203.0.113.0/24], except: [203.0.113.9], after: 2027-01-10, until: 2027-01-20, hours: ["09:00-19:00"]}, require: [touch]}
  - {name: shift-day, groups: [dev], to: [shift], when: {hours: ["08:00-16:00"]}, at_end: keep, limits: {forwards: 1}}
  - {name: shift-late, groups: [dev], to: [shift], when: {hours: ["14:00-22:00"]}, limits: {forwards: 2}}
  - {name: shift-touch, groups: [dev], to: [shift], require: [touch], limits: {forwards: 3}}
  - {name: net, groups: [dev], to: [net], when: {hours: ["09:00-10:00"]}}
  - {name: narrow, groups: [dev], to: [narrow]}
  - {name: wide, groups: [dev], to: [wide], when: {hours: ["09:00-10:00"]}}
  - {name: free, groups: [dev], to: [free]}
`

// at is a time in Tokyo.
func at(s string) time.Time { return inZone("Asia/Tokyo", s) }

func inZone(zone, s string) time.Time {
	loc, err := time.LoadLocation(zone)
	if err != nil {
		panic(err)
	}
	for _, form := range []string{minuteForm, "2006-01-02 15:04:05", "2006-01-02 15:04:05.999999999"} {
		if t, err := time.ParseInLocation(form, s, loc); err == nil {
			return t
		}
	}
	panic(s)
}

func TestConditions(t *testing.T) {
	p := mustParse(t, whenPolicy, testOptions)
	const wed, sat = "2027-01-13 12:30", "2027-01-16 12:30"
	type q struct {
		user, host, source, at string
		touch, running         bool
		grant                  string
	}
	tests := []struct {
		name   string
		q      q
		reason Reason
		grant  string
		next   string
	}{
		{"no condition, nothing known", q{user: "alice", host: "free"}, Granted, "free", ""},
		{"no condition, all known", q{user: "alice", host: "free", source: "203.0.113.5", at: wed, touch: true}, Granted, "free", ""},
		{"from a network", q{user: "alice", host: "from", source: "203.0.113.5"}, Granted, "from", ""},
		{"from an address", q{user: "alice", host: "from", source: "198.51.100.7"}, Granted, "from", ""},
		{"from the same, mapped", q{user: "alice", host: "from", source: "::ffff:198.51.100.7"}, Granted, "from", ""},
		{"from beside it", q{user: "alice", host: "from", source: "198.51.100.8"}, NotFrom, "", ""},
		{"from nowhere", q{user: "alice", host: "from"}, NotFrom, "", ""},
		{"not excepted", q{user: "alice", host: "except", source: "203.0.113.8"}, Granted, "except", ""},
		{"excepted", q{user: "alice", host: "except", source: "203.0.113.9"}, Excepted, "", ""},
		{"excepted, mapped", q{user: "alice", host: "except", source: "::ffff:203.0.113.9"}, Excepted, "", ""},
		{"excepted by a network", q{user: "alice", host: "except", source: "198.51.100.77"}, Excepted, "", ""},
		{"nobody knows whether excepted", q{user: "alice", host: "except"}, Excepted, "", ""},
		{"before after", q{user: "alice", host: "dates", at: "2027-01-10 11:59:59.999"}, NotYet, "", "2027-01-10 12:00"},
		{"at after", q{user: "alice", host: "dates", at: "2027-01-10 12:00"}, Granted, "dates", "2027-01-20 18:00"},
		{"just before until", q{user: "alice", host: "dates", at: "2027-01-20 17:59:59.999"}, Granted, "dates", "2027-01-20 18:00"},
		{"at until", q{user: "alice", host: "dates", at: "2027-01-20 18:00"}, Expired, "", ""},
		{"no time against dates", q{user: "alice", host: "dates"}, NotYet, "", ""},
		{"in hours", q{user: "alice", host: "hours", at: wed}, Granted, "hours", "2027-01-13 19:00"},
		{"as hours begin", q{user: "alice", host: "hours", at: "2027-01-13 09:00"}, Granted, "hours", "2027-01-13 19:00"},
		{"just before hours", q{user: "alice", host: "hours", at: "2027-01-13 08:59:59.999"}, OutsideHours, "", "2027-01-13 09:00"},
		{"just before hours end", q{user: "alice", host: "hours", at: "2027-01-13 18:59:59.999"}, Granted, "hours", "2027-01-13 19:00"},
		{"as hours end", q{user: "alice", host: "hours", at: "2027-01-13 19:00"}, OutsideHours, "", "2027-01-14 09:00"},
		{"on another day", q{user: "alice", host: "hours", at: sat}, OutsideHours, "", "2027-01-18 09:00"},
		{"no time against hours", q{user: "alice", host: "hours"}, OutsideHours, "", ""},
		{"at_end: close cuts what runs", q{user: "alice", host: "hours", at: sat, running: true}, OutsideHours, "", "2027-01-18 09:00"},
		{"at_end: keep opens nothing", q{user: "alice", host: "keep", at: sat}, OutsideHours, "", "2027-01-18 09:00"},
		{"at_end: keep keeps what runs", q{user: "alice", host: "keep", at: sat, running: true}, Granted, "keep", "2027-03-01 00:00"},
		{"at_end: keep keeps what it carries", q{user: "alice", host: "keep", at: sat, running: true, grant: "keep"}, Granted, "keep", "2027-03-01 00:00"},
		{"at_end: keep keeps nothing that another carries", q{user: "alice", host: "keep", at: sat, running: true, grant: "hours"}, OutsideHours, "", "2027-01-18 09:00"},
		{"a grant without running opens nothing", q{user: "alice", host: "keep", at: sat, grant: "keep"}, OutsideHours, "", "2027-01-18 09:00"},
		{"at_end: keep does not keep past until", q{user: "alice", host: "keep", at: "2027-03-01 00:00", running: true}, Expired, "", ""},
		{"at_end: keep does not keep against the user's hours", q{user: "bob", host: "keep", source: "203.0.113.5", at: "2027-01-13 22:00", running: true}, OutsideHours, "", "2027-01-14 06:00"},
		{"touched", q{user: "alice", host: "touch", touch: true}, Granted, "touch", ""},
		{"not touched", q{user: "alice", host: "touch"}, NeedsTouch, "", ""},
		{"the user's require", q{user: "carol", host: "free"}, NeedsTouch, "", ""},
		{"the user's require, fulfilled", q{user: "carol", host: "free", touch: true}, Granted, "free", ""},

		// Which comes first.
		{"all hold", q{user: "alice", host: "all", source: "203.0.113.5", at: wed, touch: true}, Granted, "all", "2027-01-13 19:00"},
		{"from before all", q{user: "alice", host: "all", source: "10.0.0.9", at: "2027-01-25 03:00"}, NotFrom, "", ""},
		{"except before dates", q{user: "alice", host: "all", source: "203.0.113.9", at: "2027-01-25 03:00"}, Excepted, "", ""},
		{"after before hours", q{user: "alice", host: "all", source: "203.0.113.5", at: "2027-01-09 03:00"}, NotYet, "", "2027-01-10 00:00"},
		{"until before hours", q{user: "alice", host: "all", source: "203.0.113.5", at: "2027-01-21 03:00"}, Expired, "", ""},
		{"the last day of until", q{user: "alice", host: "all", source: "203.0.113.5", at: "2027-01-20 23:59:59.999"}, OutsideHours, "", "2027-01-21 00:00"},
		{"hours before touch", q{user: "alice", host: "all", source: "203.0.113.5", at: "2027-01-13 03:00"}, OutsideHours, "", "2027-01-13 09:00"},
		{"touch at last", q{user: "alice", host: "all", source: "203.0.113.5", at: wed}, NeedsTouch, "", "2027-01-13 19:00"},

		// The user's come before the grant's.
		{"the user's from", q{user: "bob", host: "free", source: "10.0.0.9", at: wed}, NotFrom, "", ""},
		{"the user's except", q{user: "bob", host: "free", source: "203.0.113.9", at: wed}, Excepted, "", ""},
		{"the user's except, in IPv6", q{user: "bob", host: "free", source: "2001:db8::9", at: wed}, Excepted, "", ""},
		{"the user's network, in IPv6", q{user: "bob", host: "free", source: "2001:db8::8", at: wed}, Granted, "free", "2027-01-13 22:00"},
		{"the user's after", q{user: "bob", host: "free", source: "203.0.113.5", at: "2026-11-30 23:59"}, NotYet, "", "2026-12-01 00:00"},
		{"the user's until", q{user: "bob", host: "free", source: "203.0.113.5", at: "2027-04-01 00:00"}, Expired, "", ""},
		{"the user's last day", q{user: "bob", host: "free", source: "203.0.113.5", at: "2027-03-31 21:00"}, Granted, "free", "2027-03-31 22:00"},
		{"the user's hours", q{user: "bob", host: "free", source: "203.0.113.5", at: "2027-03-31 23:00"}, OutsideHours, "", "2027-04-01 00:00"},
		{"the user's hours before the grant's except", q{user: "bob", host: "except", source: "203.0.113.7", at: "2027-01-13 05:00"}, OutsideHours, "", "2027-01-13 06:00"},
		{"the earlier of two edges", q{user: "bob", host: "hours", source: "203.0.113.5", at: wed}, Granted, "hours", "2027-01-13 19:00"},
		{"no grant comes before the user's conditions", q{user: "bob", host: "other", source: "10.0.0.9", at: wed}, NoGrant, "", ""},

		// The first grant that holds.
		{"the first shift", q{user: "alice", host: "shift", at: "2027-01-13 09:00"}, Granted, "shift-day", "2027-01-13 16:00"},
		{"both shifts", q{user: "alice", host: "shift", at: "2027-01-13 15:00"}, Granted, "shift-day", "2027-01-13 16:00"},
		{"the second shift", q{user: "alice", host: "shift", at: "2027-01-13 16:00"}, Granted, "shift-late", "2027-01-13 22:00"},
		{"the third grant, until the first takes over", q{user: "alice", host: "shift", at: "2027-01-13 23:00", touch: true}, Granted, "shift-touch", "2027-01-14 08:00"},
		{"none: the reason of the first", q{user: "alice", host: "shift", at: "2027-01-13 23:00"}, OutsideHours, "", "2027-01-14 08:00"},
		{"what the second carries does not go over to the first", q{user: "alice", host: "shift", at: "2027-01-13 18:00", running: true, grant: "shift-late"}, Granted, "shift-late", "2027-01-13 22:00"},
		{"what the first carries stays", q{user: "alice", host: "shift", at: "2027-01-13 18:00", running: true, grant: "shift-day"}, Granted, "shift-day", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Request{User: tt.q.user, Key: AnyKey, Host: tt.q.host, Port: 22, Touch: tt.q.touch, Running: tt.q.running, Grant: tt.q.grant}
			if tt.q.source != "" {
				r.Source = netip.MustParseAddr(tt.q.source)
			}
			if tt.q.at != "" {
				r.Time = at(tt.q.at)
			}
			var next time.Time
			if tt.next != "" {
				next = at(tt.next)
			}
			for _, addr := range []netip.Addr{{}, netip.MustParseAddr("10.0.5.5")} {
				r.Addr = addr
				d := p.Decide(r)
				if d.Reason != tt.reason || d.Grant != tt.grant || (d.Effect == Allow) != (tt.reason == Granted) || (d.Detail == "") != (d.Effect == Allow) {
					t.Errorf("%v: %v %s by %q (%s), want %s by %q", addr, d.Effect, d.Reason, d.Grant, d.Detail, tt.reason, tt.grant)
				}
				if !d.Next.Equal(next) {
					t.Errorf("%v: next %v, want %v", addr, d.Next.In(p.Timezone()), next)
				}
				checkExplanation(t, p, r)
			}
		})
	}
}

func TestConditionsMeetTheRest(t *testing.T) {
	p := mustParse(t, whenPolicy, testOptions)
	in, out := at("2027-01-13 09:30"), at("2027-01-13 12:30")
	for _, tt := range []struct {
		name   string
		host   string
		port   uint32
		addr   string
		at     time.Time
		reason Reason
		grant  string
	}{
		{"a name that may lie in a network", "any", 80, "", in, Granted, "net"},
		{"a name that may lie in a network, out of hours", "any", 80, "", out, OutsideHours, ""},
		{"a name that does lie in a network, out of hours", "any", 80, "10.0.5.5", out, OutsideHours, ""},
		{"a name that lies elsewhere, out of hours", "any", 80, "10.0.6.5", out, NoGrant, ""},
		{"a literal, out of hours", "10.0.5.5", 80, "", out, OutsideHours, ""},
		{"the fence comes before conditions", "any", 80, "127.0.0.2", out, Loopback, ""},
		{"within, and a later grant holds", "narrow", 22, "10.0.6.6", in, Granted, "wide"},
		{"within, and a later grant would allow but for its hours", "narrow", 22, "10.0.6.6", out, OutsideHours, ""},
		{"inside within", "narrow", 22, "10.0.5.6", out, Granted, "narrow"},
	} {
		r := Request{User: "alice", Key: AnyKey, Host: tt.host, Port: tt.port, Time: tt.at}
		if tt.addr != "" {
			r.Addr = netip.MustParseAddr(tt.addr)
		}
		if d := p.Decide(r); d.Reason != tt.reason || d.Grant != tt.grant {
			t.Errorf("%s: %s by %q (%s)", tt.name, d.Reason, d.Grant, d.Detail)
		}
		checkExplanation(t, p, r)
	}
}

func TestNextOfManyGrants(t *testing.T) {
	text := whenPolicy + "  - {name: own, users: [alice], to: [free], when: {hours: [\"01:00-02:00\"]}}\n"
	for hour := 20; hour > 0; hour-- { // the earliest last
		text += fmt.Sprintf("  - {name: at-%d, users: [alice], to: [net], when: {hours: [\"%02d:00-%02d:30\"]}}\n", hour, hour, hour)
	}
	p := mustParse(t, text, testOptions)
	for _, tt := range []struct {
		host       string
		port       uint32
		at, next   string
		reason     Reason
		addr       string
		thenReason Reason
	}{
		{"10.0.5.5", 80, "2027-01-13 00:45", "2027-01-13 01:00", OutsideHours, "10.0.5.5", Granted},
		{"any", 80, "2027-01-13 00:45", "2027-01-13 01:00", OutsideHours, "", Granted},
		{"10.0.5.5", 80, "2027-01-13 01:15", "2027-01-13 01:30", Granted, "10.0.5.5", OutsideHours},
		{"10.0.5.5", 80, "2027-01-13 20:30", "2027-01-14 01:00", OutsideHours, "10.0.5.5", Granted},
		{"free", 22, "2027-01-13 00:45", "", Granted, "10.0.5.5", ""}, // the later grant does not matter
	} {
		r := Request{User: "alice", Key: AnyKey, Host: tt.host, Port: tt.port, Time: at(tt.at)}
		if tt.addr != "" {
			r.Addr = netip.MustParseAddr(tt.addr)
		}
		d := p.Decide(r)
		if d.Reason != tt.reason || d.Next.IsZero() != (tt.next == "") || tt.next != "" && !d.Next.Equal(at(tt.next)) {
			t.Errorf("%s at %s: %s, next %v", tt.host, tt.at, d.Reason, d.Next.In(p.Timezone()))
		}
		if r.Time = d.Next; tt.next != "" && p.Decide(r).Reason != tt.thenReason {
			t.Errorf("%s at %s: %s", tt.host, tt.next, p.Decide(r).Reason)
		}
	}
}

func TestLimits(t *testing.T) {
	p := mustParse(t, whenPolicy, testOptions)
	for host, want := range map[string]Limits{"keep": {8 * time.Hour, 20}, "shift": {Forwards: 1}, "free": {}} {
		if d := p.Decide(Request{User: "alice", Key: AnyKey, Host: host, Port: 22, Time: at("2027-01-13 09:00")}); d.Effect != Allow || d.Limits != want {
			t.Errorf("%s: %+v", host, d)
		}
		if d := p.Decide(Request{User: "alice", Key: AnyKey, Host: host, Port: 22}); d.Effect == Deny && d.Limits != (Limits{}) {
			t.Errorf("%s: limits of a denial: %+v", host, d)
		}
	}
}

func TestDetailsOfConditions(t *testing.T) {
	p := mustParse(t, whenPolicy+`  - {name: many, users: [alice], to: [net], when: {hours: ["Mon-Fri 09:00-19:00", "Sat,Sun 22:00-06:00 Europe/Berlin"]}}
`, testOptions)
	from := func(s string) Request { return Request{Source: netip.MustParseAddr(s), Time: at("2027-01-16 12:30")} }
	for _, tt := range []struct {
		user, host string
		port       uint32
		req        Request
		want       string
	}{
		{"alice", "hours", 22, from("10.0.0.9"), `grant "hours" allows Mon-Fri 09:00-19:00 Asia/Tokyo; it is Sat 12:30 there`},
		{"alice", "hours", 22, Request{}, `grant "hours" allows Mon-Fri 09:00-19:00 Asia/Tokyo; the time is not known`},
		{"alice", "from", 22, from("10.0.0.9"), `grant "from" allows from 203.0.113.0/24, 198.51.100.7; the client is at 10.0.0.9`},
		{"alice", "from", 22, Request{}, `grant "from" allows from 203.0.113.0/24, 198.51.100.7; the address of the client is not known`},
		{"alice", "except", 22, from("203.0.113.9"), `grant "except" allows nothing from 203.0.113.9, 198.51.100.0/24; the client is at 203.0.113.9`},
		{"alice", "dates", 22, Request{Time: at("2027-01-10 11:59")}, `grant "dates" allows from 2027-01-10 12:00 Asia/Tokyo on; it is 2027-01-10 11:59 there`},
		{"alice", "dates", 22, Request{Time: at("2027-01-20 18:00")}, `grant "dates" allows until 2027-01-20 18:00 Asia/Tokyo; it is 2027-01-20 18:00 there`},
		{"alice", "touch", 22, Request{}, `grant "touch" needs a key whose signature shows that it was touched`},
		{"bob", "free", 22, from("10.0.0.9"), `bob is allowed from 203.0.113.0/24, 2001:db8::/32; the client is at 10.0.0.9`},
		{"bob", "free", 22, Request{Source: netip.MustParseAddr("203.0.113.5"), Time: at("2027-04-01 00:00")}, `bob is allowed until 2027-03-31 Asia/Tokyo; it is 2027-04-01 00:00 there`},
		{"carol", "free", 22, Request{}, `carol needs a key whose signature shows that it was touched`},
	} {
		r := tt.req
		r.User, r.Key, r.Host, r.Port = tt.user, AnyKey, tt.host, tt.port
		if d := p.Decide(r); d.Detail != tt.want {
			t.Errorf("got  %s\nwant %s", d.Detail, tt.want)
		}
	}
	e := p.Explain(Request{User: "alice", Key: AnyKey, Host: "x", Port: 80, Time: at("2027-01-16 12:30")})
	if got, want := e.Grants[len(e.Grants)-1].Detail, `grant "many" allows Mon-Fri 09:00-19:00 Asia/Tokyo, Sat,Sun 22:00-06:00 Europe/Berlin; it is Sat 12:30 in Asia/Tokyo, Sat 04:30 in Europe/Berlin`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestHoldsNow(t *testing.T) {
	p := mustParse(t, whenPolicy, testOptions)
	fp := func(n int) string { return fingerprint(n) }
	for _, tt := range []struct {
		user, key, source, at string
		want                  Reason
		next                  string
	}{
		{"alice", fp(1), "", "", "", ""},
		{"alice", fp(2), "", "", KeyRemoved, ""},
		{"alice", AnyKey, "", "", "", ""},
		{"alice", "", "", "", KeyRemoved, ""},
		{"mallory", fp(1), "", "", UnknownUser, ""},
		{"carol", fp(3), "", "", "", ""}, // require is about forwards
		{"bob", fp(2), "203.0.113.5", "2027-01-13 12:00", "", "2027-01-13 22:00"},
		{"bob", fp(2), "203.0.113.5", "2027-01-13 22:00", OutsideHours, "2027-01-14 06:00"},
		{"bob", fp(2), "203.0.113.5", "2026-01-13 12:00", NotYet, "2026-12-01 00:00"},
		{"bob", fp(2), "203.0.113.5", "2028-01-13 12:00", Expired, ""},
		{"bob", fp(2), "203.0.113.9", "2027-01-13 12:00", Excepted, ""},
		{"bob", fp(2), "203.0.112.9", "2027-01-13 12:00", NotFrom, ""},
		{"bob", fp(2), "", "2027-01-13 12:00", NotFrom, ""},
		{"bob", fp(2), "203.0.113.5", "", NotYet, ""},
	} {
		var source netip.Addr
		var now, next time.Time
		if tt.source != "" {
			source = netip.MustParseAddr(tt.source)
		}
		if tt.at != "" {
			now = at(tt.at)
		}
		if tt.next != "" {
			next = at(tt.next)
		}
		reason, detail, got := p.HoldsNow(Identity{User: tt.user, Key: tt.key}, source, now)
		if reason != tt.want || !got.Equal(next) || (detail == "") != (reason == "") {
			t.Errorf("%+v: %q, %q, %v", tt, reason, detail, got)
		}
		if reason, _, _ := (*Policy)(nil).HoldsNow(Identity{User: tt.user, Key: tt.key}, source, now); reason != UnknownUser {
			t.Errorf("no policy: %q", reason)
		}
	}
}

// checkExplanation checks that the steps lead to the decision, and the
// decision is Decide's.
func checkExplanation(t *testing.T, p *Policy, r Request) {
	t.Helper()
	d, e := p.Decide(r), p.Explain(r)
	if e.Decision != d {
		t.Fatalf("%+v\nDecide  %+v\nExplain %+v", r, d, e.Decision)
	}
	if d.Reason == UnknownUser || d.Reason == KeyRemoved || d.Reason == AuthorityRemoved || d.Reason == BadHost || d.Reason == BadPort || d.Literal.IsValid() && r.Addr.IsValid() && d.Literal != r.Addr {
		if len(e.Grants) > 0 {
			t.Fatalf("%+v: grants were considered: %+v", r, e)
		}
		return
	}
	want, grant := NoGrant, ""
	within := false
	fitting := slices.IndexFunc(e.Grants, func(g GrantStep) bool { return g.Fits })
	for _, g := range e.Grants {
		for _, ts := range g.Targets {
			within = within || ts.Miss == "within"
		}
		if first := slices.IndexFunc(g.Conditions, failed); g.Holds != (first < 0) || first >= 0 && g.Failed != g.Conditions[first].Reason {
			t.Fatalf("%+v: %+v", r, g)
		}
	}
	user := slices.IndexFunc(e.User, failed)
	proof := slices.IndexFunc(e.Proof, failed)
	narrow := proof >= 0 && (e.Proof[proof].Reason == KeyNoForwarding || e.Proof[proof].Reason == KeyNotPermitted) // judged last
	holding := slices.IndexFunc(e.Grants, func(g GrantStep) bool { return g.Fits && g.Holds })
	switch {
	case proof >= 0 && !narrow:
		want = e.Proof[proof].Reason
	case r.Addr.IsValid() && e.Fence.Reason != "":
		want = e.Fence.Reason
	case fitting < 0 && within:
		want = OutsideWithin
	case fitting < 0:
	case user >= 0:
		want = e.User[user].Reason
	case narrow:
		want = e.Proof[proof].Reason
		if e.Proof[proof].Detail != d.Detail {
			t.Fatalf("%+v: %q, but %q", r, d.Detail, e.Proof[proof].Detail)
		}
	case holding < 0:
		want = e.Grants[fitting].Failed
		if e.Grants[fitting].Detail != d.Detail {
			t.Fatalf("%+v: %q, but %q", r, d.Detail, e.Grants[fitting].Detail)
		}
	default:
		want, grant = Granted, e.Grants[holding].Grant
	}
	if d.Reason != want || d.Grant != grant {
		t.Fatalf("%+v\ndecided   %s by %q\nexplained %s by %q\n%+v", r, d.Reason, d.Grant, want, grant, e)
	}
}

func TestExplanationsReadWell(t *testing.T) {
	p := mustParse(t, whenPolicy, testOptions)
	e := p.Explain(Request{User: "bob", Key: AnyKey, Host: "keep", Port: 22, Addr: netip.MustParseAddr("10.0.5.5"), Source: netip.MustParseAddr("203.0.113.5"), Time: at("2027-01-16 12:30")})
	e.Grants = slices.DeleteFunc(e.Grants, func(g GrantStep) bool { return !g.Fits && g.Grant != "net" })
	e.Decision.Policy = ""
	got, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/explanation.json")
	if *update {
		err = os.WriteFile("testdata/explanation.json", append(got, '\n'), 0o666)
	} else if string(got)+"\n" != string(want) {
		t.Errorf("got:\n%s", got)
	}
	if err != nil {
		t.Error(err)
	}
	for _, r := range []Request{{}, {User: "bob"}, {User: "bob", Key: AnyKey, Host: "a b", Port: 22}, {User: "bob", Key: AnyKey, Host: "free"}} {
		if e := p.Explain(r); e.Decision != p.Decide(r) || len(e.Grants) > 0 {
			t.Errorf("%+v", e)
		}
		if e := (*Policy)(nil).Explain(r); e.Decision.Reason != UnknownUser {
			t.Errorf("no policy: %+v", e)
		}
	}
}

func failed(c ConditionStep) bool { return !c.Holds && !c.Waived }

// randomWhen returns conditions for the end of an entry of a random policy.
func randomWhen(rnd *rand.Rand, grant bool) string {
	var when []string
	add := func(key string, of ...string) {
		if v := of[rnd.IntN(len(of))]; rnd.IntN(3) == 0 && v != "" {
			when = append(when, key+": "+v)
		}
	}
	add("from", "[203.0.113.0/24]", "[203.0.113.5, 203.0.113.9]", `["2001:db8::/32", 203.0.113.0/25]`)
	add("except", "[203.0.113.9]", `["2001:db8::/48"]`)
	add("after", "2027-03-25", "2027-03-28 02:30", "2027-03-20")
	add("until", "2027-03-28", "2027-03-29 01:59", "2027-04-02")
	add("hours", `["Mon-Fri 09:00-19:00"]`, `[22:00-06:00, "Sat,Sun 01:30-02:30"]`, `["Fri-Sun 18:00-03:00 America/New_York", "Mon 00:00-24:00"]`, `["00:00-12:00", "12:00-24:00"]`, `["Sun 02:15-03:00 Australia/Lord_Howe", "Mon 09:00-10:00"]`)
	s := ""
	if len(when) > 0 {
		s = ", when: {" + strings.Join(when, ", ") + "}"
	}
	if rnd.IntN(5) == 0 {
		s += ", require: [touch]"
	}
	if grant {
		s += []string{"", ", at_end: keep", ", at_end: close"}[rnd.IntN(3)]
		s += []string{"", ", limits: {forwards: 3}"}[rnd.IntN(2)]
	}
	return s
}

// randomConditions puts conditions to about one in three users and grants of
// a policy.
func randomConditions(rnd *rand.Rand, text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		user, grant := strings.Contains(line, "groups: ") && !strings.Contains(line, "to: "), strings.Contains(line, "to: ")
		if !user && !grant || rnd.IntN(3) > 0 {
			continue
		}
		lines[i] = strings.TrimSuffix(line, "}") + randomWhen(rnd, grant) + "}"
	}
	return strings.Replace(strings.Join(lines, "\n"), "version: 1\n", "version: 1\ntimezone: Europe/Berlin\n", 1)
}

func randomCircumstances(rnd *rand.Rand, r Request) Request {
	sources := []string{"203.0.113.5", "203.0.113.9", "203.0.113.200", "2001:db8::1", "2001:db8:1::1", "10.0.0.5"}
	if rnd.IntN(8) > 0 {
		r.Source = netip.MustParseAddr(sources[rnd.IntN(len(sources))])
	}
	if rnd.IntN(8) > 0 {
		r.Time = time.Date(2027, 3, 18, 0, 0, 0, 0, time.UTC).Add(time.Duration(rnd.Int64N(18 * 24 * int64(time.Hour))))
	}
	r.Touch, r.Running = rnd.IntN(2) == 0, rnd.IntN(3) == 0
	if rnd.IntN(3) == 0 {
		r.Grant = []string{"g0", "g1", "g2"}[rnd.IntN(3)]
	}
	return r
}

func TestRandomConditions(t *testing.T) {
	rnd := rand.New(rand.NewPCG(12, 12))
	reasons := map[Reason]int{}
	for range 80 {
		m := randomModel(rnd)
		bare := m.text(-1)
		text := randomConditions(rnd, bare)
		free := mustParse(t, bare, modelOptions)
		p := mustParse(t, text, modelOptions)
		var less *Policy
		if len(m.grants) > 0 {
			lines, gone := strings.Split(text, "\n"), rnd.IntN(len(m.grants))
			i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "name: g"+string(rune('0'+gone%10))+",") })
			if i > 0 && len(m.grants) > 1 {
				less = mustParse(t, strings.Join(slices.Delete(slices.Clone(lines), i, i+1), "\n"), modelOptions)
			}
		}
		for range 60 {
			r := randomCircumstances(rnd, randomRequest(rnd))
			checkExplanation(t, p, r)
			d := p.Decide(r)
			reasons[d.Reason]++
			if d.Effect == Allow && free.Decide(r).Effect != Allow || d.DNS && !free.Decide(r).DNS {
				t.Fatalf("with conditions more is allowed: %+v\n%s", r, text)
			}
			if less != nil {
				if l := less.Decide(r); l.Effect == Allow && d.Effect != Allow || l.DNS && !d.DNS {
					t.Fatalf("with a grant less, more is allowed: %+v\n%s", r, text)
				}
			}
			if d.Effect == Deny && r.Running {
				s := r
				s.Running = false
				if p.Decide(s).Effect == Allow {
					t.Fatalf("what runs is denied, what does not is allowed: %+v\n%s", r, text)
				}
			}
			// Nothing known never allows what is denied with something known,
			// whatever that is.
			if d.Effect == Deny {
				for _, z := range []func(*Request){func(z *Request) { z.Source = netip.Addr{} }, func(z *Request) { z.Time = time.Time{} }, func(z *Request) { z.Touch = false }} {
					zero := r
					if z(&zero); p.Decide(zero).Effect == Allow {
						t.Fatalf("%+v is denied, %+v is allowed\n%s", r, zero, text)
					}
				}
			}
			// Between now and next the answer is the same.
			if r.Time.IsZero() {
				if !d.Next.IsZero() {
					t.Fatalf("%+v: without a time, next is %v", r, d.Next)
				}
				continue
			}
			end := d.Next
			if end.IsZero() {
				end = r.Time.Add(15 * 24 * time.Hour)
			} else if !end.After(r.Time) {
				t.Fatalf("%+v: next is %v", r, end)
			}
			for range 25 {
				then := r
				if then.Time = r.Time.Add(time.Duration(rnd.Int64N(int64(end.Sub(r.Time))))); !same(p.Decide(then), d) {
					t.Fatalf("%+v: %+v\nbut already at %v: %+v\n%s", r, d, then.Time, p.Decide(then), text)
				}
			}
		}
	}
	for _, r := range []Reason{Granted, NoGrant, NotFrom, Excepted, NotYet, Expired, OutsideHours, NeedsTouch} {
		if reasons[r] == 0 {
			t.Errorf("never %s: %v", r, reasons)
		}
	}
}

func same(a, b Decision) bool {
	return a.Effect == b.Effect && a.Reason == b.Reason && a.Grant == b.Grant && a.Limits == b.Limits
}

// One more condition on one grant never allows more.
func TestAddingAConditionNeverAllowsMore(t *testing.T) {
	rnd := rand.New(rand.NewPCG(13, 13))
	for range 80 {
		m := randomModel(rnd)
		if len(m.grants) == 0 {
			continue
		}
		seed := rnd.Uint64()
		with := func(only string) string {
			text := randomConditions(rand.New(rand.NewPCG(seed, 1)), m.text(-1))
			if only == "" {
				return text
			}
			lines := strings.Split(text, "\n")
			for i, l := range lines {
				if strings.Contains(l, "name: "+only+",") && !strings.Contains(l, "when:") {
					lines[i] = strings.TrimSuffix(l, "}") + `, when: {from: [203.0.113.0/24], hours: ["Mon-Fri 09:00-19:00"]}}`
				}
			}
			return strings.Join(lines, "\n")
		}
		p, more := mustParse(t, with(""), modelOptions), mustParse(t, with("g0"), modelOptions)
		for range 60 {
			r := randomCircumstances(rnd, randomRequest(rnd))
			if a, b := p.Decide(r), more.Decide(r); b.Effect == Allow && a.Effect != Allow || b.DNS && !a.DNS || b.Named && !a.Named {
				t.Fatalf("%+v\n%+v\n%+v\n%s", r, a, b, with("g0"))
			}
		}
	}
}

func TestConditionsDoNotAllocateToAllow(t *testing.T) {
	p := mustParse(t, whenPolicy, testOptions)
	for _, user := range []string{"alice", "bob"} {
		r := Request{User: user, Key: AnyKey, Host: "all", Port: 22, Addr: netip.MustParseAddr("10.0.5.5"), Source: netip.MustParseAddr("203.0.113.5"), Time: at("2027-01-13 12:00"), Touch: true}
		if d := p.Decide(r); d.Effect != Allow {
			t.Fatal(d)
		}
		if n := testing.AllocsPerRun(100, func() { p.Decide(r) }); n > 0 {
			t.Errorf("%s: %v allocations", user, n)
		}
	}
}

func BenchmarkDecideWithConditions(b *testing.B) {
	p := mustParse(b, whenPolicy, testOptions)
	r := Request{User: "bob", Key: AnyKey, Host: "all", Port: 22, Addr: netip.MustParseAddr("10.0.5.5"), Source: netip.MustParseAddr("203.0.113.5"), Time: at("2027-01-13 12:00"), Touch: true}
	b.ReportAllocs()
	for b.Loop() {
		p.Decide(r)
	}
}
