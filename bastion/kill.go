package bastion

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"sekisho/authz"
)

// A Selection names what runs by one of its fields. Nothing in it is a prefix
// or a pattern: it selects what is named so exactly. The zero one selects
// nothing.
type Selection struct {
	ID   string // of a connection, "c…", or of a forward, "f…"
	User string // all connections of a user of the policy, and all forwards

	// All forwards to a host. A name is compared with the host that was asked
	// for, in its normal form. An address, which Host then is not, is compared
	// with what is dialled, too: whatever name it was reached by.
	Host string
	Addr netip.Addr
	Port int // of either; 0: every port
}

// connection reports whether c is selected.
func (s *Selection) connection(c *connection) bool {
	p := c.principal()
	return s.ID != "" && c.id == s.ID || s.User != "" && p != nil && p.User == s.User
}

// forward reports whether fw is selected, be it with its connection.
func (s *Selection) forward(fw *forward) bool {
	switch {
	case s.ID != "":
		return fw.id == s.ID || fw.principal.Conn == s.ID
	case s.User != "":
		return fw.principal.User == s.User
	}
	if (s.Host == "" && !s.Addr.IsValid()) || s.Port != 0 && int64(s.Port) != int64(fw.ask.Target.Port) {
		return false
	}
	host, addr, err := authz.ParseHost(fw.ask.Target.Host)
	if err != nil {
		return false // it is about to be refused
	}
	if !s.Addr.IsValid() {
		return !addr.IsValid() && host == s.Host
	}
	if dialled := fw.address.Load(); dialled != nil && dialled.Addr() == s.Addr {
		return true
	}
	return addr == s.Addr
}

func (s *Server) selected(sel Selection) (conns []*connection, forwards []*forward) {
	for _, c := range s.connections() {
		if sel.connection(c) {
			conns = append(conns, c)
		}
	}
	for _, fw := range s.forwarder.live.snapshot() {
		if sel.forward(fw) {
			forwards = append(forwards, fw)
		}
	}
	return conns, forwards
}

// Selected returns how many connections and forwards Kill would end.
func (s *Server) Selected(sel Selection) (conns, forwards int) {
	c, f := s.selected(sel)
	return len(c), len(f)
}

// Kill ends what is selected, which is recorded with the reason "killed" and
// with detail, and returns how many connections and forwards, each counted
// once. It waits for none of them.
func (s *Server) Kill(detail string, selections ...Selection) (conns, forwards int) {
	cause := &endCause{reasonKilled, detail}
	ended, cut := map[*connection]bool{}, map[*forward]bool{}
	for _, sel := range selections {
		c, f := s.selected(sel)
		for _, fw := range f {
			fw.cut(cause)
			cut[fw] = true
		}
		for _, conn := range c {
			conn.end(cause)
			ended[conn] = true
		}
	}
	return len(ended), len(cut)
}

// A ConnectionView is what an administrator sees of a connection that is
// logged in. What came from the client in it is made safe to print.
type ConnectionView struct {
	Conn      string         `json:"conn"` // id
	User      string         `json:"user"`
	Login     string         `json:"login"`
	Key       string         `json:"key"` // fingerprint
	Authority string         `json:"authority,omitempty"`
	KeyID     string         `json:"key_id,omitempty"`
	Serial    uint64         `json:"serial,omitempty"`
	Client    string         `json:"client"`
	Source    netip.AddrPort `json:"source"`
	Started   time.Time      `json:"started"` // when it was accepted
	Forwards  []ForwardView  `json:"forwards"`
}

// LiveConnections returns the connections that are logged in with their
// forwards, oldest first, and how many are not logged in yet.
func (s *Server) LiveConnections() (all []ConnectionView, beforeLogin int) {
	forwards := map[string][]ForwardView{}
	for _, fw := range s.LiveForwards() {
		forwards[fw.Conn] = append(forwards[fw.Conn], fw)
	}
	all = []ConnectionView{}
	for _, c := range s.connections() {
		p := c.principal()
		if p == nil {
			beforeLogin++
			continue
		}
		v := ConnectionView{
			Conn: c.id, User: p.User, Login: printable(p.Login), Key: p.Key, Client: printable(p.Client),
			Source: p.Source, Started: c.started, Forwards: forwards[c.id],
		}
		if p.Cert != nil {
			v.Authority, v.KeyID, v.Serial = p.Cert.Authority, printable(p.Cert.KeyID), p.Cert.Serial
		}
		if v.Forwards == nil {
			v.Forwards = []ForwardView{}
		}
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b ConnectionView) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.Conn, b.Conn))
	})
	return all, beforeLogin
}

// LoggedIn returns how many connections are logged in, and how many are not
// yet.
func (s *Server) LoggedIn() (in, beforeLogin int) {
	for _, c := range s.connections() {
		if c.principal() != nil {
			in++
		} else {
			beforeLogin++
		}
	}
	return in, beforeLogin
}
