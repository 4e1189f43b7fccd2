// Package audit keeps the book: an append-only log of records, one JSON object
// a line, that survives crashes and says so.
//
//	Append ──▶ queue ──▶ writer ──▶ one write, one fsync ──▶ every waiter of the batch
//	 (many)    (FIFO)     (one)            │
//	                                       ▼
//	    dir/lock                               held while a Log is open
//	    dir/00000000000000000000.jsonl.zst     records 0 … 811, a segment that is closed
//	    dir/00000000000000000000.index         what cannot be in it, signed
//	    dir/00000000000000000000.heads         heads of the log up to there, signed
//	    dir/00000000000000000812.jsonl         records 812 …, the segment that is written
//	    dir/current.jsonl                      a symbolic link to that one
//	    dir/policies/9f86d081….yaml            a policy that was in force, by its hash
//	    dir/pruned                             the hashes of what retention took away, signed
//	    dir/reserve                            room for what it writes on a full disk
//	    dir/00000000000000000000.jsonl.torn-…  what a crash left half written
//
// A [Record] is one event and a [Log] is the only writer of a folder. A run,
// one life of the server process, begins with server.start and never touches
// the segments of the runs before it. Records are numbered by seq from 0
// without gaps over all runs.
//
// When [Log.Append] returns nil the record is on stable storage. Records that
// wait at the same time share one fsync. After a write or fsync has failed,
// its descriptor is not used again: the same records, with the same numbers,
// go to a new segment. This is what makes the one rule of reading necessary:
//
//	A segment ends where the next one begins. Whatever an older file holds
//	from the first seq of a newer one on is void: nobody was told that it is
//	in the log.
//
// An fsync of a file that has been removed succeeds. So the writer makes sure,
// after each batch and before it begins another segment, that the segment and the
// lock file it has open are those in the folder. A segment that is not is like one that has failed.
// Without the lock nothing is written until the same file is back.
//
// What is closed is looked after by a goroutine of its own, the keeper: it
// packs segments, writes a signed index beside each, and takes the oldest away
// when the options say so. It comes after everything else, and whatever fails
// there, no record is lost by it.
//
// [Open] cuts off what a crash left half written, keeps the cut bytes beside
// the segment, and records forwards that a dead run left open as lost. It
// makes durable what it counts, and holds it against the newest signed head:
// damage below that, or that no crash can do, stops it.
package audit
