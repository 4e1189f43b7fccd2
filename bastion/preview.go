package bastion

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"sekisho/authz"
)

// A ForwardView is what an administrator sees of a live forward. What came
// from the client in it is made safe to print.
type ForwardView struct {
	Forward string         `json:"forward,omitempty"` // id
	Conn    string         `json:"conn"`              // id
	User    string         `json:"user"`
	Login   string         `json:"login,omitempty"`
	Key     string         `json:"key,omitempty"` // fingerprint
	Source  netip.AddrPort `json:"source,omitzero"`
	Target  string         `json:"target,omitempty"` // host:port as asked, the host in normal form
	Address netip.AddrPort `json:"address,omitzero"` // what is, or is about to be, dialled; zero before that
	Grant   string         `json:"grant,omitempty"`  // that carries it
	Started time.Time      `json:"started"`          // when it was asked for
	Open    bool           `json:"open"`             // confirmed to the client
	Up      uint64         `json:"bytes_up"`         // taken by the target
	Down    uint64         `json:"bytes_down"`       // taken by the client
}

// An Ending is a forward, or a connection, that another policy would end, and
// the reason and detail that the record of its end would have. A connection
// has neither Forward nor what is a forward's own.
type Ending struct {
	ForwardView
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
}

// Preview returns the forwards and connections that SetPolicy(p) would end if
// it were called now, oldest first, and ends none. As with SetPolicy, a
// forward that has no address yet is not among the forwards: it is judged by
// the policy that is in force when it has one, or ends with its connection.
func (s *Server) Preview(p *authz.Policy) (forwards, conns []Ending) {
	policy := s.policies.would(p)
	forwards = s.forwarder.preview(policy)
	for _, c := range s.connections() {
		if e, ends := c.preview(policy); ends {
			conns = append(conns, e)
		}
	}
	slices.SortFunc(conns, func(a, b Ending) int { return a.compare(&b.ForwardView) })
	return forwards, conns
}

// LiveForwards returns the forwards that are open or being opened, oldest
// first.
func (s *Server) LiveForwards() []ForwardView {
	all := []ForwardView{}
	for _, fw := range s.forwarder.live.snapshot() {
		all = append(all, fw.view())
	}
	slices.SortFunc(all, func(a, b ForwardView) int { return a.compare(&b) })
	return all
}

// preview tells which forwards rejudge would cut if by were the Authorizer.
func (f *Forwarder) preview(by Authorizer) (endings []Ending) {
	for _, fw := range f.live.snapshot() {
		fw.mu.Lock()
		if _, cause, _ := f.verdict(by, fw); cause != nil {
			endings = append(endings, Ending{fw.viewLocked(), cause.reason, cause.detail})
		}
		fw.mu.Unlock()
	}
	slices.SortFunc(endings, func(a, b Ending) int { return a.compare(&b.ForwardView) })
	return endings
}

func (v *ForwardView) compare(w *ForwardView) int {
	return cmp.Or(v.Started.Compare(w.Started), cmp.Compare(v.Forward, w.Forward), cmp.Compare(v.Conn, w.Conn))
}

// view is what is to be seen of a principal.
func (p *Principal) view(started time.Time) ForwardView {
	return ForwardView{
		Conn: p.Conn, User: p.User, Login: printable(p.Login), Key: p.Key, Source: p.Source, Started: started,
	}
}

func (fw *forward) view() ForwardView {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	return fw.viewLocked()
}

func (fw *forward) viewLocked() ForwardView {
	v := fw.principal.view(fw.started)
	v.Forward, v.Target, v.Grant = fw.id, fw.targetLocked(), fw.grant
	if addr := fw.address.Load(); addr != nil {
		v.Address = *addr
	}
	v.Open, v.Up, v.Down = fw.relaying(), fw.flow.up.Load(), fw.flow.down.Load()
	return v
}
