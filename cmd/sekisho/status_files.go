package main

import (
	"crypto/sha256"
	"fmt"
)

// A fileStatus is a file that is in force, with the content that is: the file
// may have changed since.
type fileStatus struct {
	What string `json:"what"` // the key of the settings, or "settings" themselves
	File string `json:"file"`
	Hash string `json:"hash"` // "sha256:…" of the content; of a folder, of all that counts in it
}

// files are all files that are in force. svc.reloading must be held.
func (svc *service) files() []fileStatus {
	s := svc.setup
	sum := func(sum [sha256.Size]byte) string { return fmt.Sprintf("sha256:%x", sum) }
	all := []fileStatus{
		{"settings", s.config, sum(sha256.Sum256(s.content))},
		{"policy", s.path(s.settings.Policy), s.policy.Hash()},
		{"hosts", s.path(s.settings.Hosts), sum(s.hosts.Sum())},
	}
	switch {
	case svc.unwritten: // in the file they are not
		all = append(all, fileStatus{"locks", s.path(s.settings.Locks), sum(sha256.Sum256(s.beside.locks.Text()))})
	case s.beside.locks != nil:
		all = append(all, fileStatus{"locks", s.path(s.settings.Locks), sum(s.beside.locksSum)})
	}
	for i, name := range s.settings.RevokedKeys {
		all = append(all, fileStatus{"revoked_keys", s.path(name), sum(s.beside.listSums[i])})
	}
	if dir := s.settings.AuthorizedKeysDir; dir != "" {
		all = append(all, fileStatus{"authorized_keys_dir", s.path(dir), sum(s.beside.keysSum)})
	}
	return all
}
