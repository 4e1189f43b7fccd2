//go:build !unix

package bastion

const readsSockets = false

func (t *targetReader) read(uintptr) bool { return false }
