// Package hostsfile reads, follows and answers from a file in the format of
// /etc/hosts, so that an administrator, or any tool that can write that format,
// says which addresses a name has:
//
//	# address   names
//	10.0.0.115  appserver appserver.corp.example
//	10.0.11.147 rds
//	10.0.11.148 rds        # several addresses: in file order, tried in turn
//
// How an answer comes about, and how a change arrives:
//
//	folder ──▶ Watch ──▶ File.Reload ──▶ Parse ──▶ *Table ──▶ File.LookupNetIP
//	events      still      refuse what     every     swapped    one table, whole,
//	and poll    again?     looks cut off   problem   in whole   for each answer
//
// A Table never changes once parsed. A File holds the table in force and swaps
// it in one step: a lookup sees the old file or the new one, never a mixture and
// never none. Both answer as *net.Resolver does, so either is a resolver.
//
// # Format
//
// As in hosts(5): an address, then one name or more, parted by blanks and tabs;
// '#' begins a comment; blank lines mean nothing. CRLF and a byte order mark are
// accepted. Stricter than most readers of hosts(5), since a line that one reader
// skips is an address that another uses, everything else is an error with its
// place: an address with a zone, a prefix length or leading zeros, an address
// without a name, control characters, and a name that is not a host name or that
// ends in a number, as an address does. Names are compared in lower case and
// without the trailing dot. An IPv4-mapped IPv6 address is the IPv4 address.
//
// # What is not taken over
//
// A file that is replaced in place is, for a moment, empty or half there. So a
// change is read only after the file has been still for the settle time, and the
// table in force stays when the replacement
//
//   - has no name in it while the table in force has some,
//   - has no newline at its end, which is how a cut-off file looks,
//   - has any error at all, or
//   - is gone, cannot be read, or changes while it is read.
//
// At [Open] there is no better table to keep. There a file without names is
// accepted, and a missing newline at the end is a warning.
//
// A writer that stops exactly at the end of a line for longer than the settle
// time cannot be told from one that has finished. Tools should write another
// file and rename it over this one.
package hostsfile
