package main

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"

	"sekisho/authz"
	"sekisho/authz/strictyaml"
	"sekisho/bastion"
)

// Settings are what sekisho.yaml says, with variables and flags laid over it.
// Paths are as written.
type Settings struct {
	Version           int
	Name              string
	Listen            []string
	HostKeys          []string
	HostCertificates  []string // of those keys
	Policy            string
	Hosts             string
	Networks          []netip.Prefix
	DNS               struct{ Zones []string }
	Watch             bool
	AuthorizedKeysDir string   // "": none
	RevokedKeys       []string // files of sshd's RevokedKeys
	Locks             string
	Audit             AuditSettings
	Admin             struct{ Socket string }
	Metrics           MetricsSettings
	PreferAESGCM      bool
	Limits            bastion.Limits
	Penalties         bastion.Penalties
	Confine           string // auto, require or off
}

// AuditSettings are those of the audit log.
type AuditSettings struct {
	Dir         string
	Key         string // file of the private log key
	SegmentSize int64
	SegmentAge  time.Duration
	RetainAge   time.Duration
	RetainSize  int64
	Progress    time.Duration
	OnFailure   string // keep or close
	Syslog      SyslogSettings
}

// defaultSettings are those of a file that names nothing but its version.
func defaultSettings() Settings {
	s := Settings{
		Version:  1,
		Name:     defaultName(),
		Listen:   []string{":2222"},
		HostKeys: []string{"ssh_host_ed25519_key", "ssh_host_ecdsa_key", "ssh_host_rsa_key"},
		Policy:   "policy.yaml",
		Hosts:    "hosts",
		Locks:    "locks.yaml",
		Audit: AuditSettings{
			Dir: "audit", Key: "log_key", SegmentSize: 256 << 20, SegmentAge: 24 * time.Hour,
			Progress: 5 * time.Minute, OnFailure: "keep",
			Syslog: SyslogSettings{Facility: 13}, // log audit
		},
		PreferAESGCM: true,
		Limits:       bastion.DefaultLimits(),
		Penalties:    bastion.DefaultPenalties(),
	}
	s.Penalties.Exempt = []netip.Prefix{}
	s.DNS.Zones = []string{}
	s.RevokedKeys, s.HostCertificates = []string{}, []string{}
	s.Admin.Socket = "run/sekisho.sock"
	s.Confine = confineAuto
	return s
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$`)

// defaultName is the name of the host, or a word where that is none.
func defaultName() string {
	if name, err := os.Hostname(); err == nil && nameForm.MatchString(name) {
		return name
	}
	return "bastion"
}

// A setting is one key of the file: how its value is read and judged, and how
// a variable or flag spells it.
type setting struct {
	key  string // "limits.login_grace"
	form form
	read func(*strictyaml.Node, *Settings)
}

// A form is how a value that is not in the file is spelt.
type form int

const (
	plain form = iota // as in the file: a number, a duration, true or false
	text              // as it is, without quotes
	list              // texts, parted by commas
)

// variable is the environment variable for the setting.
func (k setting) variable() string {
	return "SEKISHO_" + strings.ToUpper(strings.ReplaceAll(k.key, ".", "_"))
}

// settings are all keys, in the order of the file.
var settings = slices.Concat([]setting{
	{"version", plain, readVersion},
	{"name", text, readName},
	{"listen", list, readListen},
	{"host_keys", list, func(n *strictyaml.Node, s *Settings) { readPaths(n, &s.HostKeys) }},
	{"host_certificates", list, func(n *strictyaml.Node, s *Settings) { readPathsOrNone(n, &s.HostCertificates) }},
	{"policy", text, func(n *strictyaml.Node, s *Settings) { readPath(n, &s.Policy) }},
	{"hosts", text, func(n *strictyaml.Node, s *Settings) { readPath(n, &s.Hosts) }},
	{"networks", list, readNetworks},
	{"dns.zones", list, readZones},
	{"watch", plain, func(n *strictyaml.Node, s *Settings) { n.Bool(&s.Watch) }},
	{"authorized_keys_dir", text, func(n *strictyaml.Node, s *Settings) { readPathOrNone(n, &s.AuthorizedKeysDir) }},
	{"revoked_keys", list, func(n *strictyaml.Node, s *Settings) { readPathsOrNone(n, &s.RevokedKeys) }},
	{"locks", text, func(n *strictyaml.Node, s *Settings) { readPath(n, &s.Locks) }},
	{"audit.dir", text, func(n *strictyaml.Node, s *Settings) { readPath(n, &s.Audit.Dir) }},
	{"audit.key", text, func(n *strictyaml.Node, s *Settings) { readPath(n, &s.Audit.Key) }},
	{"audit.segment_size", plain, readSegmentSize},
	{"audit.segment_age", plain, func(n *strictyaml.Node, s *Settings) { positive(n, &s.Audit.SegmentAge) }},
	{"audit.retain_age", plain, readRetainAge},
	{"audit.retain_size", plain, func(n *strictyaml.Node, s *Settings) { n.Size(&s.Audit.RetainSize) }},
	{"audit.progress", plain, func(n *strictyaml.Node, s *Settings) { n.Duration(&s.Audit.Progress) }},
	{"audit.on_failure", text, func(n *strictyaml.Node, s *Settings) { n.OneOf(&s.Audit.OnFailure, "keep", "close") }},
	{"admin.socket", text, func(n *strictyaml.Node, s *Settings) { readPathOrNone(n, &s.Admin.Socket) }},
	{"metrics.listen", text, readMetricsListen},
	{"metrics.pprof", plain, readMetricsPprof},
	{"prefer_aes_gcm", plain, func(n *strictyaml.Node, s *Settings) { n.Bool(&s.PreferAESGCM) }},
	wait("login_grace", func(l *bastion.Limits) *time.Duration { return &l.LoginGrace }),
	atMost("max_auth_tries", bastion.MostAuthTries, func(l *bastion.Limits) *int { return &l.MaxAuthTries }),
	count("max_startups", func(l *bastion.Limits) *int { return &l.MaxStartups }),
	count("max_startups_per_source", func(l *bastion.Limits) *int { return &l.MaxStartupsPerSource }),
	count("max_connections", func(l *bastion.Limits) *int { return &l.MaxConnections }),
	count("max_connections_per_user", func(l *bastion.Limits) *int { return &l.MaxConnectionsPerUser }),
	count("max_forwards", func(l *bastion.Limits) *int { return &l.MaxForwards }),
	count("max_forwards_per_connection", func(l *bastion.Limits) *int { return &l.MaxForwardsPerConnection }),
	count("max_forwards_per_user", func(l *bastion.Limits) *int { return &l.MaxForwardsPerUser }),
	count("max_pending_dials_per_connection", func(l *bastion.Limits) *int { return &l.MaxPendingDialsPerConnection }),
	{"limits.max_backlog_per_connection", plain, readBacklog},
	wait("dial_timeout", func(l *bastion.Limits) *time.Duration { return &l.DialTimeout }),
	waitOrOff("keepalive_interval", func(l *bastion.Limits) *time.Duration { return &l.KeepaliveInterval }),
	count("keepalive_max_missed", func(l *bastion.Limits) *int { return &l.KeepaliveMaxMissed }),
	waitOrOff("idle_forward", func(l *bastion.Limits) *time.Duration { return &l.IdleForward }),
	waitOrOff("idle_connection", func(l *bastion.Limits) *time.Duration { return &l.IdleConnection }),
	waitOrOff("half_closed", func(l *bastion.Limits) *time.Duration { return &l.HalfClosed }),
	waitOrOff("drain_timeout", func(l *bastion.Limits) *time.Duration { return &l.DrainTimeout }),
}, syslogSettings, penaltySettings, confineSettings)

func count(name string, field func(*bastion.Limits) *int) setting {
	return atMost(name, math.MaxInt, field)
}

func atMost(name string, most int, field func(*bastion.Limits) *int) setting {
	return setting{"limits." + name, plain, func(n *strictyaml.Node, s *Settings) { n.Int(field(&s.Limits), 1, most) }}
}

func wait(name string, field func(*bastion.Limits) *time.Duration) setting {
	return setting{"limits." + name, plain, func(n *strictyaml.Node, s *Settings) { positive(n, field(&s.Limits)) }}
}

func waitOrOff(name string, field func(*bastion.Limits) *time.Duration) setting {
	return setting{"limits." + name, plain, func(n *strictyaml.Node, s *Settings) { n.Duration(field(&s.Limits)) }}
}

// positive reads a duration that cannot be off.
func positive(n *strictyaml.Node, dst *time.Duration) {
	var d time.Duration
	if !n.Duration(&d) {
		return
	}
	if d == 0 {
		n.Errorf("a time of 0s leaves no time at all").Hint = "write a duration such as 30s"
		return
	}
	*dst = d
}

func readVersion(n *strictyaml.Node, s *Settings) {
	var v int
	if n.Int(&v, 1, math.MaxInt) && v != 1 {
		n.Errorf("version %d is not supported by this version of sekisho", v).Hint = "write version: 1"
	}
}

func readName(n *strictyaml.Node, s *Settings) {
	var name string
	if !n.String(&name) {
		return
	}
	if !nameForm.MatchString(name) {
		n.Errorf("%q is not a name of a server", name).Hint = `a name has letters, digits and ". _ -", and begins with a letter or digit`
		return
	}
	s.Name = name
}

func readPath(n *strictyaml.Node, dst *string) {
	var path string
	if !n.String(&path) {
		return
	}
	if path == "" || strings.ContainsRune(path, 0) {
		n.Errorf("%q is not a path", path)
		return
	}
	*dst = path
}

// readPathOrNone reads a path of what there need not be.
func readPathOrNone(n *strictyaml.Node, dst *string) {
	var path string
	if n.String(&path) && path == "" {
		*dst = ""
		return
	}
	readPath(n, dst)
}

func readPathsOrNone(n *strictyaml.Node, dst *[]string) {
	if items := n.Items(); n.Kind == strictyaml.List && len(items) == 0 {
		*dst = []string{}
		return
	}
	readPaths(n, dst)
}

func readPaths(n *strictyaml.Node, dst *[]string) {
	read(n, dst, func(item *strictyaml.Node) (path string, ok bool) {
		readPath(item, &path)
		return path, path != ""
	})
}

// read reads a list that must have items, each once, into dst, which is set
// only if all of them are good.
func read[T comparable](n *strictyaml.Node, dst *[]T, one func(*strictyaml.Node) (T, bool)) {
	items := n.Items()
	if n.Kind != strictyaml.List {
		return
	}
	if len(items) == 0 {
		n.Errorf("the list is empty")
		return
	}
	values, good := make([]T, 0, len(items)), true
	for _, item := range items {
		v, ok := one(item)
		if ok && slices.Contains(values, v) {
			item.Errorf("%v stands in the list already", v)
			ok = false
		}
		values, good = append(values, v), good && ok
	}
	if good {
		*dst = values
	}
}

func readListen(n *strictyaml.Node, s *Settings) {
	read(n, &s.Listen, func(item *strictyaml.Node) (string, bool) {
		var addr string
		if !item.StringOrInt(&addr) {
			return "", false
		}
		what, hint := badListen(addr)
		if what != "" {
			item.Errorf("%q is not an address to listen on: %s", addr, what).Hint = hint
		}
		return addr, what == ""
	})
}

// badListen returns what is wrong with an address to listen on, or "".
func badListen(addr string) (what, hint string) {
	const form = `write ":2222", "192.0.2.1:2222" or "[2001:db8::1]:2222"`
	i := strings.LastIndexByte(addr, ':')
	if i < 0 {
		if isPort(addr) {
			return "it has no colon", `write ":` + addr + `"`
		}
		return "it has no port", form
	}
	host, port := addr[:i], addr[i+1:]
	if !isPort(port) {
		return "its port is not a number from 0 to 65535", form
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		if ip, err := netip.ParseAddr(inner); !ok || err != nil || !ip.Is6() {
			return "what is in the brackets is not an IPv6 address", form
		}
		return "", ""
	}
	if host == "" || host == "localhost" {
		return "", ""
	}
	if host == "*" {
		return "nothing before the colon means every address", `write ":` + port + `"`
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "what is before the port is not an IP address", form
	}
	if ip.Is6() {
		return "an IPv6 address stands in brackets", `write "[` + host + `]:` + port + `"`
	}
	return "", ""
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == s
}

func readNetworks(n *strictyaml.Node, s *Settings) {
	read(n, &s.Networks, func(item *strictyaml.Node) (netip.Prefix, bool) {
		p, ok := readNetwork(item)
		if !ok {
			return p, false
		}
		switch class := authz.ClassOf(p.Addr()); {
		case p.Bits() == 0:
			item.Warnf("%s fences nothing in: every address lies in it", p).Hint = "list the networks that people are to reach"
		case class != "" && !p.IsSingleIP() && authz.ClassOf(last(p)) == class:
			item.Warnf("%s admits nothing: its addresses are %s addresses", p, strings.ReplaceAll(string(class), "_", "-")).Hint =
				"such an address is admitted only where it is listed as that single address"
		}
		return p, true
	})
}

// readNetwork reads a network in its normal form.
func readNetwork(n *strictyaml.Node) (p netip.Prefix, ok bool) {
	var word string
	if !n.String(&word) {
		return p, false
	}
	p, err := netip.ParsePrefix(word)
	if err != nil {
		problem := n.Errorf("%q is not a network", word)
		problem.Hint = "write it as 10.0.0.0/16 or fd00::/64"
		if addr, err := netip.ParseAddr(word); err == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			problem.Hint = fmt.Sprintf("for that one address write %s/%d", addr, addr.BitLen())
		}
		return p, false
	}
	right := p.Masked()
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		right = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked()
	}
	if right.String() != word {
		n.Errorf("the network %q is not in its normal form", word).Hint = "write " + right.String()
		return p, false
	}
	return p, true
}

// last returns the last address of p.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func readZones(n *strictyaml.Node, s *Settings) {
	if items := n.Items(); n.Kind == strictyaml.List && len(items) == 0 {
		s.DNS.Zones = []string{}
		return
	}
	read(n, &s.DNS.Zones, func(item *strictyaml.Node) (string, bool) {
		var zone string
		if !item.String(&zone) {
			return "", false
		}
		name, addr, err := authz.ParseHost(strings.TrimPrefix(strings.TrimPrefix(zone, "*"), "."))
		switch {
		case err != nil:
			item.Errorf("%q is not a DNS zone: %v", zone, err).Hint = "write a name such as corp.example"
			return "", false
		case addr.IsValid():
			item.Errorf("%q is an address, not a DNS zone", zone).Hint = "write a name such as corp.example"
			return "", false
		case name != zone:
			item.Errorf("the DNS zone %q is not in its normal form", zone).Hint = "write " + name + ", which has all names below it"
			return "", false
		}
		return zone, true
	})
}

func readSegmentSize(n *strictyaml.Node, s *Settings) {
	const least = 64 << 10
	var size int64
	if !n.Size(&size) {
		return
	}
	if size < least {
		n.Errorf("a segment of %d bytes is too small", size).Hint = "write at least 64KiB"
		return
	}
	s.Audit.SegmentSize = size
}

// readBacklog reads a size that leaves room for a few channels, each of which
// may hold 2 MiB.
func readBacklog(n *strictyaml.Node, s *Settings) {
	const least = 8 << 20
	var size int64
	if !n.Size(&size) {
		return
	}
	if size < least {
		n.Errorf("a backlog of %d bytes is too small", size).Hint = "write at least 8MiB: a forward whose target stands still holds 2MiB"
		return
	}
	s.Limits.MaxBacklogPerConnection = size
}

// flags are the values that the command line gives, by key.
type flags map[string][]string

// readSettings reads the text of a sekisho.yaml with the variables of the
// environment and the flags laid over it, in this order. It returns every
// problem in all three. Settings with an error are good for one thing: to find
// the other files, whose problems are wanted too.
//
// The text is read twice: once strictly, for its problems with their places,
// and once by viper, which lays the layers together. Both must come to the
// same.
func readSettings(file string, content []byte, environ []string, given flags) (Settings, strictyaml.Problems) {
	variables, warnings := ourVariables(environ)
	judged := defaultSettings()
	root, problems := strictyaml.Parse(bytes.NewReader(content), file)
	if root != nil {
		judge(root, &judged, func(key string) bool {
			_, flag := given[key]
			_, variable := variables[setting{key: key}.variable()]
			return flag || variable
		})
		problems = root.Problems()
	}
	problems = append(problems, warnings...)

	v := viper.New()
	v.SetConfigType("yaml")
	for _, k := range settings {
		if value, ok := variables[k.variable()]; ok {
			values := []string{value}
			if k.form == list {
				values = commas(value)
			}
			problems = append(problems, judgeOne(k, k.variable(), values, &judged)...)
			v.BindEnv(k.key, k.variable())
		}
		if values, ok := given[k.key]; ok {
			problems = append(problems, judgeOne(k, "--"+k.key, values, &judged)...)
			if k.form == list {
				v.Set(k.key, values)
			} else {
				v.Set(k.key, values[0])
			}
		}
	}
	problems = append(problems, judged.Audit.retention(file)...)
	problems = append(problems, penaltyProblems(&judged.Penalties, file)...)
	problems = append(problems, judged.Metrics.profiles(file)...)
	if problems.Err() != nil {
		return judged, problems
	}

	s := defaultSettings()
	err := v.ReadConfig(bytes.NewReader(content))
	if err == nil {
		err = v.UnmarshalExact(&s, func(c *mapstructure.DecoderConfig) {
			c.WeaklyTypedInput = false
			c.ZeroFields = true
			c.DecodeHook = mapstructure.DecodeHookFuncType(decode)
			c.MatchName = func(key, field string) bool {
				return strings.EqualFold(strings.ReplaceAll(key, "_", ""), field)
			}
		})
	}
	if err == nil && !reflect.DeepEqual(s, judged) {
		err = fmt.Errorf("the file means different things to different readers of YAML")
	}
	if err != nil {
		problems = append(problems, strictyaml.Problem{File: file, Message: err.Error(), Hint: "quote what is text"})
	}
	return s, problems
}

// judge reads the file's tree into s, for its problems. A required key may be
// given elsewhere.
func judge(root *strictyaml.Node, s *Settings, elsewhere func(key string) bool) {
	leaves := map[string][]string{} // by section, "" being the top
	var sections []string           // those that are in one before those in them
	var enter func(key string)
	enter = func(key string) {
		section, leaf := inSection(key)
		if slices.Contains(leaves[section], leaf) {
			return
		}
		if section != "" && leaves[section] == nil {
			enter(section)
			sections = append(sections, section)
		}
		leaves[section] = append(leaves[section], leaf)
	}
	for _, k := range settings {
		enter(k.key)
	}
	maps := map[string]strictyaml.Map{"": root.Map(leaves[""]...)}
	for _, key := range sections {
		section, leaf := inSection(key)
		maps[key] = maps[section].Get(leaf).Map(leaves[key]...)
	}
	for _, required := range []string{"version", "networks"} {
		if !elsewhere(required) {
			maps[""].Require(required)
		}
	}
	for _, k := range settings {
		section, leaf := inSection(k.key)
		if n := maps[section].Get(leaf); n != nil {
			k.read(n, s)
		}
	}
}

// inSection parts a key from the section that it is in, "" being the top.
func inSection(key string) (section, leaf string) {
	i := strings.LastIndexByte(key, '.')
	return key[:max(i, 0)], key[i+1:]
}

// judgeOne reads a value that a variable or flag gives, as the file's would be.
func judgeOne(k setting, source string, values []string, s *Settings) strictyaml.Problems {
	quoted := make([]string, len(values))
	for i, value := range values {
		if k.form != plain || !plainWord.MatchString(value) {
			value = strconv.QuoteToASCII(value)
		}
		quoted[i] = value
	}
	written := strings.Join(quoted, ", ")
	if k.form == list {
		written = "[" + written + "]"
	}
	leaf := k.key[strings.LastIndexByte(k.key, '.')+1:]
	root, problems := strictyaml.Parse(strings.NewReader(leaf+": "+written+"\n"), source)
	if root != nil {
		k.read(root.Map(leaf).Get(leaf), s)
		problems = root.Problems()
	}
	for i := range problems {
		problems[i].Line, problems[i].Column = 0, 0
	}
	return problems
}

var plainWord = regexp.MustCompile(`^-?[A-Za-z0-9.]+$`)

func commas(s string) []string {
	parts := strings.Split(s, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// decode turns what viper holds into the types of Settings. Every value has
// been judged before; this only must not be more lenient than that.
func decode(_, to reflect.Type, data any) (any, error) {
	word, isText := data.(string)
	switch to {
	case reflect.TypeFor[time.Duration]():
		if !isText {
			return nil, fmt.Errorf("%v is not a duration with a unit", data)
		}
		return time.ParseDuration(word)
	case reflect.TypeFor[netip.Prefix]():
		if isText {
			return netip.ParsePrefix(word)
		}
	case reflect.TypeFor[int64](): // the sizes
		if isText {
			return parseSize(word)
		}
	case reflect.TypeFor[int](): // from a variable; in the file it is a number
		if isText {
			return strconv.Atoi(word)
		}
	case reflect.TypeFor[bool]():
		if isText {
			return strconv.ParseBool(word)
		}
	case reflect.TypeFor[[]string](), reflect.TypeFor[[]netip.Prefix]():
		if isText {
			return commas(word), nil
		}
	}
	return data, nil
}

func parseSize(word string) (int64, error) {
	var size int64
	root, problems := strictyaml.Parse(strings.NewReader(word), "")
	if root == nil || !root.Size(&size) {
		return 0, fmt.Errorf("%q is not a size: %v", word, problems)
	}
	return size, nil
}

// ourVariables returns the environment's variables of settings, by name; an
// empty one counts as not set. It warns of each that looks like one and is
// none.
func ourVariables(environ []string) (map[string]string, strictyaml.Problems) {
	known := slices.Clone(otherVariables)
	for _, k := range settings {
		known = append(known, k.variable())
	}
	variables := map[string]string{}
	var problems strictyaml.Problems
	for _, line := range environ {
		name, value, _ := strings.Cut(line, "=")
		switch {
		case !strings.HasPrefix(name, "SEKISHO_") || value == "":
		case slices.Contains(known, name):
			variables[name] = value
		default:
			if hint := strictyaml.DidYouMean(name, known); hint != "" {
				problems = append(problems, strictyaml.Problem{File: name, Message: "there is no such variable", Hint: hint, Warning: true})
			}
		}
	}
	return variables, problems
}
