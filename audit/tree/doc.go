// Package tree holds what proves a log: the Merkle tree of RFC 6962 section
// 2.1 over its lines, signed heads of it, and the texts with which somebody
// who has only the public key checks a record or that a log only grew.
//
//	line ──Leaf──▶ leaf ──Range.Append──▶ [0,n) ──Root──▶ Head ──Sign──▶ kept elsewhere
//	                                                         │
//	    line + path ──FormatProof──▶ proof ──CheckProof──────┤
//	    old size    ──FormatAnswer─▶ answer ─CheckAnswer─────┘
//
// There is one tree over the whole log. The index of a leaf is the record's
// seq, its data the record's line without the newline. A [Range] is what of
// the tree over some leaves must be kept to go on with it, or to join it with
// its neighbours. A [Head] is the size and root of the tree at one moment,
// signed as a note in the shape of C2SP tlog-checkpoint.
//
// The package is pure: it reads no files and knows no clock. Whatever it
// parses is bounded in size and has exactly one spelling.
package tree
