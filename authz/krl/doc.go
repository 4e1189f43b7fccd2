// Package krl reads OpenSSH's key revocation lists and answers whether a key
// or a certificate is in one. It only reads: lists are made with ssh-keygen,
//
//	ssh-keygen -k -f revoked.krl -s ca.pub spec    a new list
//	ssh-keygen -k -u -f revoked.krl stolen.pub     one more key in it
//	ssh-keygen -Q -l -f revoked.krl                what it holds
//
// and the same file serves sshd's RevokedKeys and this package.
//
// How an answer comes about:
//
//	file ──▶ Parse ──┬─ begins with "SSHKRL\n\0": a KRL, OpenSSH's PROTOCOL.krl
//	                 └─ else: public keys as text, one a line, '#' comments
//
//	key ──▶ Revoked: the key's fingerprints ─▶ the key          ─┐
//	         │ of a certificate, besides:                        │
//	         ├─ its key id, its serial, under its authority      ├─▶ why, true
//	         ├─ its key id, its serial, under any authority      │
//	         └─ its authority's fingerprints ─▶ authority's key ─┘
//
// A [List] never changes once parsed and may be asked by many goroutines. An
// answer takes a few look-ups, however long the list. A nil List revokes
// nothing, and so does an empty file, as for sshd: who expects revocations to
// be there asks [List.Len].
//
// # As OpenSSH does it
//
// The answers are those of ssh_krl_check_key in OpenSSH's krl.c, for a text list
// those of sshkey_in_file in its authfile.c:
//
//   - An explicit key, a fingerprint and a line of a text list name a plain key.
//     They revoke that key, every certificate of it, and every certificate that
//     it signed. The line of a certificate in a text list names its plain key.
//   - A certificate section without an authority's key is about the certificates
//     of every authority.
//   - Serial 0 is what a certificate has that was given none. It is never revoked
//     by serial, and a list that names it is refused. Its key id counts.
//   - A key id ends at its first zero byte. Within a list that must be its end.
//   - Sections may come in any order and any number, be empty, and overlap.
//   - Flags and reserved fields of the header are not looked at, since no meaning
//     of them is defined.
//   - Extensions that are not critical are skipped. No critical one is known, so
//     any is an error.
//   - Signature sections are skipped and verify nothing. PROTOCOL.krl says that
//     OpenSSH from 9.4 on refuses them; its code and its release notes ignore
//     them. What protects a list is who may write the file, which is the caller's
//     to check, or a signature of ssh-keygen -Y beside it.
//
// Everything else that is not as PROTOCOL.krl has it is an error, and then there
// is no list at all: unknown sections, bytes left over, another format version.
//
// # Otherwise than OpenSSH
//
// Entries that OpenSSH takes and that never match anything are errors here,
// because whoever wrote them believes that something is revoked: a certificate
// as an explicit key or as an authority, bytes there that do not begin as a key
// does, and control characters in a text list, which is how a damaged file looks.
// A bitmap may be longer than 16384 bits: ssh-keygen -k writes such, although
// its own reader then refuses the list.
//
// A KRL has no end mark: one that was cut off exactly between two sections reads
// as a shorter list. Replace the file by rename, as ssh-keygen does not.
package krl
