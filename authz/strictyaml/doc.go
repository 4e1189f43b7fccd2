// Package strictyaml reads the strict subset of YAML that Sekisho's files are
// written in: mappings, lists, and plain or quoted scalars, in one document.
// Everything that YAML may read otherwise than a person does is a problem with
// a position, never a guess: tags, anchors, aliases, merge keys, duplicate
// keys, several documents, tabs as indentation, numbers with leading zeros,
// characters that an editor does not show.
//
// [Parse] gives a tree of nodes. Its readers fill variables and note problems
// on the way, so that one pass finds all of them:
//
//	root, problems := strictyaml.Parse(r, "sekisho.yaml")
//	if root == nil {
//		return problems.Err()
//	}
//	m := root.Map("name", "watch", "limits")
//	m.Require("name").String(&s.Name)
//	m.Get("watch").Bool(&s.Watch)             // absent: s.Watch keeps its default
//	l := m.Get("limits").Map("login_grace")   // absent: an empty Map
//	l.Get("login_grace").Duration(&s.LoginGrace)
//	return root.Problems().Err()
//
// A reader called on an absent (nil) node does nothing and returns false. One
// called on a node of the wrong kind notes the problem, leaves the variable
// alone and returns false. The caller must ask Problems at the end: a file is
// good only if Problems().Err() is nil then.
package strictyaml
