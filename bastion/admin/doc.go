// Package admin is the way in which an administrator talks to a server that
// runs: JSON over HTTP on a unix socket, both ends of it. What is asked and
// answered is for those who register Handlers and make Calls.
//
//	Client.Call ─▶ socket ─────────▶ peer ──────────▶ Handler
//	               (0600, in a       (SO_PEERCRED:    (one exact
//	               folder of 0700)   root, or who     method and path)
//	                                 serves)
//
// Nobody proves anything by a password here. Who may open the socket is held
// by the file system, and who has opened it is told by the kernel: only root
// and the user that the server runs as are listened to, whatever the modes of
// the files say (unix(7), SO_PEERCRED).
//
// It is for Linux.
package admin

import "fmt"

// An Error is what a server answers to a request that it does not fulfil, and
// also what Listen fails with where somebody can do something about it. A
// Handler that returns one chooses the hint.
type Error struct {
	Message string `json:"error"`
	Hint    string `json:"hint,omitempty"` // what to do; may be empty
}

func (e *Error) Error() string { return e.Message }

func errorf(hint, format string, args ...any) *Error {
	return &Error{Message: fmt.Sprintf(format, args...), Hint: hint}
}
