package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// A dnsResolver asks the name servers of a resolv.conf, and nothing else. The
// standard library's resolver would look into the machine's own /etc/hosts
// first, and so let whoever writes that say where a name leads.
type dnsResolver struct {
	config string // path of resolv.conf; read at each question, as it may change
	port   string // of the servers; empty: 53
}

var systemDNS = &dnsResolver{config: "/etc/resolv.conf"}

// LookupNetIP returns the addresses of an absolute name, IPv4 first. Search
// domains are not used.
func (r *dnsResolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	config, err := dns.ClientConfigFromFile(r.config)
	if err != nil {
		return nil, &net.DNSError{Err: err.Error(), Name: host, IsTemporary: true}
	}
	config.Port = cmp.Or(r.port, config.Port)
	types := map[string][]uint16{"ip": {dns.TypeA, dns.TypeAAAA}, "ip4": {dns.TypeA}, "ip6": {dns.TypeAAAA}}[network]
	if types == nil {
		return nil, net.UnknownNetworkError(network)
	}
	type reply struct {
		addrs []netip.Addr
		err   error
	}
	replies := make([]chan reply, len(types))
	for i, t := range types {
		replies[i] = make(chan reply, 1)
		go func() {
			addrs, err := askServers(ctx, config, dns.Fqdn(host), t)
			replies[i] <- reply{addrs, err}
		}()
	}
	var all []netip.Addr
	var failed error
	for _, c := range replies {
		one := <-c
		all = append(all, one.addrs...)
		failed = errors.Join(failed, one.err)
	}
	switch {
	case len(all) > 0: // a server that fails for one of the two types is common
		return all, nil
	case failed != nil:
		return nil, &net.DNSError{Err: strings.ReplaceAll(failed.Error(), "\n", "; "), Name: host, IsTemporary: true, IsTimeout: ctx.Err() != nil}
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// askServers asks one server after another, as often as the configuration says, until
// one answers. No answer and no error mean that there is no such name, or no
// address of that type.
func askServers(ctx context.Context, config *dns.ClientConfig, name string, t uint16) (addrs []netip.Addr, err error) {
	err = errors.New("no name servers")
	for range max(config.Attempts, 1) {
		for _, server := range config.Servers {
			var msg *dns.Msg
			if msg, err = exchange(ctx, net.JoinHostPort(server, config.Port), name, t); err != nil {
				if ctx.Err() != nil {
					return nil, err
				}
				continue
			}
			switch msg.Rcode {
			case dns.RcodeSuccess:
				return addresses(msg, name, t), nil
			case dns.RcodeNameError:
				return nil, nil
			}
			err = fmt.Errorf("%s answered %s", server, dns.RcodeToString[msg.Rcode])
		}
	}
	return nil, err
}

// exchange asks by UDP, and again by TCP where the answer did not fit.
func exchange(ctx context.Context, server, name string, t uint16) (*dns.Msg, error) {
	query := new(dns.Msg)
	query.SetQuestion(name, t)
	query.SetEdns0(1232, false)
	for _, transport := range []string{"udp", "tcp"} {
		client := dns.Client{Net: transport}
		msg, _, err := client.ExchangeContext(ctx, query, server)
		if err != nil {
			return nil, err
		}
		if len(msg.Question) != 1 || !strings.EqualFold(msg.Question[0].Name, name) || msg.Question[0].Qtype != t {
			return nil, fmt.Errorf("%s answered another question", server)
		}
		if !msg.Truncated {
			return msg, nil
		}
	}
	return nil, fmt.Errorf("%s cut its answer off", server)
}

// addresses are those of name in an answer, by way of its aliases.
func addresses(msg *dns.Msg, name string, t uint16) (addrs []netip.Addr) {
	names := map[string]bool{strings.ToLower(name): true}
	for _, rr := range msg.Answer { // a server puts an alias before what it leads to
		owner := strings.ToLower(rr.Header().Name)
		if !names[owner] {
			continue
		}
		var ip net.IP
		switch rr := rr.(type) {
		case *dns.CNAME:
			names[strings.ToLower(rr.Target)] = true
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if addr, ok := netip.AddrFromSlice(ip); ok && rr.Header().Rrtype == t {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}
