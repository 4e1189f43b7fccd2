// Package docs holds what the documentation says in a form for programs, for
// the tests that hold the program to it.
package docs

import _ "embed"

// AuditSchema is the JSON Schema of the records of the audit log.
//
//go:embed audit.schema.json
var AuditSchema []byte
