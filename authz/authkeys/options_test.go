package authkeys

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func wireKey(raw []byte) ssh.PublicKey {
	key, err := ssh.ParsePublicKey(raw)
	if err != nil {
		panic(err)
	}
	return key
}

// write writes options as a file would have them, in one way only.
func write(o Options) string {
	var out []string
	value := func(name, value string) {
		out = append(out, name+`="`+strings.ReplaceAll(value, `"`, `\"`)+`"`)
	}
	if o.CertAuthority {
		out = append(out, "cert-authority")
	}
	if o.Principals != nil {
		value("principals", strings.Join(o.Principals, ","))
	}
	if o.From != nil {
		value("from", o.From.String())
	}
	if !o.Expiry.IsZero() {
		value("expiry-time", o.Expiry.UTC().Format("20060102150405Z"))
	}
	for _, p := range o.PermitOpen {
		port := "*"
		if p.Port != 0 {
			port = fmt.Sprint(p.Port)
		}
		value("permitopen", "["+p.Host+"]:"+port)
	}
	if o.NoForwarding {
		out = append(out, "no-port-forwarding")
	}
	if o.NoSessions {
		value("command", "")
	}
	return strings.Join(out, ",")
}

func TestOptions(t *testing.T) {
	const ignored = "1:%d: permitopen is ignored: the key may forward nothing; to allow just this, write port-forwarding after restrict"
	for _, tt := range []struct{ name, options, want, warning string }{
		{"no options narrow nothing", "", "", ""},
		{"restrict forbids forwarding", "restrict", "no-port-forwarding", ""},
		{"a later port-forwarding takes restrict back", "restrict,port-forwarding", "", ""},
		{"an earlier port-forwarding does not", "port-forwarding,restrict", "no-port-forwarding", ""},
		{"no-port-forwarding forbids forwarding", "no-port-forwarding", "no-port-forwarding", ""},
		{"a later port-forwarding takes no-port-forwarding back", "no-port-forwarding,port-forwarding", "", ""},
		{"the last of three counts", "restrict,port-forwarding,no-port-forwarding", "no-port-forwarding", ""},
		{"restrict twice counts again", "restrict,port-forwarding,restrict", "no-port-forwarding", ""},
		{"another option after restrict does not take it back", "restrict,pty,agent-forwarding,X11-forwarding,user-rc", "no-port-forwarding", ""},
		{"permitopen does not take restrict back", `restrict,permitopen="rds:3306"`, `permitopen="[rds]:3306",no-port-forwarding`, fmt.Sprintf(ignored, 10)},
		{"permitopen does, with port-forwarding", `restrict,port-forwarding,permitopen="rds:3306"`, `permitopen="[rds]:3306"`, ""},
		{"port-forwarding may come after permitopen", `restrict,permitopen="rds:3306",port-forwarding`, `permitopen="[rds]:3306"`, ""},
		{"restrict may come last", `permitopen="rds:3306",port-forwarding,restrict`, `permitopen="[rds]:3306",no-port-forwarding`, fmt.Sprintf(ignored, 1)},

		{"permitopen adds up", `permitopen="rds:3306",permitopen="rds:*",permitopen="*:22"`, `permitopen="[rds]:3306",permitopen="[rds]:*",permitopen="[*]:22"`, ""},
		{"permitopen keeps a host as it is written", `permitopen="RDS.:1",permitopen="[2001:DB8::1]:65535",permitopen="[name]:2",permitopen="*:*"`,
			`permitopen="[RDS.]:1",permitopen="[2001:DB8::1]:65535",permitopen="[name]:2",permitopen="[*]:*"`, ""},

		{"command forbids sessions only", `command="/bin/true"`, `command=""`, ""},
		{"command may be empty", `command=""`, `command=""`, ""},
		{"command may have commas, blanks and quotes", `command="echo \"a, b\" # \\.",restrict`, `no-port-forwarding,command=""`, ""},
		{"a backslash before the last quote escapes it", `command="a\",from=\"*"`, `command=""`, ""},

		{"an authority vouches for the user's own name", "cert-authority", "cert-authority", ""},
		{"an authority may vouch for others", `principals="alice,alice-ci",cert-authority`, `cert-authority,principals="alice,alice-ci"`, ""},
		{"a principal may have blanks and quotes", `cert-authority,principals="alice a,\"bob\""`, `cert-authority,principals="alice a,\"bob\""`, ""},

		{"from stays as written", `from="10.0.0.0/8,!10.0.0.9,FE80:*"`, `from="10.0.0.0/8,!10.0.0.9,FE80:*"`, ""},
		{"expiry-time is an instant", `expiry-time="20270331Z"`, `expiry-time="20270331000000Z"`, ""},
		{"the earliest expiry-time counts", `expiry-time="20270401Z",expiry-time="20270331Z",expiry-time="20270402Z"`, `expiry-time="20270331000000Z"`, ""},

		{"names have no case", `RESTRICT,Port-Forwarding,FROM="10.0.0.1",x11-FORWARDING`, `from="10.0.0.1"`, ""},
		{"what is not served means nothing", `agent-forwarding,no-agent-forwarding,X11-forwarding,no-X11-forwarding,pty,no-pty,user-rc,no-user-rc,permitlisten="8080",permitlisten="*:80",tunnel="0"`, "", ""},
		{"nothing between commas is no option", `,,restrict,`, "no-port-forwarding", ""},
		{"environment is ignored", `environment="A=b"`, "", "1:1: environment is ignored: nothing is run here that could have one"},
		{"no-touch-required is ignored", `restrict,no-touch-required`, "no-port-forwarding", "1:10: no-touch-required is ignored: a touch is always asked for"},
		{"touch-required goes without saying", `touch-required`, "", ""},
		{"verify-required may be taken back", `verify-required,no-verify-required`, "", ""},
		{"all at once", `restrict,port-forwarding,from="10.0.0.1",expiry-time="20270331Z",permitopen="a:1",command="x",cert-authority,principals="p"`,
			`cert-authority,principals="p",from="10.0.0.1",expiry-time="20270331000000Z",permitopen="[a]:1",command=""`, ""},
	} {
		entries, ps := parse(tt.options + " " + keyLine(testKey(1)))
		if len(entries) != 1 {
			t.Errorf("%s: refused: %q", tt.name, ps)
			continue
		}
		if got := write(entries[0].Options); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
		if got := strings.Join(ps, "\n"); strings.TrimPrefix(got, "f:") != tt.warning {
			t.Errorf("%s: got %q", tt.name, got)
		}
	}
}

func TestOptionsThatRefuseTheKey(t *testing.T) {
	const (
		hint      = "; write addresses, networks such as 203.0.113.0/24, or patterns such as 203.0.113.*"
		timeHint  = "; write YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, and Z at the end for UTC"
		openHint  = `; write permitopen="host:port" or "[IPv6]:port"; the port may be *`
		portHint  = "; write a number from 1 to 65535, or * for any"
		colonHint = "; an IPv6 address is written in brackets: [2001:db8::1]:22"
	)
	for _, tt := range []struct{ name, options, want string }{
		{"an unknown option", "foo", `1:1: unknown option "foo"`},
		{"an unknown option with a value", `restrict,foo="bar"`, `1:10: unknown option "foo"`},
		{"a misspelt option", `form="10.0.0.1"`, `1:1: unknown option "form"; did you mean "from"?`},
		{"a misspelt flag", "no-port-forwardng", `1:1: unknown option "no-port-forwardng"; did you mean "no-port-forwarding"?`},
		{"an option with more behind it", "restricted", `1:1: unknown option "restricted"; did you mean "restrict"?`},
		{"the opposite of an option that has none", "no-restrict", `1:1: unknown option "no-restrict"; did you mean "restrict"?`},
		{"a letter that only folds to an ASCII one", "re\u017ftrict", `1:1: unknown option "reſtrict"; did you mean "restrict"?`},
		{"every option that is unknown", "a,restrict,b", "1:1: unknown option \"a\"\n1:12: unknown option \"b\""},
		{"columns count characters", `command="é",foo`, `1:13: unknown option "foo"`},
		{"a flag with a value", `restrict="yes"`, "1:1: restrict takes no value"},
		{"a value that is missing", "from", `1:1: from wants one value in double quotes; write from="…"`},
		{"a value without quotes", "from=10.0.0.1", `1:1: from wants one value in double quotes; write from="…"`},
		{"a value in single quotes", "from='10.0.0.1'", `1:1: from wants one value in double quotes; write from="…"`},
		{"something after a value", `from="10.0.0.1"x`, `1:1: from wants one value in double quotes; write from="…"`},
		{"two values", `from="10.0.0.1""10.0.0.2"`, `1:1: from wants one value in double quotes; write from="…"`},
		{"quotes before a name", `"restrict"`, `1:1: unknown option "\"restrict\""; did you mean "restrict"?`},
		{"an escaped quote outside quotes", `from=\"10.0.0.1\"`, `1:1: from wants one value in double quotes; write from="…"`},
		{"a value without quotes of an option that means nothing", "tunnel=0", `1:1: tunnel wants one value in double quotes; write tunnel="…"`},
		{"a second from", `from="10.0.0.1",from="10.0.0.1"`, "1:17: a second from"},
		{"a second command", `command="a",COMMAND="a"`, "1:13: a second command"},
		{"a second principals", `cert-authority,principals="a",principals="a"`, "1:31: a second principals"},
		{"verify-required", "restrict,verify-required", "1:10: verify-required cannot be kept: whether a PIN was asked for is not known here"},
		{"verify-required, the last", "no-verify-required,verify-required", "1:20: verify-required cannot be kept: whether a PIN was asked for is not known here"},
		{"principals of a key that vouches for nobody", `principals="alice"`, "1:1: principals without cert-authority; write cert-authority too, or leave principals out"},
		{"no principals", `cert-authority,principals=""`, `1:16: principals: an empty name; write principals="alice,bob"`},
		{"an empty principal", `cert-authority,principals="a,,b"`, `1:16: principals: an empty name; write principals="alice,bob"`},
		{"a blank before a principal", `cert-authority,principals="a, b"`, `1:16: principals: the blank in " b" would belong to the name; write the names without blanks between them`},

		{"no sources", `from=""`, "1:1: from: an entry is empty" + hint},
		{"an empty source", `from="10.0.0.1,"`, "1:1: from: an entry is empty" + hint},
		{"an exception of nothing", `from="*,!"`, "1:1: from: an entry is empty" + hint},
		{"only exceptions", `from="!10.0.0.1"`, `1:1: from: it has only exceptions, and so allows nobody; for all but these write "*" too`},
		{"a double exception", `from="*,!!10.0.0.1"`, `1:1: from: "!10.0.0.1" is neither an address nor a pattern of one` + hint},
		{"a host", `from="laptop.example"`, `1:1: from: "laptop.example" is about the client's name, which is never looked up` + hint},
		{"a pattern of hosts", `from="10.0.0.1,*.example.com"`, `1:1: from: "*.example.com" is about the client's name, which is never looked up` + hint},
		{"a pattern of hosts with letters of an address", `from="*.de"`, `1:1: from: "*.de" is about the client's name, which is never looked up` + hint},
		{"an exception by host", `from="*,!bad"`, `1:1: from: "bad" is about the client's name, which is never looked up` + hint},
		{"a network with more bits than its length", `from="10.0.0.1/8"`, `1:1: from: "10.0.0.1/8" has bits set beyond its length; did you mean "10.0.0.0/8"?`},
		{"an IPv6 network with more bits than its length", `from="2001:db8::1/32"`, `1:1: from: "2001:db8::1/32" has bits set beyond its length; did you mean "2001:db8::/32"?`},
		{"a length too large", `from="10.0.0.0/33"`, `1:1: from: "10.0.0.0/33" is not a network` + hint},
		{"a length that is missing", `from="10.0.0.0/"`, `1:1: from: "10.0.0.0/" is not a network` + hint},
		{"a length with a leading zero", `from="10.0.0.0/08"`, `1:1: from: "10.0.0.0/08" is not a network` + hint},
		{"a netmask", `from="10.0.0.0/255.0.0.0"`, `1:1: from: "10.0.0.0/255.0.0.0" is not a network` + hint},
		{"a pattern as a network", `from="10.*/8"`, `1:1: from: "10.*/8" is not a network` + hint},
		{"a short form of an address", `from="10.1"`, `1:1: from: "10.1" is neither an address nor a pattern of one` + hint},
		{"an address with leading zeros", `from="010.0.0.1"`, `1:1: from: "010.0.0.1" is neither an address nor a pattern of one` + hint},
		{"an address with a zone", `from="fe80::1%eth0"`, `1:1: from: "fe80::1%eth0" has a zone, which means something on one machine only` + hint},
		{"a pattern with a zone", `from="fe80::*%1"`, `1:1: from: "fe80::*%1" is neither an address nor a pattern of one` + hint},
		{"an address in brackets", `from="[::1]"`, `1:1: from: "[::1]" is neither an address nor a pattern of one` + hint},
		{"a pattern of IPv4 in IPv6", `from="::ffff:10.0.0.*"`, `1:1: from: "::ffff:10.0.0.*" is neither an address nor a pattern of one` + hint},
		{"a blank after a comma", `from="10.0.0.1, 10.0.0.2"`, `1:1: from: the blank in " 10.0.0.2" would belong to the pattern; write the list without blanks`},
		{"an entry too long", `from="` + strings.Repeat("1", 65) + `"`, `1:1: from: "` + strings.Repeat("1", 65) + `" is too long for an address` + hint},

		{"no time", `expiry-time=""`, `1:1: expiry-time: "" is not a time` + timeHint},
		{"a time with dashes", `expiry-time="2027-03-31"`, `1:1: expiry-time: "2027-03-31" is not a time` + timeHint},
		{"a day that is not in the calendar", `expiry-time="20270229"`, `1:1: expiry-time: there is no time "20270229"` + timeHint},
		{"an hour that is not on the clock", `expiry-time="202702282400"`, `1:1: expiry-time: there is no time "202702282400"` + timeHint},
		{"hours without minutes", `expiry-time="2027022812"`, `1:1: expiry-time: "2027022812" is not a time` + timeHint},
		{"a time with an offset", `expiry-time="20270228+0900"`, `1:1: expiry-time: "20270228+0900" is not a time` + timeHint},
		{"a time so early that it would be none", `expiry-time="00010101Z"`, `1:1: expiry-time: "00010101Z" is before the year 1970` + timeHint},
		{"a bad time after a good one", `expiry-time="20270228",expiry-time="never"`, `1:24: expiry-time: "never" is not a time` + timeHint},

		{"a host without a port", `permitopen="rds"`, `1:1: permitopen: "rds" is not a host and a port` + openHint},
		{"a host with an empty port", `permitopen="rds:"`, `1:1: permitopen: "rds:" is not a host and a port` + openHint},
		{"a port without a host", `permitopen=":22"`, `1:1: permitopen: ":22" is not a host and a port` + openHint},
		{"a port alone", `permitopen="22"`, `1:1: permitopen: "22" is not a host and a port` + openHint},
		{"nothing to open", `permitopen=""`, `1:1: permitopen: "" is not a host and a port` + openHint},
		{"an IPv6 address without brackets", `permitopen="::1:22"`, `1:1: permitopen: "::1:22" has more than one colon` + colonHint},
		{"brackets that are not closed", `permitopen="[::1:22"`, `1:1: permitopen: "[::1:22" is not a host and a port` + openHint},
		{"empty brackets", `permitopen="[]:22"`, `1:1: permitopen: "[]:22" is not a host and a port` + openHint},
		{"port 0", `permitopen="rds:0"`, `1:1: permitopen: "0" is not a port` + portHint},
		{"a port too large", `permitopen="rds:65536"`, `1:1: permitopen: "65536" is not a port` + portHint},
		{"a port with a leading zero", `permitopen="rds:022"`, `1:1: permitopen: "022" is not a port` + portHint},
		{"the name of a port", `permitopen="rds:mysql"`, `1:1: permitopen: "mysql" is not a port` + portHint},
		{"a range of ports", `permitopen="rds:1-2"`, `1:1: permitopen: "1-2" is not a port` + portHint},
		{"a pattern of hosts to open", `permitopen="*.corp:22"`, `1:1: permitopen: the host "*.corp" is a pattern, and would be taken literally; write each host, or * for any`},
		{"a network to open", `permitopen="10.0.0.0/8:22"`, `1:1: permitopen: "10.0.0.0/8" is not a host` + openHint},
		{"a slash before the port", `permitopen="rds/22"`, `1:1: permitopen: "rds/22" is not a host and a port` + openHint},
		{"one bad of two to open", `permitopen="rds:1",permitopen="rds"`, `1:20: permitopen: "rds" is not a host and a port` + openHint},
	} {
		entries, ps := parse(tt.options + " " + keyLine(testKey(1)))
		for i, p := range ps {
			ps[i] = strings.Replace(strings.TrimPrefix(p, "f:"), "the key is refused: ", "", 1)
			if !strings.Contains(p, ": the key is refused: ") {
				t.Errorf("%s: %s", tt.name, p)
			}
		}
		if got := strings.Join(ps, "\n"); entries != nil || got != tt.want {
			t.Errorf("%s: %d entries\n got %s\nwant %s", tt.name, len(entries), got, tt.want)
		}
	}
}

func TestExpiryIsInTheZone(t *testing.T) {
	zone := func(name string) *time.Location {
		z, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	tokyo, berlin, apia := zone("Asia/Tokyo"), zone("Europe/Berlin"), zone("Pacific/Apia")
	for _, tt := range []struct {
		name string
		zone *time.Location
		time string
		want string
	}{
		{"a day begins in the zone", tokyo, "20270331", "2027-03-30T15:00:00Z"},
		{"with Z it begins in UTC", tokyo, "20270331Z", "2027-03-31T00:00:00Z"},
		{"a small z is one", tokyo, "20270331z", "2027-03-31T00:00:00Z"},
		{"so is UTC", tokyo, "20270331utc", "2027-03-31T00:00:00Z"},
		{"minutes", tokyo, "202703311830", "2027-03-31T09:30:00Z"},
		{"minutes in UTC", tokyo, "202703311830Z", "2027-03-31T18:30:00Z"},
		{"seconds", tokyo, "20270331183059", "2027-03-31T09:30:59Z"},
		{"seconds in UTC", tokyo, "20270331183059Z", "2027-03-31T18:30:59Z"},
		{"no zone is UTC", nil, "20270331", "2027-03-31T00:00:00Z"},
		{"a leap day", tokyo, "20280229Z", "2028-02-29T00:00:00Z"},
		{"the last year", tokyo, "99991231235959Z", "9999-12-31T23:59:59Z"},
		{"the first year", tokyo, "19700101Z", "1970-01-01T00:00:00Z"},
		{"in winter", berlin, "202701011200", "2027-01-01T11:00:00Z"},
		{"in summer", berlin, "202707011200", "2027-07-01T10:00:00Z"},
		{"a time that clocks skip is when they do", berlin, "202703280230", "2027-03-28T01:00:00Z"},
		{"a time that clocks show twice is the first", berlin, "202710310230", "2027-10-31T00:30:00Z"},
		{"a day that a zone skipped", apia, "20111230", "2011-12-30T10:00:00Z"},
	} {
		file, ps := Parse(strings.NewReader(`expiry-time="`+tt.time+`" `+keyLine(testKey(1))), "f", tt.zone)
		if len(file.Keys) != 1 || file.Keys[0].Options.Expiry.Format(time.RFC3339) != tt.want {
			t.Errorf("%s: %v %v, want %s", tt.name, file.Keys, ps, tt.want)
		}
	}
}

func TestKnownOptionsAreAllHandled(t *testing.T) {
	for _, name := range flags {
		if entries, ps := parse(name + " " + keyLine(testKey(1))); len(entries) != 1 && name != "verify-required" {
			t.Errorf("%s: %q", name, ps)
		}
	}
	good := map[string]string{"expiry-time": "20270101", "from": "*", "permitopen": "a:1", "principals": "a"}
	for _, name := range settings {
		options := fmt.Sprintf("cert-authority,%s=%q ", name, good[name])
		if entries, ps := parse(options + keyLine(testKey(1))); len(entries) != 1 {
			t.Errorf("%s: %q", name, ps)
		}
	}
	if !slices.IsSortedFunc(settings, strings.Compare) {
		t.Error("settings are not in order")
	}
}
