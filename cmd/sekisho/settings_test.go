package main

import (
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"sekisho/authz/strictyaml"
)

const least = "version: 1\nnetworks: [10.0.0.0/16]\n"

func TestDefaultsStandInTheDesign(t *testing.T) {
	// The file of the design, word for word where it gives a default, and the
	// files of what is taken away.
	const design = `
version: 1
name: NAME
listen: [":2222"]
host_keys: [ssh_host_ed25519_key, ssh_host_ecdsa_key, ssh_host_rsa_key]
host_certificates: []
policy: policy.yaml
hosts: hosts
networks: [10.0.0.0/16]
dns: {zones: []}
watch: false
authorized_keys_dir: ""
revoked_keys: []
locks: locks.yaml
audit: {dir: audit, key: log_key, segment_size: 256MiB, segment_age: 24h, retain_age: 0s, retain_size: 0, progress: 5m, on_failure: keep,
  syslog: {address: "", ca: "", cert: "", key: "", facility: 13, cursor: ""}}
admin: {socket: run/sekisho.sock}
metrics: {listen: "", pprof: false}
prefer_aes_gcm: true
limits:
  login_grace: 30s
  max_auth_tries: 20
  max_startups: 200
  max_startups_per_source: 64
  max_connections: 10000
  max_connections_per_user: 200
  max_forwards: 20000
  max_forwards_per_connection: 256
  max_forwards_per_user: 1000
  max_pending_dials_per_connection: 64
  max_backlog_per_connection: 64MiB
  dial_timeout: 10s
  keepalive_interval: 30s
  keepalive_max_missed: 3
  idle_forward: 0s
  idle_connection: 0s
  half_closed: 10m
  drain_timeout: 30s
penalties: {auth_fail: 5s, no_auth: 1s, grace_exceeded: 10s, bad_bytes: 10s, threshold: 15s, max: 10m, exempt: []}
`
	want := defaultSettings()
	want.Networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	for name, content := range map[string]string{
		"all keys":      strings.Replace(design, "NAME", defaultName(), 1),
		"required keys": least,
	} {
		got, problems := readSettings("sekisho.yaml", []byte(content), nil, nil)
		if len(problems) > 0 {
			t.Errorf("%s: %v", name, problems)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got\n%+v\nwant\n%+v", name, got, want)
		}
	}
}

func TestSettingsAreReadInTheirTypes(t *testing.T) {
	content := `version: 1
name: edge-1
listen: ["127.0.0.1:22", "[::1]:2222"]
host_keys: [k1]
host_certificates: [k1-cert.pub]
policy: /etc/p.yaml
hosts: ../hosts
networks: [10.0.0.0/16, "fd00::/64", 127.0.0.1/32]
dns: {zones: [corp.example, example.net]}
watch: true
prefer_aes_gcm: false
audit: {dir: /var/log/sekisho, key: /etc/log.key, segment_size: 1GiB, segment_age: 1h30m, progress: 0s, on_failure: close,
  syslog: {address: "tls://siem.example:6514", ca: ca.pem, facility: 16}}
limits: {login_grace: 5s, max_auth_tries: 1, keepalive_interval: 0s, idle_forward: 8h, drain_timeout: 0s}
penalties: {auth_fail: 1m, no_auth: 0s, max: 1h, exempt: [192.0.2.0/24, "2001:db8::1/128"]}
`
	want := defaultSettings()
	want.Name = "edge-1"
	want.Listen = []string{"127.0.0.1:22", "[::1]:2222"}
	want.HostKeys, want.HostCertificates = []string{"k1"}, []string{"k1-cert.pub"}
	want.Policy, want.Hosts = "/etc/p.yaml", "../hosts"
	want.Networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("127.0.0.1/32")}
	want.DNS.Zones = []string{"corp.example", "example.net"}
	want.Watch = true
	want.PreferAESGCM = false
	want.Audit.Dir, want.Audit.Key, want.Audit.SegmentSize, want.Audit.SegmentAge = "/var/log/sekisho", "/etc/log.key", 1<<30, 90*time.Minute
	want.Audit.Progress, want.Audit.OnFailure = 0, "close"
	want.Audit.Syslog.Address, want.Audit.Syslog.CA, want.Audit.Syslog.Facility = "tls://siem.example:6514", "ca.pem", 16
	want.Limits.LoginGrace, want.Limits.MaxAuthTries = 5*time.Second, 1
	want.Limits.KeepaliveInterval, want.Limits.IdleForward, want.Limits.DrainTimeout = 0, 8*time.Hour, 0
	want.Penalties.AuthFail, want.Penalties.NoAuth, want.Penalties.Max = time.Minute, 0, time.Hour
	want.Penalties.Exempt = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::1/128")}
	got, problems := readSettings("sekisho.yaml", []byte(content), nil, nil)
	if len(problems) > 0 {
		t.Error(problems)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestSettingsProblems(t *testing.T) {
	for _, test := range []struct {
		name, line, want string
	}{
		{"misspelt key", "nam: x", `3:1: unknown key "nam"; did you mean "name"?`},
		{"misspelt key of a section", "limits: {drain_timout: 1s}", `3:10: unknown key "drain_timout"; did you mean "drain_timeout"?`},
		{"key in another case", "Name: x", `3:1: unknown key "Name"; did you mean "name"?`},
		{"dotted key", "limits.login_grace: 1s", `3:1: unknown key "limits.login_grace"`},
		{"duplicate key", "watch: true\nwatch: true", `4:1: the key "watch" is already at line 3`},
		{"section that is no mapping", "dns: corp.example", "3:6: dns wants a mapping (key: value), not"},
		{"section without anything", "limits:", "3:8: limits wants a mapping (key: value), not nothing"},
		{"duration without a unit", "limits: {login_grace: 30}", "3:23: login_grace wants a duration with a unit, such as 30s, 5m or 1h30m, not 30; write 30s"},
		{"duration of none", "limits: {dial_timeout: 0s}", "3:24: a time of 0s leaves no time at all"},
		{"negative duration", "limits: {half_closed: -1s}", "3:23: half_closed wants a duration that is not negative"},
		{"size in powers of ten", "audit: {segment_size: 256MB}", `not "256MB"; write 256MiB`},
		{"size too small", "audit: {segment_size: 0}", "3:23: a segment of 0 bytes is too small; write at least 64KiB"},
		{"segments without an age", "audit: {segment_age: 0s}", "3:22: a time of 0s leaves no time at all"},
		{"other word", "audit: {on_failure: stop}", "3:21: on_failure wants one of keep, close"},
		{"receiver without a scheme", "audit: {syslog: {address: siem:514}}", `3:27: "siem:514" is not the address of a syslog receiver: it begins with none of tcp://, tls:// and unix:; write "tls://siem.example:6514"`},
		{"facility that there is not", "audit: {syslog: {facility: 24}}", "3:28: facility wants a whole number from 0 to 23, not 24"},
		{"misspelt key of a section within one", "audit: {syslog: {adress: x}}", `3:18: unknown key "adress"; did you mean "address"?`},
		{"section within one that is no mapping", "audit: {syslog: siem}", "3:17: syslog wants a mapping (key: value)"},
		{"more tries than the library takes", "limits: {max_auth_tries: 128}", "3:26: max_auth_tries wants a whole number from 1 to 100, not 128"},
		{"limit of none", "limits: {max_forwards: 0}", "3:24: max_forwards wants a whole number of at least 1, not 0"},
		{"negative limit", "limits: {max_startups: -5}", "3:24: max_startups wants a whole number of at least 1, not -5"},
		{"number in quotes", `limits: {max_startups: "5"}`, "write it without quotes"},
		{"number with leading zero", "limits: {max_startups: 022}", "3:24: the number 022 has leading zeros"},
		{"truth by another word", "watch: yes", `3:8: watch wants true or false, not "yes"`},
		{"one text for a list", `listen: ":22"`, `3:9: listen wants a list, not ":22"; put it in brackets: [":22"]`},
		{"nothing to listen on", "listen: []", "3:9: the list is empty"},
		{"address twice", `listen: [":22", ":22"]`, `3:17: :22 stands in the list already`},
		{"only a port", `listen: [2222]`, `3:10: "2222" is not an address to listen on: it has no colon; write ":2222"`},
		{"name of a service", `listen: [":ssh"]`, "its port is not a number from 0 to 65535"},
		{"port too large", `listen: [":65536"]`, "its port is not a number from 0 to 65535"},
		{"star", `listen: ["*:22"]`, `nothing before the colon means every address; write ":22"`},
		{"IPv6 without brackets", `listen: ["::1:22"]`, `an IPv6 address stands in brackets; write "[::1]:22"`},
		{"brackets around IPv4", `listen: ["[127.0.0.1]:22"]`, "what is in the brackets is not an IPv6 address"},
		{"host name", `listen: ["bastion:22"]`, "what is before the port is not an IP address"},
		{"name with a blank", `name: "a b"`, `3:7: "a b" is not a name of a server`},
		{"path of nothing", `policy: ""`, `3:9: "" is not a path`},
		{"no host keys", `host_keys: []`, `3:12: the list is empty`},
		{"zone that is a pattern", `dns: {zones: ["*.corp.example"]}`, "write corp.example, which has all names below it"},
		{"zone that is an address", `dns: {zones: [10.0.0.1]}`, `3:15: "10.0.0.1" is an address, not a DNS zone`},
		{"tag", "name: !!str x", "tags are not allowed"},
		{"anchor", "name: &a x", "anchors are not allowed"},
		{"date where text is meant", "name: 2026-11-22", "quote what is text"},

		{"a list of revoked keys without a name", "revoked_keys: [\"\"]", `3:16: "" is not a path`},
		{"age of retention", "audit: {retain_age: 59m}", "3:21: a log that keeps its records for 59m proves little; write at least 1h, or 0s to keep all"},
		{"size of retention", "audit: {segment_size: 1GiB, retain_size: 2047MiB}", "audit.retain_size is 2146435072 bytes, and that is less than two segments of audit.segment_size; write at least 2147483648"},
		{"a file of locks without a name", "locks: \"\"", `3:8: "" is not a path`},
		{"metrics at a port", "metrics: {listen: 9122}", "3:19:"},
		{"metrics at a name without a slash", "metrics: {listen: metrics.sock}", `3:19: "metrics.sock" is no place for metrics: it has no port; write "127.0.0.1:9122", or the path of a socket with a slash in it`},
		{"metrics at a folder", "metrics: {listen: run/}", `3:19: "run/" is not a path of a socket`},
		{"penalty without a unit", "penalties: {auth_fail: 5}", "3:24: auth_fail wants a duration with a unit, such as 30s, 5m or 1h30m, not 5; write 5s"},
		{"negative penalty", "penalties: {bad_bytes: -1s}", "3:24: bad_bytes wants a duration that is not negative"},
		{"penalties of which none can be left", "penalties: {max: 0s}", "3:18: a time of 0s leaves no time at all"},
		{"threshold that is never reached", "penalties: {max: 10s}", "penalties.max is 10s and penalties.threshold 15s, so that no source is ever refused; write a max of at least the threshold"},
		{"misspelt penalty", "penalties: {authfail: 5s}", `3:13: unknown key "authfail"; did you mean "auth_fail"?`},
		{"exempt address", "penalties: {exempt: [10.0.0.1]}", `3:22: "10.0.0.1" is not a network; for that one address write 10.0.0.1/32`},
		{"exempt network with a host in it", "penalties: {exempt: [10.0.0.1/8]}", `3:22: the network "10.0.0.1/8" is not in its normal form; write 10.0.0.0/8`},
		{"one text for a list of exempt networks", "penalties: {exempt: 10.0.0.0/8}", "3:21: exempt wants a list"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, problems := readSettings("f", []byte(least+test.line+"\n"), nil, nil)
			wantProblem(t, problems, "f:"+strings.TrimPrefix(test.want, "f:"), test.want)
			if problems.Err() == nil {
				t.Error("it is no error")
			}
		})
	}
}

// wantProblem fails unless one of the problems contains one of the texts.
func wantProblem(t *testing.T, problems strictyaml.Problems, want ...string) {
	t.Helper()
	for _, p := range problems {
		for _, w := range want {
			if strings.Contains(p.Error(), w) {
				return
			}
		}
	}
	t.Errorf("no problem says %q:\n%v", want[len(want)-1], problems)
}

func TestRetentionIsJudgedByAllSettings(t *testing.T) {
	for _, test := range []struct {
		name, line string
		environ    []string
		want       string // "": no problem
		warning    bool
	}{
		{"age and size that are good", "audit: {retain_age: 9600h, retain_size: 512MiB}", nil, "", false},
		{"an age of an hour", "audit: {retain_age: 1h}", nil, "", false},
		{"small segments in a variable", "audit: {retain_size: 8MiB}", []string{"SEKISHO_AUDIT_SEGMENT_SIZE=4MiB"}, "", false},
		{"large segments in a variable", "audit: {retain_size: 512MiB}", []string{"SEKISHO_AUDIT_SEGMENT_SIZE=1GiB"}, "f: audit.retain_size is 536870912 bytes", false},
		{"a size in a variable", "watch: false", []string{"SEKISHO_AUDIT_RETAIN_SIZE=1MiB"}, "f: audit.retain_size is 1048576 bytes", false},
		{"forwards that are never told of again", "audit: {retain_age: 24h, progress: 0s}", nil, "f: with audit.progress at 0s nothing", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, v := range test.environ { // viper looks for itself
				name, value, _ := strings.Cut(v, "=")
				t.Setenv(name, value)
			}
			_, problems := readSettings("f", []byte(least+test.line+"\n"), test.environ, nil)
			if test.want == "" {
				if len(problems) > 0 {
					t.Error(problems)
				}
				return
			}
			wantProblem(t, problems, test.want)
			if (problems.Err() == nil) != test.warning {
				t.Errorf("%v", problems)
			}
		})
	}
}

func TestRequiredSettings(t *testing.T) {
	for _, test := range []struct{ content, want string }{
		{"networks: [10.0.0.0/16]\n", `f:1:1: "version" is missing here`},
		{"version: 1\n", `f:1:1: "networks" is missing here`},
		{"version: 1\nnetworks: []\n", "f:2:11: the list is empty"},
		{"version: 2\nnetworks: [10.0.0.0/16]\n", "f:1:10: version 2 is not supported by this version of sekisho; write version: 1"},
		{"version: 1\nnetworks: [10.0.0.1/16]\n", `f:2:12: the network "10.0.0.1/16" is not in its normal form; write 10.0.0.0/16`},
		{"version: 1\nnetworks: [10.0.0.1]\n", `f:2:12: "10.0.0.1" is not a network; for that one address write 10.0.0.1/32`},
		{"version: 1\nnetworks: [\"::ffff:10.0.0.0/104\"]\n", `write 10.0.0.0/8`},
		{"version: 1\nnetworks: [lan]\n", `f:2:12: "lan" is not a network; write it as 10.0.0.0/16 or fd00::/64`},
		{"", "f:1:1: the file is empty"},
		{"- a\n", "this wants a mapping"},
	} {
		_, problems := readSettings("f", []byte(test.content), nil, nil)
		wantProblem(t, problems, test.want)
		if problems.Err() == nil {
			t.Errorf("%q is no error", test.content)
		}
	}
}

func TestNetworksThatAreDoubtfulAreWarnings(t *testing.T) {
	_, problems := readSettings("f", []byte("version: 1\nnetworks: [0.0.0.0/0, 127.0.0.0/8, 169.254.0.0/16, 127.0.0.1/32]\n"), nil, nil)
	if problems.Err() != nil || len(problems) != 3 {
		t.Error(problems)
	}
	wantProblem(t, problems, "f:2:12: 0.0.0.0/0 fences nothing in")
	wantProblem(t, problems, "f:2:23: 127.0.0.0/8 admits nothing: its addresses are loopback addresses")
	wantProblem(t, problems, "f:2:36: 169.254.0.0/16 admits nothing: its addresses are link-local addresses")
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, problems := readSettings("f", []byte("version: 2\nnam: x\nwatch: no\nlimits: {max_forwards: 0}\n"), nil, nil)
	if len(problems) != 5 {
		t.Errorf("%d problems, not 5:\n%v", len(problems), problems)
	}
}

func TestVariablesAndFlagsGoBeforeTheFile(t *testing.T) {
	t.Setenv("SEKISHO_NAME", "variable")
	t.Setenv("SEKISHO_LISTEN", "127.0.0.1:1, [::1]:2")
	t.Setenv("SEKISHO_LIMITS_LOGIN_GRACE", "7s")
	t.Setenv("SEKISHO_LIMITS_MAX_FORWARDS", "7")
	t.Setenv("SEKISHO_AUDIT_SEGMENT_SIZE", "7MiB")
	t.Setenv("SEKISHO_AUDIT_DIR", "123") // a path that looks like a number is text
	t.Setenv("SEKISHO_WATCH", "true")
	t.Setenv("SEKISHO_NETWORKS", "10.0.0.0/8,fd00::/8")
	t.Setenv("SEKISHO_POLICY", "") // as if it were not there
	content := "version: 1\nname: file\nlimits: {login_grace: 5s, dial_timeout: 5s}\n"

	got, problems := readSettings("f", []byte(content), os.Environ(), flags{"name": {"flag"}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := defaultSettings()
	want.Name = "flag"
	want.Listen = []string{"127.0.0.1:1", "[::1]:2"}
	want.Limits.LoginGrace, want.Limits.DialTimeout, want.Limits.MaxForwards = 7*time.Second, 5*time.Second, 7
	want.Audit.SegmentSize, want.Audit.Dir, want.Watch = 7<<20, "123", true
	want.Networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestVariablesAndFlagsAreJudgedAsTheFile(t *testing.T) {
	environ := []string{
		"SEKISHO_LIMITS_LOGIN_GRACE=30", "SEKISHO_LISTEN=2222", "SEKISHO_WATCH=yes", "SEKISHO_LIMITS_MAX_FORWARDS=a: b",
		"SEKISHO_LISTN=:22", "SEKISHO_SOMETHING_ELSE=1", "SEKISHO_METRICS_LISTEN=9122",
	}
	_, problems := readSettings("f", []byte(least), environ, flags{"name": {"a b"}, "listen": {":22", ":x"}})
	for _, want := range []string{
		"SEKISHO_LIMITS_LOGIN_GRACE: login_grace wants a duration with a unit, such as 30s, 5m or 1h30m, not 30; write 30s",
		`SEKISHO_LISTEN: "2222" is not an address to listen on`,
		`SEKISHO_WATCH: watch wants true or false, not "yes"`,
		`SEKISHO_LIMITS_MAX_FORWARDS: max_forwards wants a whole number of at least 1, not "a: b"`,
		`SEKISHO_LISTN: there is no such variable; did you mean "SEKISHO_LISTEN"?`,
		`SEKISHO_METRICS_LISTEN: "9122" is no place for metrics: it has no colon`,
		`--name: "a b" is not a name of a server`,
		`--listen: ":x" is not an address to listen on`,
	} {
		wantProblem(t, problems, want)
	}
	if len(problems) != 8 {
		t.Errorf("%d problems, not 8:\n%v", len(problems), problems)
	}
}
