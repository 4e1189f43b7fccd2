// Package authkeys reads a file of one user's keys in the format of OpenSSH's
// authorized_keys, with its options (sshd(8), AUTHORIZED_KEYS FILE FORMAT):
//
//	# options, then the key's type, the key and a comment
//	ssh-ed25519 AAAA… alice@laptop
//	from="203.0.113.0/24,!203.0.113.9",expiry-time="20270331Z" ssh-ed25519 AAAA…
//	restrict,port-forwarding,permitopen="rds:3306" sk-ssh-ed25519@openssh.com AAAA…
//	cert-authority,principals="alice,alice-ci" ssh-ed25519 AAAA…
//
// Each line stands alone: one that cannot be used gives a problem and no
// key, and never spoils the others. An option narrows what its key may do, so
// a key whose options are not all understood and kept is refused: without the
// option it would be worth more than was meant. Problems of lines are warnings
// for the same reason: a key less takes something away.
//
// How options are meant, as sshd means them unless said:
//
//   - Names of options are read without regard to case, one after another: a
//     later port-forwarding takes back what restrict or no-port-forwarding
//     forbade, and the other way round. permitopen alone takes nothing back.
//   - from, command and principals stand once. Of several expiry-time the
//     earliest counts; several permitopen add up.
//   - from is a list of addresses, networks, and patterns with "*" and "?" that
//     are compared with the text of an address. An entry after "!" that matches
//     refuses, wherever it stands; one of the others must match. The name of a
//     client is never looked up, so a pattern of names refuses the key.
//   - expiry-time is in the zone given to Parse, or in UTC with a Z. The key is
//     refused from that instant on; sshd takes it until the second is over. A
//     time that clocks skip is the instant at which they do, and one that they
//     show twice is the first.
//   - permitopen names a host literally, or "*" for any, and a port, or "*" for
//     any. Names of services are not known here and refuse the key.
//   - command refuses sessions, since no command is run here. Forwards stay.
//   - principals without cert-authority refuses the key, as sshd does and its
//     manual does not say.
//   - verify-required refuses the key: whether a PIN was asked for is not known
//     here. A touch is always asked for, whatever no-touch-required says.
//   - Options about what is not served at all (agents, X11, terminals, rc
//     files, remote ports, tunnels) are accepted and mean nothing.
package authkeys
