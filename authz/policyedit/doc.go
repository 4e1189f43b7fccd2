// Package policyedit puts users and grants into a policy file and takes them
// out, as a careful person with an editor would: the file keeps its comments,
// its order and its style, and not one byte changes that need not. All of it is
// pure, from bytes to bytes; reading and writing files is the caller's.
//
//	content ──▶ read ──────▶ edits ─────▶ apply ──▶ check ──▶ content
//	            strictyaml   add.go       cut and   strictyaml
//	            layout.go    remove.go    insert    again
//
// Nothing is encoded anew. The tree that [strictyaml.Parse] gives says where
// things begin, layout.go where they end and what is comment, and the edit is a
// few bytes at those places. Then the new text is read, too, and its tree must
// be the old one with just that entry more or less: if anything else differs,
// there is an error and no text. So what cannot be edited in place is refused,
// with its line, and never damaged.
//
// # Where an entry goes, and how it looks
//
// A new entry goes behind the last one of its list, before the comments that
// come after it, except those that are indented deeper and so are the last
// entry's. It looks as its neighbours do: a flow mapping on one line where the
// last entry is one, and a block mapping otherwise. In a list without entries,
// most entries of the file's other lists decide. Values are quoted only where
// YAML could read them otherwise; keys always are. Where a blank line stands
// between any two entries, one stands before the new one.
//
// An entry that is removed takes with it the comment lines directly above it,
// at its own indentation and with no blank line between, and those within it or
// directly below it that are indented deeper. All others stay. Of two blank
// lines that would meet where an entry was, one goes.
//
// Not edited, and refused with the place, are files with text in the style of |
// or >, with "..." at their end, lists in brackets whose entries have no braces,
// entries whose dash begins no line, removals that would have to guess whose a
// comment in brackets is, and new keys in a file that is all in braces.
//
// # Adding, then removing
//
// To remove what was added last gives back the very same bytes, with one
// exception: where the file had no key users (or grants) at all, it has an
// empty list afterwards, "users: []", which means the same. Whether a list with
// one entry was once no list or an empty one, no file can tell.
//
// # What is not judged
//
// The result is YAML as Sekisho reads it, and the names in it are names. What
// it means is for authz.Parse to say, which the caller must ask before the text
// is put in force: that targets exist, that a key is strong enough, that hours
// are hours. A file with such errors can still be edited, so that taking access
// away never waits for something else to be mended.
package policyedit
