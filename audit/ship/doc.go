// Package ship sends the records of an audit log to a syslog receiver, such as
// a SIEM, in order and each at least once.
//
//	dir/….jsonl ──▶ audit.Follow ──▶ Message ──▶ TCP, TLS or a unix socket
//	                    ▲                              │
//	                    └────── dir/cursor.syslog ◀────┘ what was acknowledged
//
// A [Sink] reads records back from the disk once they are durable, so that a
// receiver that is slow or away costs neither memory nor the writer's time, and
// is caught up with when it is back. Where it goes on stands in the cursor, a
// file.
//
// # What at least once means
//
// Syslog has no answer from the receiver (RFC 5424 section 8.5, RFC 6587
// section 3.1). So the cursor moves over a record when the receiver's TCP has
// acknowledged its bytes, or the reader of a unix socket has taken them, and the
// connection has lived on for five seconds more: what a receiver had taken in
// that time when its connection broke is sent again, and so is all that was
// under way. A receiver may see records twice, and then a stretch of them from
// its beginning, never one out of order or with one before it left out.
//
// When the sink ends it closes its half of the connection. A receiver that then
// closes the other has read all of it, and nothing is sent again.
//
// What remains: a receiver that takes records, lives for five seconds, and
// loses them then, say from a queue in its memory, has lost them; and one that
// hangs while little is sent has its system acknowledge what it never reads.
// Sequence numbers show either, and the cursor can be set back: with the server
// stopped, write {"next":N} into it.
package ship
