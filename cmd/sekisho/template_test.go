package main

import (
	"bytes"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"sekisho/hostsfile"
)

// What init writes is the defaults, every key of them, and no more.
func TestTemplateIsTheDefaults(t *testing.T) {
	networks := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("fd00::/64")}
	p := newPlan("alice", []string{testKey}, networks)
	content, err := p.write("sekisho.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, problems := readSettings("sekisho.yaml", content, nil, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := defaultSettings()
	want.Networks = networks
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}

	at := 0
	for _, k := range inFileOrder {
		leaf := k[strings.LastIndexByte(k, '.')+1:]
		place := regexp.MustCompile(`(?m)^ *` + leaf + `:.*$`).FindIndex(content[at:])
		if place == nil {
			t.Errorf("%s is missing, or out of order", k)
			continue
		}
		at += place[1]
	}
	var known []string
	for _, k := range settings {
		known = append(known, k.key)
	}
	if len(known) != len(inFileOrder) {
		t.Errorf("%d settings are known, and %d are looked for", len(known), len(inFileOrder))
	}
}

var inFileOrder = strings.Fields(`version name listen host_keys host_certificates policy hosts networks dns.zones watch authorized_keys_dir revoked_keys locks
	audit.dir audit.key audit.segment_size audit.segment_age audit.retain_age audit.retain_size audit.progress audit.on_failure
	audit.syslog.address audit.syslog.ca audit.syslog.cert audit.syslog.key audit.syslog.facility audit.syslog.cursor
	admin.socket metrics.listen metrics.pprof confine prefer_aes_gcm limits.login_grace limits.max_auth_tries limits.max_startups limits.max_startups_per_source
	limits.max_connections limits.max_connections_per_user limits.max_forwards limits.max_forwards_per_connection
	limits.max_forwards_per_user limits.max_pending_dials_per_connection limits.max_backlog_per_connection
	limits.dial_timeout limits.keepalive_interval
	limits.keepalive_max_missed limits.idle_forward limits.idle_connection limits.half_closed limits.drain_timeout
	penalties.auth_fail penalties.no_auth penalties.grace_exceeded penalties.bad_bytes penalties.threshold penalties.max penalties.exempt`)

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAHj8MRt40NwRCqogDnZi1KrdJiEUjoNh8am02+4EIHi alice@laptop"

func TestTemplatesAreGoodForEveryMachine(t *testing.T) {
	for name, networks := range map[string][]netip.Prefix{
		"two networks": {netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("fd00::/64")},
		"none":         nil,
	} {
		for _, user := range []string{"alice", "123", "true", "null", "a@b"} {
			p := newPlan(user, []string{testKey}, networks)
			files, err := p.files(map[string]keyPair{"ssh_host_ed25519_key": mustKey(t), "ssh_host_ecdsa_key": mustKey(t), "ssh_host_rsa_key": mustKey(t)})
			if err != nil {
				t.Fatal(err)
			}
			content := map[string][]byte{}
			for _, f := range files {
				content[f.name] = f.content
			}
			s, problems := readSettings("sekisho.yaml", content["sekisho.yaml"], nil, nil)
			if len(problems) > 0 {
				t.Errorf("%s, %s: %v", name, user, problems)
			}
			policy, problems := parsePolicy(content["policy.yaml"], "policy.yaml", s.Networks, s.DNS.Zones)
			if len(problems) > 0 {
				t.Fatalf("%s, %s: %v", name, user, problems)
			}
			if got := len(policy.Reach(user)); got != 1 {
				t.Errorf("%s: %s has %d grants, not 1", name, user, got)
			}
			if _, problems := hostsfile.Parse(bytes.NewReader(content["hosts"]), "hosts"); len(problems) > 0 {
				t.Errorf("%s: %v", name, problems)
			}
		}
	}
}

func mustKey(t *testing.T) keyPair {
	t.Helper()
	k, err := makeUserKey("test")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestMachineNetworksNeverAdmitTheMachineItself(t *testing.T) {
	for _, n := range machineNetworks() {
		if n.IsSingleIP() || n.Addr().IsLoopback() || n.Addr().IsLinkLocalUnicast() || n != n.Masked() {
			t.Errorf("%v is proposed", n)
		}
	}
}
