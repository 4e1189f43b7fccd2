package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"sekisho/authz"
)

// errTold is an outcome that is no success and of which all is said already.
var errTold = errors.New("told")

func newExplain(std stdio) *cobra.Command {
	var w where
	var ask question
	var from, at, key string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain USER HOST:PORT",
		Short: "Say why a user may or may not reach a target",
		Long: `Explain decides as serve does, from the files as they are now, and prints the
path to the decision: each grant of the user, what fits and which condition fails
first, the addresses of the host and what the fence says to each.

DNS is asked only with --resolve. What is not said counts as unknown: without
--from no condition on the source holds, and without --key it is asked about the
user whatever his key, and no touch is shown. The file after --key may be a
certificate, such as id_ed25519-cert.pub.

The exit status is 0 if it is allowed and 1 if not.`,
		Example: `  sekisho explain alice rds:3306
  sekisho explain alice rds:3306 --from 203.0.113.9 --at "2027-03-31 18:30" --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("see sekisho explain --help", "explain takes a user and a target, not %d arguments", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			host, port, err := splitTarget(args[1])
			if err != nil {
				return err
			}
			ask.request = authz.Request{User: args[0], Key: authz.AnyKey, Host: host, Port: port, Time: time.Now()}
			if key != "" {
				if err := ask.readProof(key, std.in); err != nil {
					return err
				}
			}
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
			if err == nil && answer.Effect != authz.Allow {
				err = errTold
			}
			return err
		},
	}
	w.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "the `IP` address that the user connects from")
	f.StringVar(&at, "at", "", "the `time` to decide for, in the policy's zone: 2027-03-31 18:30 (default: now)")
	f.StringVar(&key, "key", "", "the `file` with the public key, or the certificate, that the user logs in with")
	f.BoolVar(&ask.resolve, "resolve", false, "ask DNS, where the server would")
	f.BoolVar(&asJSON, "json", false, "print the explanation as JSON")
	return cmd
}

// circumstances loads the files, and puts into a request what --from and --at
// say; what is not said stays as it is.
func (w *where) circumstances(cmd *cobra.Command, r *authz.Request, from, at string) (*setup, error) {
	if from != "" {
		var err error
		if r.Source, err = parseFrom(from); err != nil {
			return nil, err
		}
	}
	config, given, err := w.find(cmd, nil)
	if err != nil {
		return nil, err
	}
	s, problems := load(config, given, os.Environ())
	if problems.Err() != nil {
		return nil, &badFiles{problems}
	}
	if at != "" {
		if r.Time, err = parseTime(at, s.policy.Timezone()); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func splitTarget(s string) (host string, port uint32, err error) {
	const hint = "write it as rds:3306, 10.0.1.5:22 or [2001:db8::1]:22"
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, usagef(hint, "%q is not a host and a port", s)
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return "", 0, usagef(hint, "%q is not a port", text)
	}
	return host, uint32(n), nil
}

// parseTime reads a time in zone, unless it says its own.
func parseTime(s string, zone *time.Location) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("write it as 2027-03-31 18:30, or with its own offset as 2027-03-31T18:30:00+09:00", "%q is not a time", s)
}

// A question is what explain is asked.
type question struct {
	request authz.Request
	cert    *ssh.Certificate // that the user logs in with; nil: none
	resolve bool
}

// readProof reads the key or certificate that the user logs in with.
func (q *question) readProof(file string, stdin io.Reader) error {
	text, err := readKeyText(file, stdin)
	if err != nil {
		return err
	}
	if cert, err := parseCert(text); cert != nil || err != nil {
		q.cert = cert
		if err != nil {
			return failf("copy the whole line of the -cert.pub file again", "%s is a certificate that cannot be read: %v", file, err)
		}
		// That a signature shows a touch is wanted of a security key at the login.
		q.request.Touch = strings.HasPrefix(cert.Key.Type(), "sk-")
		return nil
	}
	keys, err := readUserKeys(file, bytes.NewReader(text))
	if err != nil {
		return err
	}
	if len(keys) != 1 {
		return failf("give a file with that one key", "%s has %s", file, many(len(keys), "key"))
	}
	q.request.Key = ssh.FingerprintSHA256(keys[0].key)
	q.request.Touch = strings.HasPrefix(keys[0].key.Type(), "sk-") // the login wants it
	return nil
}

// readKeyText reads a file of keys; the name "-" is in. A file that cannot be
// read is told of by readUserKeys, in its words.
func readKeyText(path string, in io.Reader) ([]byte, error) {
	if path == "-" {
		text, err := io.ReadAll(io.LimitReader(in, mostBytes))
		if err != nil {
			return nil, failf("", "standard input cannot be read: %v", err)
		}
		return text, nil
	}
	text, _ := readFile(path)
	return text, nil
}

// parseCert reads the one line of a -cert.pub file. It returns nothing for any
// other text.
func parseCert(text []byte) (*ssh.Certificate, error) {
	line := strings.TrimSpace(string(text))
	typ, _, _ := strings.Cut(line, " ")
	if !strings.Contains(typ, "-cert-v0") || strings.Contains(line, "\n") {
		return nil, nil
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, err
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("it is none")
	}
	return cert, nil
}

// identify finds out whose the certificate is, as a login does with the user
// as its name. The decision is the refusal, if it is one.
func (q *question) identify(policy *authz.Policy) (refused authz.Decision) {
	if q.cert == nil {
		return authz.Decision{}
	}
	id, reason, detail := policy.Identify(q.request.User, q.cert)
	if reason == "" && id.User != q.request.User { // as a login it would be accepted, but it is not about this user
		reason, detail = authz.OtherUser, fmt.Sprintf("the certificate is %s's", id.User)
	}
	if reason != "" {
		return authz.Decision{Reason: reason, Detail: detail, Policy: policy.Hash()}
	}
	q.request.Key, q.request.Cert = id.Key, id.Cert
	q.request.Touch = q.request.Touch && !id.Cert.Untouched()
	return authz.Decision{}
}

// An answer is what explain prints.
type answer struct {
	User      string            `json:"user"`
	Host      string            `json:"host"`
	Port      uint32            `json:"port"`
	Key       string            `json:"key,omitempty"`
	Cert      *certLine         `json:"certificate,omitempty"`
	Source    netip.Addr        `json:"source,omitzero"`
	Time      time.Time         `json:"time"`
	Effect    authz.Effect      `json:"effect"`
	Reason    string            `json:"reason"`
	Name      authz.Explanation `json:"name"`                // of the host and port as asked
	Addresses []judged          `json:"addresses,omitempty"` // each on its own
	Resolving string            `json:"resolving,omitempty"` // why there are no addresses
}

// A certLine is a certificate as explain and programs name it.
type certLine struct {
	KeyID     string `json:"key_id"`
	Serial    uint64 `json:"serial"`
	Authority string `json:"authority,omitempty"` // "": it was not found out whose it is
}

// judged is an address of the host, with its explanation.
type judged struct {
	Addr        netip.Addr        `json:"addr"`
	From        string            `json:"from"` // hosts, dns or request
	Explanation authz.Explanation `json:"explanation"`
}

// answer decides as a forward does: on the name, and on each of its addresses.
func (q *question) answer(ctx context.Context, s *setup) *answer {
	refused := q.identify(s.policy)
	r := q.request
	a := &answer{User: r.User, Host: r.Host, Port: r.Port, Source: r.Source, Time: r.Time}
	if q.cert != nil {
		a.Cert = &certLine{KeyID: q.cert.KeyId, Serial: q.cert.Serial}
		if r.Cert != nil {
			a.Cert.Authority = r.Cert.Authority
		}
	}
	if r.Key != authz.AnyKey {
		a.Key = r.Key
	}
	a.Name.Decision = refused
	if refused.Reason == "" {
		a.Name = s.policy.Explain(r)
	}
	d := a.Name.Decision
	a.Effect, a.Reason = d.Effect, string(d.Reason)
	if d.Effect != authz.Allow {
		return a
	}
	addrs, from, err := s.addresses(ctx, d.Host, d.Literal, d.DNS && q.resolve)
	switch {
	case err != nil && d.DNS && !q.resolve:
		a.Resolving = "the name is not in the hosts file; DNS is asked with --resolve"
		return a // allowed, as far as is known
	case err != nil:
		a.Effect, a.Reason, a.Resolving = authz.Deny, string(noSuchName), err.Error()
		return a
	}
	a.Effect, a.Reason = authz.Deny, ""
	for _, addr := range addrs {
		r.Addr = addr.Unmap()
		e := s.policy.Explain(r)
		a.Addresses = append(a.Addresses, judged{r.Addr, from, e})
		if a.Effect != authz.Allow { // the first that is allowed, else the first that is not, is what counts
			a.Effect = e.Decision.Effect
			if a.Effect == authz.Allow || a.Reason == "" {
				a.Reason = string(e.Decision.Reason)
			}
		}
	}
	return a
}

// addresses are those of a host in normal form, as a forward finds them, and
// where from.
func (s *setup) addresses(ctx context.Context, host string, literal netip.Addr, dns bool) ([]netip.Addr, string, error) {
	if literal.IsValid() {
		return []netip.Addr{literal}, "request", nil
	}
	addrs, err := s.hosts.LookupNetIP(ctx, "ip", host)
	if err == nil || !dns {
		return addrs, "hosts", err
	}
	ctx, cancel := context.WithTimeout(ctx, s.settings.Limits.DialTimeout)
	defer cancel()
	addrs, err = systemDNS.LookupNetIP(ctx, "ip", host+".")
	return addrs, "dns", err
}

// write prints the answer for a person.
func (a *answer) write(w io.Writer, zone *time.Location) error {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	source := ""
	if a.Source.IsValid() {
		source = " from " + a.Source.String()
	}
	verdict := "denied: " + reasonWords(authz.Reason(a.Reason))
	if a.Effect == authz.Allow {
		verdict = fmt.Sprintf("allowed by grant %q", a.grant())
	}
	target := net.JoinHostPort(a.Host, strconv.FormatUint(uint64(a.Port), 10))
	say("%s to %s%s at %s: %s", a.User, target, source, a.Time.In(zone).Format("2006-01-02 15:04:05 MST"), verdict)
	if detail := a.detail(); detail != "" && a.Effect != authz.Allow {
		say("  %s", detail)
	}
	if len(a.Name.Proof) > 0 {
		say("\n%s of %s:", a.proofWords(), a.User)
		writeConditions(say, "  ", a.Name.Proof)
	}
	if len(a.Name.User) > 0 {
		say("\nConditions of %s:", a.User)
		writeConditions(say, "  ", a.Name.User)
	}
	if len(a.Name.Grants) > 0 {
		say("\nGrants of %s, in file order:", a.User)
		for _, g := range a.Name.Grants {
			say("  %s %s%s", mark(g.Fits && g.Holds), g.Grant, because(cmp.Or(g.Detail, fitting(g))))
			if g.Fits {
				writeConditions(say, "      ", g.Conditions)
			}
		}
	}
	if len(a.Addresses) > 0 {
		say("\nAddresses of %s, from %s:", a.Host, placeWords[a.Addresses[0].From])
		for _, j := range a.Addresses {
			d := j.Explanation.Decision
			if d.Effect == authz.Allow {
				say("  %s %s: allowed by grant %q", mark(true), j.Addr, d.Grant)
			} else {
				say("  %s %s: %s%s", mark(false), j.Addr, reasonWords(d.Reason), because(d.Detail))
			}
		}
	} else if a.Resolving != "" {
		say("\nAddresses of %s: none are known%s", a.Host, because(a.Resolving))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// placeWords are the places that addresses come from.
var placeWords = map[string]string{"hosts": "the hosts file", "dns": "DNS", "request": "the request itself"}

// proofWords name what is asked of somebody before anything else.
func (a *answer) proofWords() string {
	switch {
	case a.Cert != nil:
		return fmt.Sprintf("Locks and certificate %q (serial %d, of %s)", a.Cert.KeyID, a.Cert.Serial, a.Cert.Authority)
	case a.Key != "":
		return "Locks and key"
	}
	return "Locks"
}

// reasonWords are a reason for an administrator: Reason.Words are for the user
// himself.
func reasonWords(r authz.Reason) string {
	switch r {
	case authz.NotFrom:
		return "not from this address"
	case authz.Excepted:
		return "this address is excepted"
	case authz.Locked:
		return "the user is locked"
	case authz.Revoked:
		return "the key or certificate is revoked"
	case authz.KeyNoForwarding:
		return "the key is not for forwarding"
	case authz.KeyNotPermitted:
		return "permitopen of the key does not name it"
	}
	return r.Words()
}

// grant is the one that allows: by the first address that is allowed, as far
// as addresses are known.
func (a *answer) grant() string {
	for _, j := range a.Addresses {
		if d := j.Explanation.Decision; d.Effect == authz.Allow {
			return d.Grant
		}
	}
	return a.Name.Decision.Grant
}

// detail is the sentence of what denies.
func (a *answer) detail() string {
	if len(a.Addresses) > 0 {
		return a.Addresses[0].Explanation.Decision.Detail
	}
	return cmp.Or(a.Name.Decision.Detail, a.Resolving)
}

func writeConditions(say func(string, ...any), indent string, steps []authz.ConditionStep) {
	for _, c := range steps {
		if c.Open {
			say("%s? %s%s", indent, c.Text, because(openWords[c.Reason]))
			continue
		}
		say("%s%s %s%s", indent, mark(c.Holds || c.Waived), c.Text, because(c.Detail))
	}
}

// openWords say on what a condition hangs that was not judged.
var openWords = map[authz.Reason]string{
	authz.NotFrom:    "hangs on the client's address",
	authz.Excepted:   "hangs on the client's address",
	authz.KeyNotFrom: "hangs on the client's address",
	authz.NeedsTouch: "hangs on the key",
	authz.Lockdown:   "hangs on the key",
}

// fitting says which target of a grant fits.
func fitting(g authz.GrantStep) string {
	for _, t := range g.Targets {
		switch {
		case t.Fits && t.Open:
			return fmt.Sprintf("target %q, if the address lies in %s", t.Target, t.Host)
		case t.Fits:
			return fmt.Sprintf("target %q has host %s, port %s", t.Target, t.Host, t.Port)
		}
	}
	return ""
}

func because(detail string) string {
	if detail == "" {
		return ""
	}
	return ": " + detail
}

func mark(good bool) string {
	if good {
		return "+"
	}
	return "-"
}
