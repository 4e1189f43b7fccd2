package main

import (
	"embed"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

//go:embed template/*.tmpl
var templateFiles embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"quote": strconv.QuoteToASCII,
	"list": func(words []string) string {
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = strconv.QuoteToASCII(w)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	},
}).ParseFS(templateFiles, "template/*.tmpl"))

// A plan is what a new configuration folder is made of.
type plan struct {
	Name            string
	Listen          []string
	Networks        []string
	NetworksFound   bool // on the machine
	NetworksGuessed bool
	User            string
	Keys            []string // as lines of .pub files
	Targets         []planTarget
	Grant           string
	Hosts           []string // lines
}

type planTarget struct {
	Name         string
	Hosts, Ports []string
}

// newPlan is the plan for a user and his keys on this machine.
func newPlan(user string, keys []string, machine []netip.Prefix) plan {
	p := plan{Name: defaultName(), Listen: []string{":2222"}, User: user, Keys: keys, Grant: "admins-ssh"}
	for _, n := range machine {
		p.Networks = append(p.Networks, n.String())
	}
	p.NetworksFound = len(machine) > 0
	if !p.NetworksFound {
		p.NetworksGuessed = true
		p.Networks = []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}
	}
	p.Targets = []planTarget{{"ssh-servers", p.Networks, []string{"22"}}}
	return p
}

// write fills a template.
func (p plan) write(name string) ([]byte, error) {
	var b strings.Builder
	if err := templates.ExecuteTemplate(&b, name+".tmpl", p); err != nil {
		return nil, fmt.Errorf("writing %s: %w", name, err)
	}
	return []byte(b.String()), nil
}

// files are all files of the folder. The last is the one without which the
// others are nothing.
func (p plan) files(hostKeys map[string]keyPair) ([]newFile, error) {
	var files []newFile
	for _, name := range defaultSettings().HostKeys {
		pair := hostKeys[name]
		files = append(files, newFile{name, pair.private, 0o600}, newFile{name + ".pub", []byte(pair.line() + "\n"), 0o644})
	}
	for _, name := range []string{"hosts", "policy.yaml", "sekisho.yaml"} {
		content, err := p.write(name)
		if err != nil {
			return nil, err
		}
		files = append(files, newFile{name, content, 0o644})
	}
	return files, nil
}

// machineNetworks returns the networks that the machine's interfaces are in:
// no loopback, no link-local ones, and none of a single address, which would
// be the machine's own.
func machineNetworks() []netip.Prefix {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var found []netip.Prefix
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			if p = p.Masked(); p.IsSingleIP() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() || slices.Contains(found, p) {
				continue
			}
			found = append(found, p)
		}
	}
	return found
}
