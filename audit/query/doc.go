// Package query finds records in an audit log, tells the story of one forward,
// and sums up who reached what.
//
//	Query ──▶ segments that may hold it ──▶ blocks ──▶ lines with the needle ──▶ records ──▶ fn
//	           (times, an index)                        (bytes, not parsed)       (parsed, all conditions)
//
// A log is large and what is looked for in it is rare, so that lines are not
// parsed to find out that they do not fit. The writer spells everything in one
// way ([audit.Record.AppendJSON]): what has the user bob has `"user":"bob"` in
// its line, and nothing else has, as quotes within strings are escaped. Only
// lines with such a needle in them are parsed, and then judged by every
// condition of the query.
//
// The rule of reading holds here too: a segment ends where the next one begins,
// and what it holds beyond is void.
//
// Damage is told and never passed over in silence where it is seen: a line that
// was a candidate and is no record, a record at a place that is not its own,
// records that are missing at the end of a segment. But a line that was changed
// so that the needle is no longer in it is not seen. To find damage is what
// verification is for.
package query
